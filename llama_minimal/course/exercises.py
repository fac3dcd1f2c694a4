"""Exercises: ``check(name, attempt)`` says whether an answer is right and, if not, which mistake it is.

An exercise is data: the right answer, the cases to try it on, and the mistakes that are known, each with its diagnosis.
"""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CHAPTERS = (  # the modules of checks/
    "start_here",
    "language_modeling",
    "attention",
    "positions",
    "feedforward",
    "normalization",
    "llama",
    "generation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """What is right, and what is wrong in which way.

    Answers are functions of the cases, or plain values (then there are no cases).
    """

    right: Any
    cases: Sequence[tuple] = ()
    mistakes: Mapping[str, Any] = field(default_factory=dict)  # diagnosis -> the wrong answer that it recognizes
    tolerance: float = 1e-6  # relative and absolute


def check(name: str, attempt: Any) -> None:
    """Print whether an answer is right, and a diagnosis if it is not.

    Args:
        name: chapter and exercise, such as "attention.softmax".
        attempt: your function, or your value. A function that returns None, and a value that is None or ``...``, have
            not been attempted.

    Raises:
        ValueError: if there is no such exercise.
    """
    verdict = diagnose(find(name), attempt)
    print({"": f"✓ {name}", None: f"… {name}: not attempted yet"}.get(verdict, f"✗ {name}: {verdict}"))


def find(name: str) -> Exercise:
    """Return an exercise by its name."""
    chapter, _, exercise = name.partition(".")
    known = exercises(chapter) if chapter in CHAPTERS else {}
    if exercise not in known:
        raise ValueError(f"there is no exercise {name!r}; chapters with exercises are {', '.join(CHAPTERS)}")
    return known[exercise]


def exercises(chapter: str) -> dict[str, Exercise]:
    """Return the exercises of a chapter by their names."""
    return importlib.import_module(f"llama_minimal.course.checks.{chapter}").EXERCISES


def diagnose(exercise: Exercise, attempt: Any) -> str | None:
    """Return what is wrong with an answer: "" if nothing, None if it has not been attempted."""
    try:
        given = _answers(exercise, attempt)
    except Exception as error:  # the reader's code may raise anything
        return f"it raised {type(error).__name__}: {error}"
    if any(answer is None or answer is ... for answer in given):
        return None
    wanted = _answers(exercise, exercise.right)
    if _all_equal(given, wanted, exercise.tolerance):
        return ""
    for diagnosis, mistake in exercise.mistakes.items():
        if _all_equal(given, _answers(exercise, mistake), exercise.tolerance):
            return diagnosis
    return _first_difference(exercise, given, wanted)


def _answers(exercise: Exercise, answer: Any) -> list[Any]:
    if not exercise.cases:
        return [answer]
    # Copies, so that an answer which changes its arguments does not spoil the next.
    return [answer(*copy.deepcopy(case)) for case in exercise.cases]


def _all_equal(given: list[Any], wanted: list[Any], tolerance: float) -> bool:
    return all(_equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))


def _equal(given: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, tuple):
        return (
            isinstance(given, tuple | list)
            and len(given) == len(wanted)
            and all(_equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))
        )
    if isinstance(wanted, str):
        return given == wanted
    try:
        a, b = np.asarray(given), np.asarray(wanted)
        return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    except (TypeError, ValueError):
        return False


def _first_difference(exercise: Exercise, given: list[Any], wanted: list[Any]) -> str:
    """Say in which case, and where, an answer differs first."""
    number, a, b = next(
        (number, a, b)
        for number, (a, b) in enumerate(zip(given, wanted, strict=True))
        if not _equal(a, b, exercise.tolerance)
    )
    if not exercise.cases:
        return f"it is {_brief(a)}; try again"
    return f"for the arguments {_brief(exercise.cases[number])}, {_difference(a, b, exercise.tolerance)}"


def _difference(a: Any, b: Any, tolerance: float) -> str:
    if isinstance(a, tuple | list) and not isinstance(b, tuple) and np.ndim(b) == 0:
        return f"it gives {len(a)} values; return one"
    if not isinstance(b, tuple | str) and np.shape(a) != np.shape(b):
        return f"the shape is {np.shape(a)}, and should be {np.shape(b)}"
    if isinstance(b, np.ndarray) and b.size > 8:
        a = np.asarray(a)
        wrong = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        at = tuple(np.argwhere(wrong)[0].tolist())
        where, a, b = f"{wrong.sum()} of {b.size} numbers are wrong; at {at} ", a[at], b[at]
    else:
        where = ""
    return f"{where}it gives {_brief(a)}, and should give {_brief(b)}"


def _brief(value: Any) -> str:
    """Write a value in a few words, with four digits at most."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}" if value.size > 8 else repr(np.round(value, 4).tolist())
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_brief, value))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return value.__name__ if callable(value) else str(value) if isinstance(value, np.generic) else repr(value)
