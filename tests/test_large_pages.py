"""Weights in large pages: the same numbers at the same addresses, wherever the system can, and nowhere an error."""

import re
import sys
from pathlib import Path

import pytest
import torch

from llama_minimal import large_pages
from llama_minimal.large_pages import use_large_pages

MB = 1 << 20
MAPS = Path("/proc/self/smaps")


def in_large_pages(tensor):
    """Count the bytes in large pages of the part of memory in which a tensor begins."""
    for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", MAPS.read_text()):
        start, end = (int(at, 16) for at in part.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return int(re.search(r"AnonHugePages:\s+(\d+) kB", part)[1]) * 1024
    raise AssertionError("the tensor is nowhere")


def test_numbers_and_addresses_stay():
    tensors = [torch.randn(n) for n in (10, 70_000, 700_000, 9_000_000)]
    tensors += [tensors[-1][5:], tensors[-1].view(3_000, 3_000).t(), torch.empty(0), torch.empty(2, device="meta")]
    before = [tensor.clone() for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    for _ in range(2):
        use_large_pages(tensors)
    assert [tensor.data_ptr() for tensor in tensors] == places
    assert all(a.equal(b) for a, b in zip(tensors, before, strict=True) if a.device.type == "cpu")


def test_a_matrix_of_many_megabytes_is_in_large_pages_where_the_system_has_them():
    matrix = torch.ones(64 * MB // 4)
    asked, large_pages_of = [], large_pages._madvise()
    if large_pages_of is None:
        assert sys.platform != "linux"
        return use_large_pages([matrix])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_pages, "_madvise", lambda: lambda *span: asked.append((span, large_pages_of(*span))))
        use_large_pages([matrix])
    (((start, size, _), status),) = asked
    assert start % (2 * MB) == size % (2 * MB) == 0
    assert start <= matrix.data_ptr()
    assert start + size >= matrix.data_ptr() + 64 * MB
    assert status or in_large_pages(matrix) >= 60 * MB  # an older kernel refuses


def test_neighbors_are_one_span_and_strangers_are_let_be():
    whole = torch.ones(40 * MB // 4)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_pages, "_madvise", lambda: lambda *span: asked.append(span))
        use_large_pages([torch.frombuffer(whole.numpy()[at : at + MB], dtype=torch.float32) for at in (0, MB, 8 * MB)])
    assert len(asked) == 2
    assert all(size <= 12 * MB for _, size, _ in asked)  # 8 and 4, and what is left of a page


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    large_pages._madvise.cache_clear()
    try:
        assert large_pages._madvise() is None
        use_large_pages([torch.ones(MB)])
    finally:
        large_pages._madvise.cache_clear()
