#!/usr/bin/env bash
# Processes that torchrun starts again find what those before them had written in the store.
#
# Versions: torch 2.13.0 (Python 3.11, gloo, 1 process).
# Behavior: `torchrun --standalone --max-restarts 1` keeps one TCPStore for all starts, and nothing in the keys says which
#   start they belong to. A new rank that is quick reads the address of a rank that has been killed, and
#   init_process_group fails with "Connection refused" (here in about one restart in three on a busy machine).
# Seen:
#   start 0 finds nothing; start 1 finds an address of start 0
#   with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: start 0 finds nothing; start 1 finds nothing
# Expected: an empty store for each start. A comment in torch/distributed/rendezvous.py says that it is so.
# Upstream: pytorch/pytorch issue 135712 (closed; its switch is the second case here).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import os
import subprocess
import sys
from datetime import timedelta

import torch.distributed as dist


def rank():
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    start = os.environ["TORCHELASTIC_RESTART_COUNT"]
    shared = os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    store = dist.TCPStore(address, port, is_master=not shared, timeout=timedelta(seconds=60))
    found = store.get("address").decode() if store.check(["address"]) else "nothing"
    print(f"start {start} finds {found}", flush=True)
    store.set("address", f"an address of start {start}")
    sys.exit(start == "0")


def restarted(switch):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1", __file__, "rank"]
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": switch}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    print(f"switch {switch}: " + done.stdout.strip().replace("\n", "; "))
    return "start 1 finds an address of start 0" in done.stdout


if sys.argv[1:] == ["rank"]:
    rank()
if [restarted("0"), restarted("1")] != [True, False]:
    sys.exit("changed: the second start found the first one's address unless the switch was set")
PY
timeout 200 venv/bin/python see.py
