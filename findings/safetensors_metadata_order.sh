#!/usr/bin/env bash
# The same tensors and metadata, saved twice with safetensors, give two different files.
#
# Versions: safetensors 0.8.0, numpy 2.4.6 (Python 3.11).
# Behavior: the entries of the metadata stand in the header in random order, so with two or more of them the bytes
#   of the file change from one call to the next, in the same process too.
# Seen:
#   1 entry: 1 distinct file in 20 saves
#   6 entries: 19 distinct files in 20 saves
# Expected: one file. The tensors' own names are written in a fixed order, and checkpoints are known by their hashes.
# Upstream: safetensors/safetensors issue 584.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > see.py <<'PY'
import hashlib
import sys

import numpy as np
from safetensors.numpy import save

tensors = {"b": np.ones(2), "a": np.zeros(3)}
distinct = {}
for keys in ("f", "format"):
    metadata = {key: key for key in keys}
    distinct[len(metadata)] = len({hashlib.sha256(save(tensors, metadata=metadata)).digest() for _ in range(20)})
    print(f"{len(metadata)} entries: {distinct[len(metadata)]} distinct files in 20 saves")
if not distinct[1] == 1 < distinct[6]:
    sys.exit("changed: files with several metadata entries differed before")
PY
timeout 60 venv/bin/python see.py
