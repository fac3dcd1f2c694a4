"""Predicates on what an answer depends on: it is run again with a changed argument, as is the right one.

Numbers alone say little about a sum over the wrong axis, a mask that leaks, or an argument that was forgotten. What
changes with what, and what should not, says it exactly.
"""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llama_minimal.course.exercises.comparing import array, near, plain, same
from llama_minimal.course.exercises.look import Look
from llama_minimal.course.exercises.running import quietly

ENTRIES = 6  # numbers of an argument that are changed, one at a time
SAME = 1e-12  # relative; what does not depend on something does not change at all
POWERS = (-2, -1, -0.5, 0, 0.5, 1, 2)
TIMES = {-2: "a quarter of the", -1: "half the", -0.5: "1/√2 times the", 0: "the same", 0.5: "√2 times the"}
TIMES |= {1: "twice the", 2: "four times the"}


def probe(look: Look, attempt: Callable, right: Callable) -> str:
    """Return how an answer depends on its arguments otherwise than the right one does, or ""."""
    for arguments in look.cases[:2]:
        functions = (_silent(attempt), _silent(right))
        base = [function(arguments) for function in functions]
        if any(one is None for one in base):
            continue
        again = functions[0](arguments)
        if again is None or not _alike(again, base[0], look.tolerance):
            return "it gives something else each time it is run"
        for said in (_unused, _reach, _scaling, _shift, _special):
            found = said(look, arguments, functions, base)
            if found:
                return found
    return ""


def _silent(function: Callable) -> Callable[[tuple], np.ndarray | None]:
    """Run without a word: the numbers that come out, or None."""

    def run(arguments: tuple) -> np.ndarray | None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                return array(plain(quietly(function, copy.deepcopy(arguments))[0]))
            except (Exception, SystemExit):  # a changed argument may be one that the reader's code cannot take
                return None

    return run


def _alike(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=min(tolerance, 1e-9), equal_nan=True))


def _unused(look: Look, arguments: tuple, functions: tuple, base: list) -> str:
    """An argument that makes no difference, and should; or the other way round."""
    for i, name in enumerate(look.names):
        verdicts = set()
        for other in _others(look, arguments, i):
            changed = (*arguments[:i], other, *arguments[i + 1 :])
            results = [function(changed) for function in functions]
            if any(result is None for result in results):
                continue
            verdicts.add(tuple(_alike(a, b, SAME) for a, b in zip(results, base, strict=True)))
        if verdicts and (True, False) in verdicts and all(mine for mine, _ in verdicts):
            return f"the result does not depend on `{name}`, and should"
        if verdicts and (False, True) in verdicts and all(should for _, should in verdicts):
            return f"the result changes with `{name}`, and should not"
    return ""


def _others(look: Look, arguments: tuple, i: int) -> Iterator[Any]:
    """Give other values for an argument: those of other cases, and changes of its own."""
    value = arguments[i]
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2)
    elif isinstance(value, float):
        yield from (value * 2, value + 0.5)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
        for change in (np.linspace(0.5, 1.5, value.size), np.linspace(-3.0, 2.0, value.size)):
            yield np.where(np.isfinite(value), value * change.reshape(value.shape), value)
    elif isinstance(value, np.ndarray) and value.dtype == bool:
        yield ~value
    for case in look.cases:
        if type(case[i]) is type(value) and isinstance(value, str | list | tuple) and not same(case[i], value):
            yield case[i]


def _floats(arguments: tuple) -> Iterator[tuple[int, np.ndarray]]:
    for i, value in enumerate(arguments):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim and np.isfinite(value).all():
            yield i, value


