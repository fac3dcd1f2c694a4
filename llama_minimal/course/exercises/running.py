"""Run an answer on the cases, and see what it does besides: raise, warn, or overwrite its arguments."""

import copy
import dis
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from llama_minimal.course.exercises.comparing import same
from llama_minimal.course.exercises.registry import Exercise


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What an answer gave for each case, the places of arguments that it changed, and what NumPy warned of."""

    answers: list[Any]
    changed: tuple[int, ...] = ()
    warned: tuple[str, ...] = ()


class FailedError(Exception):
    """An answer raised something: what it was, and in which case."""

    def __init__(self, error: BaseException, case: int, attempt: Any) -> None:
        super().__init__(_what(error) + _line(error, attempt) + _keepdims(error))
        self.case = case


def run(exercise: Exercise, answer: Any) -> Run:
    """Try an answer on copies of all cases; a value is its own answer.

    Raises:
        FailedError: if it raises.
    """
    if not exercise.cases:
        return Run(answers=[answer])
    answers, changed, warned = [], set(), []
    for number, case in enumerate(exercise.cases):
        arguments = copy.deepcopy(case)
        try:
            result, said = quietly(answer, arguments)
            answers.append(result)
        except (Exception, SystemExit) as error:  # the reader's code may raise anything
            raise FailedError(error, number, answer) from error
        warned += [text for text in said if text not in warned]
        changed |= {i for i, (new, old) in enumerate(zip(arguments, case, strict=True)) if not same(old, new)}
    return Run(answers=answers, changed=tuple(sorted(changed)), warned=tuple(warned))


def quietly(answer: Callable, arguments: tuple) -> tuple[Any, list[str]]:
    """Return what a function gives, and the warnings of NumPy meanwhile, which then are not printed."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("always")
        result = answer(*arguments)
    return result, [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]


def argument_names(exercise: Exercise, attempt: Any) -> list[str]:
    """Return how the reader calls the arguments, or their numbers where that is not known."""
    n = len(exercise.cases[0]) if exercise.cases else 0
    for function in (attempt, exercise.right):
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            continue
        names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if len(names) >= n:
            return names[:n]
    return [f"argument {i + 1}" for i in range(n)]


def is_stub(attempt: Any) -> bool:
    """Say whether a function or class is as empty as the notebook gives it.

    ``...``, ``pass``, a docstring, ``return None`` and ``raise NotImplementedError`` leave nothing else in the
    bytecode: https://docs.python.org/3/library/dis.html
    """
    if isinstance(attempt, type) and "__module__" in vars(attempt):  # written in Python
        return all(is_stub(part) for part in vars(attempt).values() if isinstance(part, FunctionType))
    if not isinstance(attempt, FunctionType):
        return False
    nothing = ("RESUME", "NOP", "CACHE", "LOAD_ASSERTION_ERROR", "PRECALL", "PUSH_NULL", "NOT_TAKEN")
    steps = [(step.opname, step.argval) for step in dis.get_instructions(attempt) if step.opname not in nothing]
    empty = all(name.startswith(("LOAD_CONST", "RETURN_")) and value in (None, ...) for name, value in steps)
    raising = [value for name, value in steps if name == "LOAD_GLOBAL"] == ["NotImplementedError"]
    return empty or (raising and steps[-1][0] == "RAISE_VARARGS" and len(steps) <= 4)


def _what(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except Exception:  # an error that cannot even be shown
        text = ""
    return f"it raised {type(error).__name__}" + (f": {text[:300]}" if text else "")


def _line(error: BaseException, attempt: Any) -> str:
    """Say in which line of the reader's function it happened, if it has more than one."""
    code, line, trace = getattr(attempt, "__code__", None), None, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code is code else line
        trace = trace.tb_next
    if line is None or line == code.co_firstlineno:
        return ""
    return f" (in line {line - code.co_firstlineno + 1} of {code.co_name})"


def _keepdims(error: BaseException) -> str:
    """Ask for keepdims where two shapes do not fit, and one is the other without an axis."""
    found = re.search(r"broadcast together with shapes \(([\d,]*)\) \(([\d,]*)\)", _what(error))
    if found is None:
        return ""
    a, b = sorted((re.findall(r"\d+", shape) for shape in found.groups()), key=len)
    lost = len(b) - len(a) == 1 and any(b[:i] + b[i + 1 :] == a for i in range(len(b)))
    return "; one shape is the other without an axis: is keepdims=True missing?" if lost else ""
