#!/usr/bin/env bash
# Infinity becomes 448 in torch.float8_e4m3fn, and so an overflow looks like a good number.
#
# Versions: torch 2.13.0 (Python 3.11, CPU).
# Behavior: the format has NaN but no infinity. The cast saturates: values above 448 become 448, and infinity too. The
#   sibling float8_e5m2 keeps infinity, and makes one of a value too large.
# Seen:
#   e4m3fn: 1000 -> 448, inf -> 448, nan -> nan | e5m2: 1e6 -> inf, inf -> inf, nan -> nan
# Expected: NaN for infinity (Micikevicius et al. 2022, FP8 Formats for Deep Learning: special values of the wider
#   format become special values; saturation is for finite ones). A check for isfinite() after the cast finds nothing.
# Upstream: pytorch/pytorch pull request 178817 brought the saturation to the CPU; its title speaks of finite values.
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

values = torch.tensor([1.0, 1000.0, 1e6, float("inf"), float("nan")])
cast = {dtype: values.to(dtype).float() for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)}
for dtype, back in cast.items():
    print(dtype, dict(zip(values.tolist(), back.tolist())))
if cast[torch.float8_e4m3fn][3] != 448 or cast[torch.float8_e5m2][3] != float("inf"):
    sys.exit("changed: infinity was 448 in e4m3fn before")
PY
timeout 120 venv/bin/python see.py
