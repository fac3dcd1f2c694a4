"""Predicates on what kind of thing an answer is; and the parts of an answer that consists of several arrays."""

from collections.abc import Iterator, Sequence
from types import GeneratorType
from typing import Any

import numpy as np

from llama_minimal.course.exercises.comparing import all_equal, array, equal
from llama_minimal.course.exercises.wording import ORDINALS, counted

Many = Sequence[Any]


def several(given: Many, wanted: Many, tolerance: float) -> str:
    """A pair where one value is due, and the right one is in it."""
    if not all(isinstance(a, tuple) and not isinstance(b, tuple) for a, b in zip(given, wanted, strict=True)):
        return ""
    for i in range(min(map(len, given))):
        if all_equal([a[i] for a in given], wanted, tolerance):
            found = counted(len(given[0]), "value")
            return f"it returns {found}, of which the {ORDINALS.get(i, f'{i + 1}th')} is right; return that alone"
    return ""


def wrapped(given: Many, wanted: Many, tolerance: float) -> str:
    """A list around the right answer."""
    inside = [a[0] if isinstance(a, list | tuple) and len(a) == 1 else None for a in given]
    return "it is right, but in a list of its own: take it out" if all_equal(inside, wanted, tolerance) else ""


def unfinished(given: Many, wanted: Many, tolerance: float) -> str:
    """A generator, a function, a dictionary or text instead of numbers."""
    first, pairs = given[0], list(zip(given, wanted, strict=True))
    if isinstance(first, GeneratorType | map | zip | filter | range):
        return f"it gives a {type(first).__name__}, which has not been run yet: make a list of it, list(…)"
    if any(array(a) is not None and array(a).dtype.kind == "c" and not np.iscomplexobj(b) for a, b in pairs):
        return "it gives complex numbers: is there a root, or a power, of a negative number?"
    if isinstance(first, list | tuple) and any(map(_holds_functions, first)):
        return "it gives a list with functions in it, which have not been called yet"
    if callable(first):
        return "it gives a function, which has not been called yet: are its parentheses missing?"
    if isinstance(first, dict | set | frozenset):
        return f"it gives a {type(first).__name__}; give an array, a list or a number"
    if isinstance(first, str) and not isinstance(wanted[0], str):
        return f"it gives text, {first[:40]!r}; give numbers"
    return ""


def exchanged(given: Many, wanted: Many, tolerance: float) -> str:
    """The right parts in another order."""
    if not all(_has_arrays(b) and _fits(a, b) for a, b in zip(given, wanted, strict=True)):
        return ""
    if all_equal([tuple(a[::-1]) for a in given], wanted, tolerance):
        return "the results are right, but in reverse order"
    return ""


KINDS = (several, wrapped, unfinished, exchanged)


def parts(given: Many, wanted: Many, tolerance: float) -> Iterator[tuple[str, list, list, int | None]]:
    """Go through the arrays that are to be compared: what to say first, what was given, what is right, which part.

    A list of numbers is one array. Of several arrays those come that are wrong in every case, until one is explained.
    """
    if all(_has_arrays(b) and _fits(a, b) for a, b in zip(given, wanted, strict=True)):
        n = len(wanted[0])
        columns = [[(array(a[i]), np.asarray(b[i])) for a, b in zip(given, wanted, strict=True)] for i in range(n)]
        wrong = [i for i in range(n) if any(a is None or not equal(a, b, tolerance) for a, b in columns[i])]
        for i in wrong:
            pairs = columns[i]
            if all(a is not None and not equal(a, b, tolerance) for a, b in pairs):
                others = "" if len(wrong) > 1 else ", the only one that is wrong"
                yield f"result {i + 1} of {n}{others}: ", *map(list, zip(*pairs, strict=True)), i
        return
    pairs = [(array(a), array(b)) for a, b in zip(given, wanted, strict=True)]
    if all(a is not None and b is not None and a.dtype.kind != "c" and b.dtype.kind != "c" for a, b in pairs):
        yield "", *map(list, zip(*pairs, strict=True)), None


def _holds_functions(value: Any) -> bool:
    return callable(value) or (isinstance(value, list | tuple) and any(map(callable, value)))


def _has_arrays(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and any(np.ndim(part) for part in value)


def _fits(a: Any, b: tuple) -> bool:
    return isinstance(a, tuple | list) and len(a) == len(b)
