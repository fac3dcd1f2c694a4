#!/usr/bin/env bash
# With one seed, torch.randn(15) is no beginning of torch.randn(16), nor that one of torch.randn(17).
#
# Versions: torch 2.13.0 (Python 3.11, CPU).
# Behavior: on a CPU, fewer than 16 normal numbers are drawn one by one, 16 or more in blocks, and if the size is no
#   multiple of 16 the last 16 are drawn again. torch.rand has no such steps.
# Seen (first number with seed 0):
#   randn(15) 1.541 | randn(16) -1.126; rand(15) and rand(16) both begin with 0.496
# Expected: a prefix, as NumPy's generators and torch.rand give. A vocabulary with one more row, or a batch with one
#   more example, otherwise changes numbers that have nothing to do with it. The notes on reproducibility name
#   releases, platforms and devices, not sizes.
# Upstream: pytorch/pytorch issue 80202.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import numpy as np
import torch


def prefix(draw, short, long):
    torch.manual_seed(0)
    a = draw(short)
    torch.manual_seed(0)
    return bool((torch.as_tensor(a) == torch.as_tensor(draw(long)[:short])).all())


for n in (1, 15, 16):
    torch.manual_seed(0)
    print(f"randn({n})[0] = {torch.randn(n)[0].item():.4f}")
pairs = [(15, 16), (16, 17), (16, 32)]
seen = {name: [prefix(draw, *pair) for pair in pairs] for name, draw in {
    "torch.randn": torch.randn,
    "torch.rand": torch.rand,
    "numpy normal": lambda n: np.random.default_rng(0).normal(size=n),
}.items()}
for name, prefixes in seen.items():
    print(f"{name}: is n the beginning of m? {dict(zip(pairs, prefixes))}")
if any(seen["torch.randn"][:2]) or not all(seen["torch.rand"][:2] + seen["numpy normal"]):
    sys.exit("changed: randn alone had no prefixes before")
PY
timeout 120 venv/bin/python see.py
