#!/usr/bin/env bash
# After functional_call a layer that has two names keeps the tensors it was called with, and its weights are gone.
#
# Versions: torch 2.13.0 (Python 3.11, CPU).
# Behavior: with the default tie_weights=True, torch.func.functional_call fills every name of a parameter. Where two
#   names lead to one module (a layer that is used twice), the second filling takes the first one's tensor for the
#   original, and puts that back in the end.
# Seen (one linear layer under two names, called with zeros):
#   before 3.0 Parameter, after 0.0 Tensor, parameters to train: 1, of them nn.Parameter: 0
# Expected: a model that is as it was before the call, as the documentation of a functional call promises. Nothing is
#   said, and an optimizer made before goes on with weights that the model no longer reads.
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
from torch import nn
from torch.func import functional_call

layer = nn.Linear(1, 1, bias=False)
nn.init.constant_(layer.weight, 3.0)
model = nn.Sequential(layer, layer)
before = layer.weight
zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
functional_call(model, zeros, torch.ones(1, 1))
after = layer.weight
kinds = [isinstance(p, nn.Parameter) for p in model.parameters()]
print(
    f"before {before.item()} {type(before).__name__}, after {after.item()} {type(after).__name__}, "
    f"parameters to train: {len(kinds)}, of them nn.Parameter: {sum(kinds)}"
)
if after is before or after.item() != 0:
    sys.exit("changed: the layer had lost its weight before")
other = nn.Sequential(*2 * [nn.Linear(1, 1, bias=False)])
weight = other[0].weight
functional_call(other, {"0.weight": torch.zeros(1, 1)}, torch.ones(1, 1), tie_weights=False)
if other[0].weight is not weight:
    sys.exit("changed: with tie_weights=False the weight was kept before")
PY
timeout 120 venv/bin/python see.py
