"""Predicates on answers whose shape is wrong: the right numbers, and how they have to be put."""

import itertools

import numpy as np

from llama_minimal.course.exercises.look import Look
from llama_minimal.course.exercises.wording import ORDINALS

ENDS = (
    ("the first", 1, True),
    ("the last", 1, False),
    ("the pair at the start", 2, True),
    ("the pair at the end", 2, False),
)


def reshaped(look: Look) -> str:
    """The right numbers, in another shape."""
    a, b = look.given[0], look.wanted[0]
    if look.alike or not all(a.size == b.size for a, b in look.pairs()):
        return ""
    if not all(look.near(a.ravel(), b.ravel()) for a, b in look.pairs()):
        return ""
    if np.squeeze(a).shape == np.squeeze(b).shape:
        kind = "surplus" if a.ndim > b.ndim else "missing"
        return f"the numbers are right; an axis of length 1 is {kind}: the shape is {a.shape}, and should be {b.shape}"
    return f"the numbers are right, and in the right order; the shape is {a.shape}, and should be {b.shape}"


def permuted(look: Look) -> str:
    """The right numbers, with axes exchanged."""
    n = look.ndim
    if not 2 <= n <= 4 or {b.ndim for b in look.wanted} != {n} or {a.ndim for a in look.given} != {n}:
        return ""
    for order in itertools.permutations(range(n)):
        if order != tuple(range(n)) and look.all(lambda b, order=order: b.transpose(order)):
            if n == 2:
                return "it is transposed: rows and columns are exchanged"
            moved = [i for i in range(n) if order[i] != i]
            if len(moved) == 2:
                return f"the axes {moved[0]} and {moved[1]} are exchanged"
            return f"the axes stand in the order {order}; they should stand in the order {tuple(range(n))}"
    return ""


def missing_part(look: Look) -> str:
    """Right, but for what is missing or surplus at an end of an axis."""
    n = look.ndim
    if look.alike or n == 0 or {a.ndim for a in look.given} != {b.ndim for b in look.wanted}:
        return ""
    for axis, (which, count, first) in itertools.product(range(n), ENDS):
        where = f" along axis {axis}" if n > 1 else ""
        cut = (slice(None),) * axis + (slice(count, None) if first else slice(None, -count),)
        if all(b.shape[axis] > count and look.near(a, b[cut]) for a, b in look.pairs()):
            return f"right, but {which}{where} is missing"
        if all(a.shape[axis] > count and look.near(a[cut], b) for a, b in look.pairs()):
            return f"right, but for a surplus at one end: without {which}{where} it would be right"
    return ""


def one_of_many(look: Look) -> str:
    """One entry along an axis of the right answer, such as the first head alone; or the right one among several."""
    for axis, at in itertools.product(range(3), (0, -1)):
        place = f"the {ORDINALS[at]} along axis {axis}"
        if all(_shrunk(b, a, axis) and look.near(a, b.take(at, axis)) for a, b in look.pairs()):
            return f"this is only a part of the answer, {place}; give all"
        if all(_shrunk(a, b, axis) and look.near(a.take(at, axis), b) for a, b in look.pairs()):
            return f"the right answer is in it, {place}; give that alone"
    return ""


def reduced(look: Look) -> str:
    """A sum, mean or maximum over an axis of the right answer; or the other way round, one still to be taken."""
    kinds = {"sum": np.sum, "mean": np.mean, "maximum": np.max, "product": np.prod}
    for (name, over), axis in itertools.product(kinds.items(), (None, 0, 1, 2)):
        where = "of all numbers" if axis is None else f"along axis {axis}"
        if all(_shrunk(b, a, axis) and look.near(a, over(b, axis=axis)) for a, b in look.pairs()):
            return f"this is the {name} {where} of what is asked for; do not take it"
        if all(_shrunk(a, b, axis) and look.near(over(a, axis=axis), b) for a, b in look.pairs()):
            return f"take the {name} {where}: then it is right"
    return ""


def repeated(look: Look) -> str:
    """The right numbers again and again along an axis that should not be there."""
    for axis in range(3):
        if all(
            _shrunk(a, b, axis) and look.near(a, np.broadcast_to(np.expand_dims(b, axis), a.shape))
            for a, b in look.pairs()
        ):
            return f"the numbers are right, and repeated along axis {axis}; give them once"
    return ""


def spread(look: Look) -> str:
    """A number for each row met rows, and not columns, so that an axis appeared."""
    if look.alike or not all(a.ndim == b.ndim + 1 for a, b in look.pairs()):
        return ""
    shapes = f"the shape is {look.given[0].shape}, and should be {look.wanted[0].shape}"
    if all(a.shape[-2:] == (b.shape[-1],) * 2 for a, b in look.pairs() if b.ndim):
        diagonal = all(b.ndim and look.near(np.diagonal(a, axis1=-2, axis2=-1), b) for a, b in look.pairs())
        if diagonal:
            return f"{shapes}: the answer is on its diagonal; (n, 1) and (n,) make (n, n)"
    return ""


def _shrunk(large: np.ndarray, small: np.ndarray, axis: int | None) -> bool:
    """Say whether the small shape is the large one without an axis (or without all)."""
    if axis is None:
        return large.ndim > 0 and small.ndim == 0 and large.size > 1
    return large.ndim > axis and large.shape[axis] > 1 and large.shape[:axis] + large.shape[axis + 1 :] == small.shape


def common_start(look: Look) -> str:
    """A list that begins right, and is too long or too short."""
    if look.alike or any(x.ndim != 1 or not x.size for pair in look.pairs() for x in pair):
        return ""
    starts = []
    for a, b in look.pairs():
        n = min(len(a), len(b))
        same = np.isclose(a[:n], b[:n], rtol=look.tolerance, atol=look.tolerance)
        starts.append(n if same.all() else int(np.argmin(same)))
    if not all(starts):
        return ""
    a, b, n = look.given[0], look.wanted[0], starts[0]
    begins = f"the first {n} numbers are right" if n > 1 else "the first number is right"
    if n == min(len(a), len(b)):
        return f"{begins}, and then {len(b) - n} are missing" if n < len(b) else f"{begins}, and {len(a) - n} too many"
    return f"{begins}; the next is {a[n]:.6g}, and should be {b[n]:.6g}"


SHAPES = (reshaped, permuted, missing_part, one_of_many, reduced, repeated, spread, common_start)
