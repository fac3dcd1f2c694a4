"""When two answers are the same: arrays, tensors, lists and numbers, each within the precision of its format."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Turn PyTorch's tensors into arrays, inside lists and tuples, too; leave all else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if not hasattr(value, "detach"):
        return value
    try:
        tensor = value.detach().cpu().resolve_conj()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (RuntimeError, TypeError):  # a tensor without numbers, on the meta device say
        return value


def rounding(value: Any) -> float:
    """Return how far off a right answer may be because of its format: one in bfloat16 is right to two digits."""
    if type(value) in (list, tuple):
        return max(map(rounding, value), default=0.0)
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}.get(name, 0.0)


def all_equal(given: Sequence[Any], wanted: Sequence[Any], tolerance: float) -> bool:
    """Say whether all answers are what they should be."""
    return all(equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))


def equal(given: Any, wanted: Any, tolerance: float) -> bool:
    """Say whether an answer is what it should be; a list, a tuple and an array of the same numbers are the same."""
    if isinstance(wanted, tuple):
        given = list(given) if isinstance(given, np.ndarray) and given.ndim else given
        return (
            isinstance(given, tuple | list)
            and len(given) == len(wanted)
            and all(equal(a, b, tolerance) for a, b in zip(given, wanted, strict=True))
        )
    if isinstance(wanted, str):
        return isinstance(given, str) and given == wanted
    a, b = array(given), np.asarray(wanted)
    return a is not None and near(a, b, tolerance)


def near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Say whether two arrays have the same shape and the same numbers."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def array(value: Any) -> np.ndarray | None:
    """Return the numbers of a value; None if it is no array of numbers, but ragged, text, or something else."""
    try:
        found = np.asarray(value)
    except Exception:  # whatever an object of another library raises that will not be an array
        return None
    return found if found.dtype.kind in "biufc" else None


def parted(value: Any) -> Any:
    """Turn a list that is no array of numbers, an array beside a number say, into a tuple, judged by its parts."""
    return tuple(map(parted, value)) if type(value) is list and array(value) is None else value


def whole(value: Any) -> bool:
    """Say whether a value consists of whole numbers, which are right or wrong, and not nearly right."""
    numbers = array(value)
    return numbers is not None and numbers.dtype.kind in "biu"


def same(a: Any, b: Any) -> bool:
    """Say whether an argument is what it was; what cannot be compared counts as the same.

    Only numbers, text and what contains them is compared: an object may remember that it was used.
    """
    if isinstance(a, np.ndarray):
        return near_exactly(a, np.asarray(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, bool | int | float | str):
        return a == b or (isinstance(a, float) and math.isnan(a))
    return True


def near_exactly(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two arrays hold the same numbers to the last digit."""
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
