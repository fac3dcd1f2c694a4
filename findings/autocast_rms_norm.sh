#!/usr/bin/env bash
# Under float16 autocast on a CPU, an RMSNorm written out gives zeros, and F.rms_norm ones.
#
# Versions: torch 2.13.0 (Python 3.11).
# Behavior: on CUDA, autocast runs pow in float32. On a CPU it does not: pow, mean and rsqrt stay in float16, so
#   x² of values above 256 is infinite and the normalized value 0. The built-in function accumulates in float32.
# Seen (a row of 300s, after a Linear layer under autocast):
#   x * rsqrt(mean(x²) + eps): 0.0 | torch.nn.functional.rms_norm: 1.0
# Expected: the lists of the two devices agree on what needs float32 ("CUDA Ops that can autocast to float32" names
#   pow and rsqrt; the CPU's list does not). Code tested on the one device is zero on the other, without a NaN.
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
from torch.nn import functional as F

x = torch.full((1, 64), 300.0)
with torch.autocast("cpu", torch.float16):
    h = F.linear(x, torch.eye(64))
    by_hand = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    built_in = F.rms_norm(h, (64,), eps=1e-6)
    print("types:", h.dtype, h.pow(2).dtype, h.pow(2).mean(-1).dtype)
print("by hand", by_hand[0, 0].item(), "built in", built_in[0, 0].item())
if by_hand[0, 0] != 0 or abs(built_in[0, 0].item() - 1) > 1e-2:
    sys.exit("changed: 0 and 1 before")
PY
timeout 120 venv/bin/python see.py
