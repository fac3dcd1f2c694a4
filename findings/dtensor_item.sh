#!/usr/bin/env bash
# item(), float() and bool() of a reduced DTensor give each process its own number.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: the sum, mean, maximum or any() of a sharded DTensor is "partial": each process has the result of its own
#   part, and item() returns that. full_tensor() adds the parts up. So `if gradient.isnan().any():` takes
#   different branches on different processes, and the next collective waits for ever.
# Seen (0 ... 7 over two processes; sum, maximum, any above 6):
#   process 0: 6.0, 3.0, False | process 1: 22.0, 7.0, True | full_tensor of the sum: 28.0 on both
# Expected: 28.0, 7.0 and True on both. A DTensor is documented as one global tensor, and torch.equal() does reduce.
# Upstream: pytorch/pytorch issue 166638.
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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing import spawn


def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)
    x = distribute_tensor(torch.arange(8.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    seen = [x.sum().item(), float(x.max()), bool((x > 6).any()), x.sum().full_tensor().item()]
    print(f"process {rank}: sum {seen[0]}, maximum {seen[1]}, any above 6 {seen[2]}, full sum {seen[3]}", flush=True)
    torch.save(seen, f"{where}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    if [torch.load(f"{sys.argv[1]}/{rank}") for rank in range(2)] != [[6, 3, False, 28], [22, 7, True, 28]]:
        sys.exit("changed: each process had its own numbers before")
PY
timeout 200 venv/bin/python see.py "$work"
