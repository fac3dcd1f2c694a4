"""Checks of single values, each with a message that says what is allowed."""

from typing import Any


def check_integer(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def check_number(name: str, value: Any, *, at_least: float | None = None) -> None:
    """Refuse what is no finite number of at least ``at_least``; None means more than 0.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    allowed = "more than 0" if at_least is None else f"at least {at_least:g}"
    low = 5e-324 if at_least is None else at_least  # the smallest number above 0
    # "not <=" also refuses NaN, for which every comparison is false.
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number of {allowed}")


def check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse what is none of the allowed values.

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def check_divides(part_name: str, part: int, whole_name: str, whole: int) -> None:
    """Refuse a part that does not divide the whole, and suggest the nearest that do.

    Raises:
        ValueError: with both names, both values and up to three parts that would do.
    """
    if whole % part:
        near = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(near, key=lambda n: abs(n - part))[:3])
        raise ValueError(
            f"{whole_name}={whole} is not divisible by {part_name}={part}; "
            f"use {part_name} {', '.join(map(str, near[:-1]))}{' or ' if near[1:] else ''}{near[-1]}"
        )
