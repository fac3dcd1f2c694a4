#!/usr/bin/env bash
# A compiled step that writes to slices of one tensor copies the whole tensor for each of them.
#
# Versions: torch 2.13.0 (Python 3.11, CPU with g++).
# Behavior: a step that stores a row in `cache[layer]` of a tensor (24, 4096, 256), layer by layer, as a key/value cache of
#   24 layers would, takes a fraction of a millisecond in eager mode. Compiled, it takes some thousand times as long: each
#   of the 24 writes becomes a copy of all 100 MB. With 24 tensors in a list, the compiled step is the faster one.
# Seen (one thread, medians of 8):
#   eager: one tensor 0.29 ms, a list 0.18 ms
#   compiled: one tensor 429.46 ms, a list 0.06 ms
# Expected: writing to a part of a tensor touches that part, compiled as in eager mode.
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

torch.set_num_threads(1)
L, S, D = 24, 4096, 256


def write(cache, row, slot):
    total = 0
    for layer in range(L):
        cache[layer].index_copy_(0, slot, row + layer)
        total = total + cache[layer][:1].sum()
    return total


def milliseconds(step, cache):
    times = []
    for i in range(12):
        slot = torch.tensor([i])
        start = time.perf_counter()
        step(cache, torch.ones(1, D), slot)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[4:])  # the first ones compile


seen = {}
with torch.inference_mode():
    for name, step in (("eager", write), ("compiled", torch.compile(write, dynamic=False))):
        one = milliseconds(step, torch.zeros(L, S, D))
        many = milliseconds(step, [torch.zeros(S, D) for _ in range(L)])
        seen[name] = one / many
        print(f"{name}: one tensor {one:.2f} ms, a list {many:.2f} ms")
if seen["compiled"] < 20 or seen["eager"] > 10:
    sys.exit("changed: compiled, one tensor took at least twenty times as long as a list before, and not in eager mode")
PY
timeout 300 venv/bin/python see.py
