#!/usr/bin/env bash
# Loading an optimizer's state casts every tensor in it to the parameter's type, counters and bytes included.
#
# Versions: torch 2.13.0 (Python 3.11).
# Behavior: Optimizer.load_state_dict keeps the type of a state named "step" only. Beside a bfloat16 parameter, a
#   float32 average becomes bfloat16, and an int64 counter or a packed uint8 state becomes bfloat16 as well.
# Seen:
#   saved count 1000001 (int64), average 1.001 (float32); loaded 999424 (bfloat16), 1.0 (bfloat16)
# Expected: what was saved. A resumed run of an optimizer that keeps float32 moments for bfloat16 weights goes on with
#   rounded ones, and its state_dict is no longer what was loaded. The documentation of load_state_dict says nothing.
# Upstream: pytorch/pytorch issue 43706.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import copy
import sys

import torch


class Counting(torch.optim.SGD):
    """An optimizer with a float32 average and an integer count for each parameter."""

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {"average": torch.tensor(1.001), "count": torch.tensor(1_000_001)}


optimizer = Counting([torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))], lr=0.1)
optimizer.step()
saved = copy.deepcopy(optimizer.state_dict())
optimizer.load_state_dict(saved)
before, after = saved["state"][0], optimizer.state_dict()["state"][0]
for name in before:
    print(f"{name}: saved {before[name].item()} {before[name].dtype}, loaded {after[name].item()} {after[name].dtype}")
if after["count"].item() != 999424 or after["average"].dtype != torch.bfloat16:
    sys.exit("changed: both became bfloat16 before")
PY
timeout 120 venv/bin/python see.py
