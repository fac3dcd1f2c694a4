"""Say in a few words what an answer gives and what it should give, with as many digits as tell the two apart."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from llama_minimal.course.exercises.comparing import array, equal

DIGITS = 4
ORDINALS = {0: "first", 1: "second", 2: "third", 3: "fourth", -1: "last"}
MOST_DIGITS = 17  # more than a float64 has


def brief(value: Any, digits: int = DIGITS) -> str:
    """Write a value in a few words."""
    if isinstance(value, np.ndarray) and value.ndim:
        if value.size > 8 or value.dtype.kind not in "biufc":
            return f"an array of shape {value.shape}"
        return brief(value.tolist(), digits)
    if isinstance(value, tuple | list):
        inside = ", ".join(brief(part, digits) for part in value[:8]) + (", …" if len(value) > 8 else "")
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, np.ndarray | np.generic):
        return brief(value.item(), digits) if value.dtype.kind in "biufc" else str(value)
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    try:
        text = repr(value)
    except Exception:  # an object that cannot even be shown
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"a {type(value).__name__}"


def in_case(cases: Sequence[tuple], number: int) -> str:
    """Name a case by its arguments, where they are short, or else by its number."""
    written = [brief(value) for value in cases[number]]
    text = f"({', '.join(written)})"
    return f"in case {number}" if "an array" in text or len(text) > 80 else f"for the arguments {text}"


def apart(given: Any, wanted: Any) -> tuple[str, str]:
    """Write two different values so that they look different, with more digits if it takes them."""
    for digits in range(DIGITS, MOST_DIGITS + 1):
        a, b = brief(given, digits), brief(wanted, digits)
        if a != b:
            return a, b
    return a, f"{b} in another format"


def counted(n: int, noun: str) -> str:
    """Write a number of things: 1 number, 2 numbers."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def times(factor: float) -> str:
    """Write "… the right answer" for a factor: twice, half, 0.707 times (1/√2)."""
    if factor == 0:
        return "0 times"
    for name, value in NAMED.items():
        if abs(factor / value - 1) < 1e-5:
            return f"{name} times"
    fraction = Fraction(float(factor)).limit_denominator(4096)
    off = abs(factor) > 4096 or abs(float(fraction) / factor - 1) > 1e-5
    if off or 1 not in (abs(fraction.numerator), fraction.denominator):
        return f"{factor:.4g} times"
    words = {Fraction(2): "twice", Fraction(1, 2): "half of", Fraction(1, 4): "a quarter of"}
    return words.get(fraction, f"{fraction} times")


NAMED = {
    "2³⁰/10⁹": 2**30 / 1e9,
    "10⁹/2³⁰": 1e9 / 2**30,
    "2²⁰/10⁶": 2**20 / 1e6,
    "10⁶/2²⁰": 1e6 / 2**20,
    "1.024": 1.024,
    "1/1.024": 1 / 1.024,
    "2³⁰": 2.0**30,
    "1/2³⁰": 2.0**-30,
    "1/10⁹": 1e-9,
    "1/10⁶": 1e-6,
    "1/2²⁰": 2.0**-20,
    "1/log 2 (1.443, nats against bits)": 1 / np.log(2),
    "log 2 (0.6931, bits against nats)": np.log(2),
    "log 10 (2.303)": np.log(10),
    "1/log 10 (0.4343)": 1 / np.log(10),
    "π": np.pi,
    "2π": 2 * np.pi,
    "1/π": 1 / np.pi,
    "1/(2π)": 1 / (2 * np.pi),
    "√2": 2**0.5,
    "1/√2": 0.5**0.5,
    "e": np.e,
    "1/e": 1 / np.e,
}


def is_named(factor: float) -> bool:
    """Say whether a factor means something by itself, so that one number is enough to see it."""
    if not np.isfinite(factor) or factor == 0:
        return False
    return not times(abs(factor)).startswith(f"{abs(factor):.4g} times") or abs(np.log10(abs(factor))) % 1 == 0


def difference(a: Any, b: Any, tolerance: float) -> str:
    """Say how an answer differs from the right one; of an array, the worst of its numbers."""
    if isinstance(b, tuple) and isinstance(a, np.ndarray | list | tuple):
        return _of_lists(a if isinstance(a, list | tuple) else a.tolist(), list(b), tolerance)
    if isinstance(b, tuple | str):
        return "it gives {}, and should give {}".format(*apart(a, list(b) if isinstance(b, tuple) else b))
    numbers = array(a)
    if isinstance(a, tuple | list) and np.ndim(b) == 0:
        return f"it gives {counted(len(a), 'value')}; return one"
    if numbers is None:
        right = brief(b)
        shape = f" of the shape {np.shape(b)}" if np.ndim(b) and "shape" not in right else ""
        return f"it gives {brief(a)}, which is no array of numbers; it should give {right}{shape}"
    if numbers.shape != np.shape(b):
        return f"the shape is {numbers.shape}, and should be {np.shape(b)}"
    if numbers.ndim == 0:
        return "it gives {}, and should give {}".format(*apart(numbers, np.asarray(b)))
    return _of_arrays(numbers, np.asarray(b), tolerance)


def worst(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    """Return the place where two arrays of one shape differ most; what is nan or infinite is worst."""
    with np.errstate(all="ignore"):
        off = np.abs(a.astype(complex) - b.astype(complex))
    off = np.where(np.isnan(off), np.inf, off)
    off[(a == b) | (np.isnan(a) & np.isnan(b))] = -1.0
    return tuple(int(i) for i in np.unravel_index(np.argmax(off), off.shape))


def _of_arrays(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    wrong = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    at = worst(np.where(wrong, a, b), b)
    place = at[0] if len(at) == 1 else at
    given, wanted = apart(a[at], b[at])
    which = "at" if wrong.sum() == 1 else "the worst is at"
    verb = "is" if wrong.sum() == 1 else "are"
    what = f"{wrong.sum()} of {counted(b.size, 'number')} {verb} wrong; {which} {place}"
    return f"{what}: it gives {given}, and should give {wanted}"


def _of_lists(a: Sequence[Any], b: list[Any], tolerance: float) -> str:
    if len(b) <= 8 or len(a) != len(b):
        return "it gives {}, and should give {}".format(*apart(list(a), b))
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not equal(x, y, tolerance)), 0)
    return "at {} it gives {}, and should give {}".format(at, *apart(a[at], b[at]))
