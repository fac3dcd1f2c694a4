"""Checks of single values, each with a message that says what is allowed."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def check_integer(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return a whole number as an int, NumPy's too, which JSON does not know; refuse what is none or too small.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {at_least}")
    return int(value)


def check_number(name: str, value: Any, *, at_least: float | None = None) -> float:
    """Return a number, NumPy's as a float; refuse what is not finite, or below ``at_least``; None means more than 0.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    allowed = "more than 0" if at_least is None else f"at least {at_least:g}"
    low = 5e-324 if at_least is None else at_least  # the smallest number above 0
    # "not <=" also refuses NaN, for which every comparison is false.
    if not is_number(value) or not low <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number of {allowed}")
    return value if isinstance(value, int) else float(value)


def check_seed(seed: Any) -> int:
    """Return a seed as an int; refuse what PyTorch's generators do not take.

    Raises:
        ValueError: with the value and what is allowed.
    """
    if not isinstance(seed, Integral) or abs(int(seed)) >= 1 << 62:
        raise ValueError(f"seed={seed!r} must be a whole number of 18 digits or fewer")
    return int(seed)


def is_number(value: Any) -> bool:
    """Whether something is a real number: NumPy's are, truth values and texts are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def settle(frozen: object, name: str, value: Any) -> None:
    """Give a field of a frozen dataclass its final value, while it is being made."""
    object.__setattr__(frozen, name, value)


def check_one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse what is none of the allowed values.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def nearest_divisors(whole: int, part: int, *, at_least: int = 1) -> list[int]:
    """Return up to three numbers that divide the whole, those nearest to a part, in order."""
    fitting = [n for n in range(at_least, whole + 1) if whole % n == 0]
    return sorted(sorted(fitting, key=lambda n: abs(n - part))[:3])


def check_divides(part_name: str, part: int, whole_name: str, whole: int) -> None:
    """Refuse a part that does not divide the whole, and suggest the nearest that do.

    Raises:
        ValueError: with both names, both values and up to three parts that would do.
    """
    if whole % part:
        near = nearest_divisors(whole, part)
        raise ValueError(
            f"{whole_name}={whole} is not divisible by {part_name}={part}; "
            f"use {part_name} {', '.join(map(str, near[:-1]))}{' or ' if near[1:] else ''}{near[-1]}"
        )
