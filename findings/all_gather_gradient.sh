#!/usr/bin/env bash
# The gradient of torch.distributed.nn.functional.all_gather is wrong with gloo if it arrives transposed.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: the backward of all_gather hands the incoming gradients to a collective that reads their memory in order
#   and ignores their strides. What follows the all_gather decides: after a multiplication with a transposed matrix
#   the gradient is a transposed view, and each process gets the right numbers in the wrong cells.
# Seen (relative error of the gradient on the two processes):
#   weights contiguous 0.0 | the same weights as a transposed view 1.4 and 1.1
# Expected: a gradient that does not depend on memory layout. The forward calls contiguous() for its input; NCCL
#   refuses such tensors with "Tensors must be contiguous". (2.13 deprecates the function; nothing else replaces a
#   differentiable all_gather under a public name.)
# Upstream: pytorch/pytorch issue 192920 has the same fault in broadcast, scatter and reduce.
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
from torch.distributed.nn.functional import all_gather
from torch.multiprocessing import spawn


def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)
    torch.manual_seed(0)
    weights = torch.randn(6, 4)  # the same on both processes
    right = 2 * weights[3 * rank : 3 * rank + 3]  # each process adds its part
    errors = []
    for view in (weights, weights.t().contiguous().t()):  # equal numbers, other strides
        x = torch.ones(3, 4, requires_grad=True)
        (torch.cat(all_gather(x)) * view).sum().backward()
        errors.append(((x.grad - right).norm() / right.norm()).item())
    print(f"process {rank}: relative error contiguous {errors[0]:.2g}, transposed {errors[1]:.2g}", flush=True)
    torch.save(errors, f"{where}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    plain, transposed = zip(*(torch.load(f"{sys.argv[1]}/{rank}") for rank in range(2)))
    if max(plain) > 1e-6 or min(transposed) < 0.1:
        sys.exit("changed: only the transposed gradient was wrong before")
PY
timeout 200 venv/bin/python see.py "$work"
