#!/usr/bin/env bash
# Attention of one query takes several times as long in bfloat16 as in float32 on a CPU.
#
# Versions: torch 2.13.0 (Python 3.11, CPU: an AMD EPYC with AVX-512 and bfloat16 instructions, 2 threads).
# Behavior: `scaled_dot_product_attention` with one query per row, as in every step of writing text, is faster if
#   keys and values are first copied to float32 than on the bfloat16 ones: half the bytes, and several times the time.
#   With as many queries as keys the two are within a factor of two.
# Seen (8 rows, 12 heads of 64, 512 keys): 2430 microseconds in bfloat16, 564 with a copy to float32 in each call, 387
#   in float32.
# Expected: reading half as much takes no longer. A key/value cache in bfloat16, which saves memory, costs most of the
#   time of a step here; keeping it in float32 makes writing faster.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(2)
q, k, v = (torch.randn(8, 12, n, 64, dtype=torch.bfloat16) for n in (1, 512, 512))
wide = [x.float() for x in (q, k, v)]
ways = {
    "bfloat16": lambda: F.scaled_dot_product_attention(q, k, v),
    "copied to float32": lambda: F.scaled_dot_product_attention(q.float(), k.float(), v.float()),
    "float32": lambda: F.scaled_dot_product_attention(*wide),
}
taken = {name: [] for name in ways}
with torch.inference_mode():
    for _ in range(60):
        for name, attend in ways.items():
            start = time.perf_counter()
            attend()
            taken[name].append(time.perf_counter() - start)
median = {name: statistics.median(values[10:]) for name, values in taken.items()}
print({name: f"{seconds * 1e6:.0f} microseconds" for name, seconds in median.items()})
if median["bfloat16"] < 1.5 * median["copied to float32"]:
    sys.exit("changed: bfloat16 took more than 1.5 times as long as a copy to float32 before")
PY
timeout 120 venv/bin/python see.py
