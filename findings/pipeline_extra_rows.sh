#!/usr/bin/env bash
# A pipeline of torch.distributed.pipelining returns 8 rows for a batch of 6.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: 6 rows in 4 micro-batches are cut into 2 + 2 + 1 + 1. The later stage receives all four in buffers of 2
#   rows, the shape of the first, so the short ones arrive with a row of memory that nobody wrote, and the output has
#   8 rows with the right ones in between. The same happens to a shorter last batch with a schedule that has seen a
#   longer one: 4 rows in, 8 out. No error with the loss either, if it does not compare shapes.
# Seen:
#   batch of 6: output of 8 rows, rows 1-5 and 7 are right | batch of 4 after one of 8: output of 8 rows
# Expected: 6 rows, or a ValueError. step() is documented to cut the batch into micro-batches "automatically", with no
#   condition on the number of rows.
# Upstream: pytorch/pytorch issue 126600 is closed.
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
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.multiprocessing import spawn


def layer(rank):
    torch.manual_seed(rank)
    return nn.Linear(4, 4)


@torch.no_grad()
def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)

    def schedule():
        return ScheduleGPipe(PipelineStage(layer(rank), rank, 2, torch.device("cpu")), n_microbatches=4)

    torch.manual_seed(9)
    x = torch.randn(8, 4)
    fresh, used = schedule(), schedule()
    runs = [(fresh, x[:6]), (used, x), (used, x[:4])]
    outputs = [s.step(batch) if rank == 0 else s.step() for s, batch in runs]
    if rank == 1:
        for (_, batch), output in zip(runs, outputs):
            right = layer(1)(layer(0)(batch))
            places = [i for i, row in enumerate(output, 1) if any(torch.allclose(row, r, atol=1e-6) for r in right)]
            print(f"{len(batch)} rows in, {len(output)} rows out; right are the rows {places}", flush=True)
        torch.save([len(output) for output in outputs], f"{where}/rows")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    if torch.load(f"{sys.argv[1]}/rows") != [8, 8, 8]:
        sys.exit("changed: 8 rows came out of 6, 8 and 4 before")
PY
timeout 200 venv/bin/python see.py "$work"
