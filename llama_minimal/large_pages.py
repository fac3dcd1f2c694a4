"""Weights in large pages of memory.

A processor finds a number by the page that it is in. Linux deals out pages of 4 kB, so a matrix of some megabytes is
thousands of them, all over the machine's memory. In pages of 2 MB products read it up to 1.7 times as fast
(benchmarks/README.md).
"""

import ctypes
import functools
import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_PAGE = 1 << 21
_COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1: whatever the system's settings for large pages are


def use_large_pages(tensors: Iterable[Tensor]) -> None:
    """Ask Linux to move what tensors of the CPU hold into pages of 2 MB; where it cannot, nothing changes.

    Addresses and numbers stay. It takes a second for half a gigabyte, and next to nothing once they are there.
    """
    if (madvise := _madvise()) is None:
        return
    places = sorted(
        (storage.data_ptr(), storage.data_ptr() + storage.nbytes())
        for storage in (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    )
    spans: list[list[int]] = []
    for start, end in places:
        start, end = start // _PAGE * _PAGE, -(-end // _PAGE) * _PAGE
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    for start, end in spans:
        madvise(start, end - start, _COLLAPSE)


@functools.cache
def _madvise() -> Any:
    """Return madvise(address, bytes, advice); None where the system is not Linux."""
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise
