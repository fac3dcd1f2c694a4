"""Compare printed numbers with a tolerance: what lets a chapter show a loss that differs a little between CPUs.

A cell says with a tag by how much its numbers may differ from the stored ones: ``approx`` (2 %), ``approx-10%``, or
``approx-abs-0.01`` for small numbers. Words, whole numbers and the number of numbers have to be the same.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
TAG = re.compile(r"approx(?:-(?P<percent>\d+(?:\.\d+)?)%|-abs-(?P<absolute>\d+(?:\.\d+)?(?:e-?\d+)?))?")
DEFAULT_PERCENT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a number may be from the stored one; within either is close enough."""

    relative: float = 0.0
    absolute: float = 0.0


def read_tolerance(tags: Iterable[str]) -> Tolerance | None:
    """Return what a cell's tags allow, or None if they allow nothing.

    Raises:
        ValueError: if a tag begins with "approx" and says nothing that is known.

    Example:
        >>> read_tolerance(["approx-10%"])
        Tolerance(relative=0.1, absolute=0.0)
    """
    relative, absolute = 0.0, 0.0
    found = [tag for tag in tags if tag.startswith("approx")]
    for tag in found:
        match = TAG.fullmatch(tag)
        if match is None:
            raise ValueError(f"the tag {tag!r} is none of approx, approx-10%, approx-abs-0.01")
        if match["absolute"]:
            absolute = float(match["absolute"])
        else:
            relative = float(match["percent"] or DEFAULT_PERCENT) / 100
    return Tolerance(relative=relative, absolute=absolute) if found else None


def forgive(new: str, stored: str, tolerance: Tolerance) -> str:
    """Return the new text with every number that is close to the stored one replaced by it.

    The texts are then equal if nothing else differs. Columns may have moved: a 9.98 that becomes 10.02 is wider.

    Example:
        >>> forgive("loss 2.213 after 40 steps", "loss 2.230 after 40 steps", Tolerance(relative=0.02))
        'loss 2.230 after 40 steps'
    """
    found, wanted = NUMBER.findall(new), NUMBER.findall(stored)
    if len(found) != len(wanted):
        return new
    close = [_close(a, b, tolerance) for a, b in zip(found, wanted, strict=True)]
    if all(close) and _words(new) == _words(stored):
        return stored
    numbers = iter(b if near else a for a, b, near in zip(found, wanted, close, strict=True))
    return NUMBER.sub(lambda _: next(numbers), new)


def _close(new: str, stored: str, tolerance: Tolerance) -> bool:
    if new == stored:
        return True
    if _is_whole(new) or _is_whole(stored):
        return False
    a, b = _value(new), _value(stored)
    return abs(a - b) <= max(tolerance.relative * abs(b), tolerance.absolute)


def _is_whole(number: str) -> bool:
    return re.fullmatch(r"[-−]?[\d,]+", number) is not None


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))


def _words(text: str) -> list[str]:
    return NUMBER.sub("#", text).split()
