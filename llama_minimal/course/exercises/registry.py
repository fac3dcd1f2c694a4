"""What an exercise is, and where the exercises are."""

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
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
    "training",
    "mixed_precision",
    "data_parallelism",
    "model_parallelism",
    "finetuning",
    "applications",
    "quantization",
    "pruning",
    "distillation",
    "parameter_sharing",
    "adaptive_computation",
    "responsible_ai",
    "multimodal",
    "long_context",
    "scaling_up",
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
    may_change: Sequence[int] = ()  # places of the arguments that an answer may overwrite
    draw: Callable[[np.random.Generator], tuple] | None = None  # another case, by which the fuzzer tells answers apart


def find(name: str) -> Exercise:
    """Return an exercise by its name.

    Raises:
        ValueError: if there is no such exercise.
    """
    name = str(name)
    chapter, _, exercise = name.partition(".")
    known = exercises(chapter) if chapter in CHAPTERS else {}
    if exercise not in known:
        raise ValueError(f"there is no exercise {name!r}; chapters with exercises are {', '.join(CHAPTERS)}")
    return known[exercise]


def exercises(chapter: str) -> dict[str, Exercise]:
    """Return the exercises of a chapter by their names."""
    return importlib.import_module(f"llama_minimal.course.checks.{chapter}").EXERCISES


def case(name: str, i: int = 0) -> tuple:
    """Return the arguments of an exercise's i-th case: ``my_softmax(*case("attention.softmax", 0))``.

    They are copies, made anew by each call, so that an answer may do with them what it likes.

    Args:
        name: chapter and exercise, such as "attention.softmax".
        i: number of the case, from 0 on; the message of a check names the one that failed.

    Raises:
        ValueError: if there is no such exercise, or it has no such case.
    """
    cases = find(name).cases
    if not cases:
        raise ValueError(f"{name} asks for a value, so it has no inputs to look at")
    if not isinstance(i, int | np.integer) or not 0 <= i < len(cases):
        raise ValueError(f"{name} has the cases 0 to {len(cases) - 1}, not {i!r}")
    return copy.deepcopy(cases[i])
