#!/usr/bin/env bash
# Weights tied on the meta device come apart in to_empty(), and in load_state_dict(assign=True).
#
# Versions: torch 2.13.0 (Python 3.11).
# Behavior: Module.to() keeps a parameter that two modules share; to_empty(), the documented way off the meta device,
#   gives each its own memory. Loading a state dict with assign=True and two equal tensors (what a file gives) does
#   the same. Both names are in the state dict before and after, so nothing looks missing.
# Seen (is the head's weight the embedding's?):
#   to(bfloat16) True | to_empty False | load_state_dict True | load_state_dict(assign=True) False
# Expected: ties kept, as in to(), or a warning. The model trains with twice the parameters for that matrix, and the
#   two drift apart.
# Upstream: seen by others downstream, for example pytorch/torchtitan issue 2252.
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


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight


def tied(model):
    return model.head.weight is model.embedding.weight


with torch.device("meta"):
    meta = Tied()
assert tied(meta)
copied, assigned = Tied(), Tied()
copied.load_state_dict({name: tensor.clone() for name, tensor in copied.state_dict().items()})
assigned.load_state_dict({name: tensor.clone() for name, tensor in assigned.state_dict().items()}, assign=True)
seen = {
    "to(bfloat16)": tied(Tied().to(torch.bfloat16)),
    "to_empty": tied(meta.to_empty(device="cpu")),
    "load_state_dict": tied(copied),
    "load_state_dict(assign=True)": tied(assigned),
}
for name, is_tied in seen.items():
    print(f"{name}: {'still tied' if is_tied else 'untied'}")
if list(seen.values()) != [True, False, True, False]:
    sys.exit("changed: to_empty and assign=True untied before, the others not")
PY
timeout 120 venv/bin/python see.py
