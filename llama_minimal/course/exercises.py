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
        attempt: your function, or your value, in NumPy, PyTorch or plain Python. A function that returns None, and a
            value that is None or ``...``, have not been attempted. An answer in float32 may be 1e-5 off, one in float16
            0.004, one in bfloat16 0.03.

    Raises:
        ValueError: if there is no such exercise.
    """
    verdict = diagnose(find(name), attempt)
    print({"": f"✓ {name}", None: f"… {name}: not attempted yet"}.get(verdict, f"✗ {name}: {verdict}"))


def find(name: str) -> Exercise:
    """Return an exercise by its name."""
    name = str(name)
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
        answers = _answers(exercise, attempt)
        given = _plain(answers)
    except (Exception, SystemExit) as error:  # the reader's code may raise anything
        return f"it raised {type(error).__name__}: {error}"
    if any(answer is None or answer is ... for answer in answers):
        return None
    wanted = _answers(exercise, exercise.right)
    first = _array(wanted[0])
    is_whole = first is not None and first.dtype.kind in "biu"  # a whole number is right or wrong
    tolerance = exercise.tolerance if is_whole else max(exercise.tolerance, _rounding(answers))
    if _all_equal(given, wanted, tolerance):
        return ""
    for diagnosis, mistake in exercise.mistakes.items():
        if _all_equal(given, _answers(exercise, mistake), tolerance):
            return diagnosis
    return _first_difference(exercise, given, wanted, tolerance)


def _answers(exercise: Exercise, answer: Any) -> list[Any]:
    if not exercise.cases:
        return [answer]
    # Copies, so that an answer which changes its arguments does not spoil the next.
    return [answer(*copy.deepcopy(case)) for case in exercise.cases]


def _plain(value: Any) -> Any:
    """Turn PyTorch's tensors into arrays, inside lists and tuples, too; leave all else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if not hasattr(value, "detach"):
        return value
    try:
        tensor = value.detach().cpu().resolve_conj()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (RuntimeError, TypeError):  # a tensor without numbers, on the meta device say
        return value


def _rounding(value: Any) -> float:
    """Return how far off a right answer may be because of its format: one in bfloat16 is right to two digits."""
    if type(value) in (list, tuple):
        return max(map(_rounding, value), default=0.0)
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}.get(name, 0.0)


def _all_equal(given: list[Any], wanted: list[Any], tolerance: float) -> bool:
    return all(_equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))


def _equal(given: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, tuple):
        given = list(given) if isinstance(given, np.ndarray) and given.ndim else given
        return (
            isinstance(given, tuple | list)
            and len(given) == len(wanted)
            and all(_equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))
        )
    if isinstance(wanted, str):
        return isinstance(given, str) and given == wanted
    a, b = _array(given), np.asarray(wanted)
    return a is not None and a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _array(value: Any) -> np.ndarray | None:
    """Return the numbers of a value; None if it is no array of numbers, but ragged, text, or something else."""
    try:
        array = np.asarray(value)
    except Exception:  # whatever an object of another library raises that will not be an array
        return None
    return array if array.dtype.kind in "biufc" else None


def _first_difference(exercise: Exercise, given: list[Any], wanted: list[Any], tolerance: float) -> str:
    """Say in which case, and where, an answer differs first."""
    number, a, b = next(
        (number, a, b) for number, (a, b) in enumerate(zip(given, wanted, strict=True)) if not _equal(a, b, tolerance)
    )
    if not exercise.cases:
        return f"it is {_brief(a)}; try again"
    return f"for the arguments {_brief(exercise.cases[number])}, {_difference(a, b, tolerance)}"


def _difference(a: Any, b: Any, tolerance: float) -> str:
    if isinstance(b, tuple | str):
        return f"it gives {_brief(a)}, and should give {_brief(b)}"
    numbers = _array(a)
    if isinstance(a, tuple | list) and np.ndim(b) == 0:
        return f"it gives {len(a)} values; return one"
    if numbers is None:
        shape = f" of the shape {np.shape(b)}" if np.ndim(b) else ""
        return f"it gives {_brief(a)}, which is no array of numbers; it should give {_brief(b)}{shape}"
    if numbers.shape != np.shape(b):
        return f"the shape is {numbers.shape}, and should be {np.shape(b)}"
    where = ""
    if np.size(b) > 8:
        wrong = ~np.isclose(numbers, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        at = tuple(np.argwhere(wrong)[0].tolist())
        where, a, b = f"{wrong.sum()} of {b.size} numbers are wrong; at {at} ", numbers[at], b[at]
    return f"{where}it gives {_brief(a)}, and should give {_brief(b)}"


def _brief(value: Any) -> str:
    """Write a value in a few words, with four digits at most."""
    if isinstance(value, np.ndarray):
        if value.size > 8 or value.dtype.kind not in "biufc":
            return f"an array of shape {value.shape}"
        return repr((value if value.dtype == bool else np.round(value, 4)).tolist())
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_brief, value[:8])) + (", …" if len(value) > 8 else "")
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    try:
        text = str(value) if isinstance(value, np.generic) else repr(value)
    except Exception:  # an object that cannot even be shown
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"a {type(value).__name__}"
