#!/usr/bin/env bash
# After a validation, a sharded model shows temporary bfloat16 copies as its parameters, and changes to them are lost.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: fully_shard gathers the root module's parameters for a forward pass and lets them go in the backward pass.
#   A forward pass without gradients has none: until the next training step, model.parameters() of the root gives whole
#   Parameters in the policy's bfloat16, no DTensors. Whoever reads them (an average of weights, a norm) reads rounded
#   numbers, and whoever changes them (pruning, weight clipping) changes copies: state_dict() has the old values.
#   module.reshard() puts the slices back.
# Seen (two layers of which the second belongs to the root; all parameters set to zero after a forward under no_grad):
#   0.weight DTensor float32, 1.weight Parameter bfloat16 | state_dict after zero_(): 0.weight 0.0, 1.weight not zero
# Expected: DTensors in float32 whenever a module is at rest, as after a training step; and zeros in both.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import datetime
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.multiprocessing import spawn


def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    options = {"mesh": init_device_mesh("cpu", (2,)), "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
    fully_shard(model[0], **options)
    fully_shard(model, **options)
    with torch.no_grad():
        model(torch.ones(1, 4))
        kinds = [f"{type(p).__name__} {str(p.dtype).removeprefix('torch.')}" for p in (model[0].weight, model[1].weight)]
        for parameter in model.parameters():
            parameter.zero_()
    left = [bool(model.state_dict()[name].full_tensor().count_nonzero()) for name in ("0.weight", "1.weight")]
    again = type(model[1].weight).__name__
    print(f"process {rank}: {kinds}, weights left after zero_(): {left}, after state_dict: {again}", flush=True)
    torch.save([kinds, left, again], f"{where}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    before = [["DTensor float32", "Parameter bfloat16"], [False, True], "DTensor"]
    if any(torch.load(f"{sys.argv[1]}/{rank}") != before for rank in range(2)):
        sys.exit("changed: the root's parameters were copies before, and its weights were left")
PY
timeout 200 venv/bin/python see.py "$work"
