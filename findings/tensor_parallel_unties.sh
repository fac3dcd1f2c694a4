#!/usr/bin/env bash
# parallelize_module unties embedding and output: the first loss is exact, the later ones are not.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: each module of the plan gets DTensor parameters of its own, so a matrix that two modules shared is two
#   matrices afterwards. They start equal, and the forward agrees with one process; from the first step on they are
#   trained apart. Tying them again after the call mends it.
# Seen (loss of a tied model at steps 0 and 3):
#   one process 5.433, 4.193 | two processes 5.433, 4.754
# Expected: the tie kept, since both modules shard it the same way (by rows of the vocabulary), or an error as
#   fully_shard() gives for a parameter in two groups.
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
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing import spawn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight

    def losses(self, steps):
        ids, optimizer = torch.arange(8), torch.optim.SGD(self.parameters(), lr=0.1)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(self.head(self.embedding(ids)), ids.flip(0))
            yield loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    losses = [list(Tied().losses(4))]
    for again in (False, True):
        model = parallelize_module(Tied(), init_device_mesh("cpu", (2,)), plan)
        if again:
            model.head.weight = model.embedding.weight
        losses.append(list(model.losses(4)))
    if rank == 0:
        for name, values in zip(("one process", "two processes", "two, tied again"), losses):
            print(name, [round(value, 3) for value in values], flush=True)
        torch.save(losses, f"{where}/losses")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    one, two, again = torch.load(f"{sys.argv[1]}/losses")
    if abs(one[0] - two[0]) > 1e-5 or abs(one[3] - two[3]) < 0.1 or max(abs(a - b) for a, b in zip(one, again)) > 1e-4:
        sys.exit("changed: equal at first, apart after three steps, mended by tying again before")
PY
timeout 200 venv/bin/python see.py "$work"
