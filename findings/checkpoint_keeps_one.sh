#!/usr/bin/env bash
# A distributed checkpoint keeps one process's numbers where each process saved its own.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 2 processes).
# Behavior: torch.distributed.checkpoint.save takes a state dict per process. Of plain values and plain tensors under
#   the same key it writes one, whichever the planner picks, and load() gives that one to every process. The state of
#   a random generator and the place in the data are such values, and usually differ.
# Seen (process r saves cursor 100 r + 7 and the state of a generator seeded with r):
#   both load cursor 7, process 0's, and generator 1, process 1's (in another run 107 and 1)
# Expected: to get back what was saved, or an error that the copies differ. The documentation of save() says that each
#   process writes its own shards, and nothing of other values. The pair that comes back was nobody's.
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
import torch.distributed.checkpoint as dcp
from torch.multiprocessing import spawn


def work(rank, where):
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2, timeout=limit)
    mine = {"cursor": 100 * rank + 7, "generator": torch.Generator().manual_seed(rank).get_state()}
    dcp.save(mine, checkpoint_id=f"{where}/checkpoint")
    loaded = {"cursor": -1, "generator": torch.Generator().manual_seed(99).get_state()}
    dcp.load(loaded, checkpoint_id=f"{where}/checkpoint")
    seeds = [s for s in range(2) if torch.equal(loaded["generator"], torch.Generator().manual_seed(s).get_state())]
    saved = f"saved cursor {mine['cursor']} and seed {rank}"
    print(f"process {rank}: {saved}, loaded cursor {loaded['cursor']} and seed {seeds}", flush=True)
    torch.save([loaded["cursor"], seeds], f"{where}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1],), nprocs=2)
    first, second = (torch.load(f"{sys.argv[1]}/{rank}") for rank in range(2))
    if first != second:
        sys.exit("changed: both processes loaded the same before")
PY
timeout 200 venv/bin/python see.py "$work"
