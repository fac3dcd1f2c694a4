#!/usr/bin/env bash
# The error of a distributed checkpoint passes through "except Exception".
#
# Versions: torch 2.13.0 (Python 3.11, CPU, one process).
# Behavior: torch.distributed.checkpoint reports what went wrong on any process as CheckpointException, which derives
#   from BaseException, as KeyboardInterrupt does. A program that tries the newest checkpoint, and goes back to an older
#   one on `except Exception`, ends instead; so does one that logs the error and goes on. The original error (here a
#   missing key, and a tensor of another shape) is inside, in `failures`, by rank.
# Seen (a checkpoint of {"a": ones(3)}; loaded into {"a", "b"}, and into a tensor of four numbers):
#   missing key: CheckpointException, caught by except Exception: False | other shape: the same
# Expected: an Exception, as torch.load raises for a damaged file.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys
import warnings

import torch
import torch.distributed.checkpoint as checkpoint

warnings.simplefilter("ignore")  # torch.distributed is not running
folder = sys.argv[1]
checkpoint.save({"a": torch.ones(3)}, checkpoint_id=folder, no_dist=True)
wishes = {
    "missing key": {"a": torch.zeros(3), "b": torch.zeros(2)},
    "other shape": {"a": torch.zeros(4)},
}
caught = []
for name, wish in wishes.items():
    try:
        checkpoint.load(wish, checkpoint_id=folder, no_dist=True)
    except BaseException as error:
        caught.append((type(error).__name__, isinstance(error, Exception)))
        print(f"{name}: {type(error).__name__}, caught by except Exception: {isinstance(error, Exception)}")
if caught != [("CheckpointException", False)] * 2:
    sys.exit("changed: both were no Exception before")
PY
timeout 200 venv/bin/python see.py "$work/saved"