def _reach(look: Look, arguments: tuple, functions: tuple, base: list) -> str:
    """A number of an argument reaches a number of the result that it should not reach, or does not reach one."""
    if base[0].shape != base[1].shape or not base[0].ndim:
        return ""
    found = ""
    for i, value in _floats(arguments):
        for flat in np.unique(np.linspace(0, value.size - 1, ENTRIES).astype(int)):
            changed = value.copy()
            changed.flat[flat] += 0.37 * (1 + abs(changed.flat[flat]))
            results = [function((*arguments[:i], changed, *arguments[i + 1 :])) for function in functions]
            if any(a is None or a.shape != b.shape for a, b in zip(results, base, strict=True)):
                continue
            mine, should = (_moved(a, b) for a, b in zip(results, base, strict=True))
            source = _place(look.names[i], np.unravel_index(flat, value.shape))
            if (mine & ~should).any():
                at = _index(np.argwhere(mine & ~should)[0])
                return f"the number at {at} of the result changes with {source}, and should not"
            if (should & ~mine).any() and not found:
                at = _index(np.argwhere(should & ~mine)[0])
                found = f"the number at {at} of the result does not change with {source}, and should"
    return found


def _moved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return ~np.isclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True)


def _scaling(look: Look, arguments: tuple, functions: tuple, base: list) -> str:
    """Twice an argument should give twice the result, and does not."""
    for i, value in enumerate(arguments):
        if not (isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")):
            continue
        results = [function((*arguments[:i], 2 * value, *arguments[i + 1 :])) for function in functions]
        if any(result is None or result.shape != old.shape for result, old in zip(results, base, strict=True)):
            continue
        mine, due = (_power(new, old, look.tolerance) for new, old in zip(results, base, strict=True))
        if due is not None and mine != due:
            gives = f"{TIMES[mine]} result" if mine is not None else "something else"
            return f"twice `{look.names[i]}` should give {TIMES[due]} result, and gives {gives}"
    return ""


def _power(new: np.ndarray, old: np.ndarray, tolerance: float) -> float | None:
    if not np.any(old[np.isfinite(old)]):
        return None
    loose = max(tolerance, 1e-3)  # an epsilon beside a square is no other power
    return next((power for power in POWERS if near(new, 2.0**power * old, loose)), None)


def _shift(look: Look, arguments: tuple, functions: tuple, base: list) -> str:
    """Adding 1 to all numbers of an argument should change nothing, and does; or turning their signs."""
    changes = {"adding 1 to every number of": lambda x: x + 1.0, "turning the signs of": lambda x: -x}
    for i, value in _floats(arguments):
        for said, change in changes.items():
            results = [function((*arguments[:i], change(value), *arguments[i + 1 :])) for function in functions]
            if any(result is None for result in results):
                continue
            mine, due = (_alike(new, old, max(look.tolerance, 1e-5)) for new, old in zip(results, base, strict=True))
            if due and not mine:
                return f"{said} `{look.names[i]}` should change nothing, and does"
            if mine and not due:
                return f"{said} `{look.names[i]}` changes nothing, and should"
    return ""


def _special(look: Look, arguments: tuple, functions: tuple, base: list) -> str:
    """Where an argument is all zeros or all ones the answer is right, so that the mistake is in what it does."""
    for i, name in enumerate(look.names):
        for special in (0, 1):
            cases = [(*case[:i], _filled(case[i], special), *case[i + 1 :]) for case in look.cases]
            if any(case[i] is None for case in cases):
                continue
            if all(_right_here(look, case, functions) for case in cases):
                everywhere = " everywhere" if np.ndim(arguments[i]) else ""
                return (
                    f"where `{name}` is {special}{everywhere}, the answer is right; so look at what becomes of `{name}`"
                )
    return ""


def _filled(value: Any, special: int) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim:
        return np.full_like(value, special)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return type(value)(1) if number and special else None  # a size of 0 makes all answers alike


def _right_here(look: Look, arguments: tuple, functions: tuple) -> bool:
    """Say whether an answer is right for once, and not only because all is 0 or infinite anyway."""
    mine, due = (function(arguments) for function in functions)
    telling = due is not None and np.isfinite(due).all() and np.any(due)
    return bool(telling) and mine is not None and _alike(mine, due, look.tolerance)


def _place(name: str, index: tuple) -> str:
    return f"`{name}`[{', '.join(str(int(i)) for i in index)}]"


def _index(index: np.ndarray) -> str:
    return str(int(index[0])) if len(index) == 1 else str(tuple(int(i) for i in index))
