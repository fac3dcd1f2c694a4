"""Let cells tagged ``approx``, ``approx-10%`` print numbers that differ a bit from the stored."""

import copy

import pytest

from llama_minimal.course.tolerance import Tolerance, forgive, read_tolerance


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Wrap the comparison of a notebook's cell, where its tags ask for it."""
    compare = getattr(item, "compare_outputs", None)
    tolerance = read_tolerance(item.cell.metadata.get("tags", ())) if compare else None
    if tolerance:

        def compare_outputs(new: list[dict], stored: list[dict], *skipped: object) -> bool:
            return compare(_forgiven(new, stored, tolerance), stored, *skipped)

        item.compare_outputs = compare_outputs


def _forgiven(new: list[dict], stored: list[dict], tolerance: Tolerance) -> list[dict]:
    result = copy.deepcopy(new)
    for ours, theirs in zip(result, stored, strict=False):
        shown = (ours.get("data", {}), theirs.get("data", {}), "text/plain")
        for a, b, key in ((ours, theirs, "text"), shown):
            if isinstance(a.get(key), str) and isinstance(b.get(key), str):
                a[key] = forgive(a[key], b[key], tolerance)
    return result
