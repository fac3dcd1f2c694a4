#!/usr/bin/env bash
# safetensors.numpy saves a transposed array with its numbers in the wrong places.
#
# Versions: safetensors 0.8.0, numpy 2.4.6 (Python 3.11).
# Behavior: save() and save_file() write the bytes in memory order, but the shape of the array. Every array that
#   is not C-contiguous (a transpose, Fortran order) comes back with other values in its cells. No error, no warning.
# Seen:
#   saved [[0, 3], [1, 4], [2, 5]], loaded [[0, 1], [2, 3], [4, 5]]
# Expected: the same array, or a refusal. safetensors.torch refuses tensors that are not contiguous, with a sentence;
#   the format's documentation says that tensors lie in C order; and 0.7.0 copied such arrays first.
# Upstream: safetensors/safetensors issue 825.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import numpy as np
from safetensors.numpy import load, save

plain = np.arange(6, dtype=np.float32).reshape(2, 3)
wrong = 0
for name, array in {"C order": plain, "transpose": plain.T, "Fortran order": np.asfortranarray(plain)}.items():
    back = load(save({"x": array}))["x"]
    print(f"{name}: saved {array.tolist()}, loaded {back.tolist()}")
    wrong += not np.array_equal(array, back)
if wrong != 2:
    sys.exit("changed: both arrays out of C order came back wrong before")
PY
timeout 60 venv/bin/python see.py
