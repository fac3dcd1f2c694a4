#!/usr/bin/env bash
# AdamW on float16 parameters makes all of them minus infinity in the first step.
#
# Versions: torch 2.13.0 (Python 3.11, CPU).
# Behavior: the default AdamW computes in the parameters' type. For a gradient of 1e-4 the second moment 1e-11
#   underflows to 0, and so does eps = 1e-8, whose smallest float16 neighbor is 6e-8: the step is m / (0 + 0). The
#   fused kernel, which is one flag away, computes in float32 inside and is right.
# Seen (parameters 1, lr 1e-3):
#   for loop -inf, foreach -inf, fused 0.999
# Expected: the same step from three implementations of one formula, or a refusal. The default eps cannot be
#   written in the type of the parameters, and the loss is NaN only one step later.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import torch

after = {}
for kind in ({"foreach": False}, {"foreach": True}, {"fused": True}):
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, **kind)
    parameter.grad = torch.full_like(parameter, 1e-4)
    optimizer.step()
    after[str(kind)] = parameter[0].item()
    print(kind, after[str(kind)])
loop, foreach, fused = after.values()
if not (loop == foreach == -float("inf") and abs(fused - 0.999) < 1e-3):
    sys.exit("changed: two of three were minus infinity before")
PY
timeout 120 venv/bin/python see.py
