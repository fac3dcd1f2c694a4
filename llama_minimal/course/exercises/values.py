"""Predicates on answers of the right shape: which change would make the right answer of them."""

import itertools
from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises.arguments import argument, recipe
from llama_minimal.course.exercises.look import Look
from llama_minimal.course.exercises.quantities import explain
from llama_minimal.course.exercises.wording import is_named, times

Change = Callable[[np.ndarray], np.ndarray]

TRANSFORMS: dict[str, Change] = {  # the answer is … of the right one
    "this is 1 minus the right answer": lambda b: 1 - b,
    "this is the right answer's absolute value: a sign is lost": np.abs,
    "this is the right answer with its negative numbers cut off to 0": lambda b: np.maximum(b, 0),
    "this is the right answer with its positive numbers cut off to 0": lambda b: np.minimum(b, 0),
    "this is the square of the right answer: a root is missing, or a square too many": np.square,
    "this is the root of the right answer: a square is missing, or a root too many": np.sqrt,
    "this is upside down: 1 divided by the right answer": lambda b: 1 / b,
    "this is the right answer to the power of −2": lambda b: b**-2.0,
    "this is 1 divided by the root of the right answer": lambda b: b**-0.5,
    "this is the exponential of the right answer": np.exp,
    "this is the exponential of minus the right answer": lambda b: np.exp(-b),
    "this is the logarithm of the right answer: an exponential is missing": np.log,
    "this is minus the logarithm of the right answer": lambda b: -np.log(b),
    "this is the logarithm to base 2 of the right answer": np.log2,
    "this is the logarithm to base 10 of the right answer": np.log10,
    "this is 2 to the power of the right answer": np.exp2,
    "this is the right answer, rounded down": np.floor,
    "this is the right answer, rounded up": np.ceil,
    "this is the right answer, rounded to whole numbers": np.round,
    "this is the right answer, cut off to whole numbers": np.trunc,
}


def sign(look: Look) -> str:
    """Minus the right answer."""
    return "the sign is turned: this is minus the right answer" if look.all(lambda b: -b) else ""


def complement(look: Look) -> str:
    """A mask with True for False."""
    return "True and False have changed places" if look.masks and look.all(lambda b: b == 0) else ""


UNITS = {
    "10³": 1e3,
    "10⁶": 1e6,
    "10⁹": 1e9,
    "10¹²": 1e12,
    "2¹⁰": 2**10,
    "2²⁰": 2**20,
    "2³⁰": 2**30,
    "2⁴⁰": 2**40,
    "a hundredth (percent)": 0.01,
    "an eighth (bits for bytes)": 1 / 8,
}
ABOUT = (2.0, 0.5, 3.0, 1 / 3, 4.0, 0.25, 6.0, 1 / 6, 8.0, 10.0, 0.1, 1024.0, 1 / 1024, -1.0)


def constant(look: Look) -> str:
    """One and the same number everywhere."""
    first = look.given[0].ravel()[:1]
    if (
        look.size < 2
        or not first.size
        or not all(look.near(a, np.full_like(a, first[0])) for a in (*look.given, *look.others))
    ):
        return ""
    wanted = np.concatenate([b.ravel() for b in look.wanted])
    if look.near(wanted, np.full_like(wanted, wanted[0])):
        return ""
    return f"it gives {first[0] + 0.0:.4g} everywhere" + ("" if look.ndim else ", whatever the arguments are")


def transform(look: Look) -> str:
    """A function of the right answer: its root, its exponential, its rounding …"""
    if not any(np.any(a) for a in look.given):  # much becomes 0 when it is rounded or cut off
        return ""
    return next((said for said, change in TRANSFORMS.items() if look.all(change)), "")


def units(look: Look) -> str:
    """A single number in other units, and perhaps rounded; or rounded alone."""
    if look.size != 1 or look.cases != [()] or not np.isfinite(look.given[0]).all():
        return ""
    given, wanted = look.given[0].item(), look.wanted[0].item()
    for unit, size in UNITS.items():
        if wanted and abs(given * size / wanted - 1) < 5e-3:
            exactly = "" if look.near(np.array(given * size), np.array(wanted)) else ", and rounded"
            return f"this is the right answer in units of {unit}{exactly}"
    ratio = given / wanted if wanted else 0.0
    about = next((factor for factor in ABOUT if abs(ratio / factor - 1) < 5e-3), 0.0)
    exact = about and look.near(np.array(given), np.array(about * wanted))
    return f"this is about {times(about)} the right answer" if about and not exact else ""


def constant_factor(look: Look) -> str:
    """The right answer times one number, or times one that the arguments explain."""
    factors = [_ratio(look, a, b) for a, b in look.pairs()]
    if any(factor is None for factor in factors):
        return ""
    first = factors[0]
    if np.allclose(factors, first, rtol=max(look.tolerance, 1e-9) * 10, atol=0):
        many = sum(np.count_nonzero(b) for b in look.wanted) > 2
        everywhere = ", everywhere" if look.size > 1 else ""
        return f"this is {times(first)} the right answer{everywhere}" if many or is_named(first) else ""
    named = explain(look, np.array(factors), (-2, -1, -0.5, 0, 0.5, 1, 2))
    if named:
        return f"this is the right answer times {named}"
    if all(np.count_nonzero(b) > 2 for b in look.wanted):
        return f"this is the right answer times a number, which is not the same in each case: {_few(factors)}"
    return ""


def constant_difference(look: Look) -> str:
    """The right answer plus one number, or plus one that the arguments explain."""
    shifts = [_shift(look, a, b) for a, b in look.pairs()]
    if any(shift is None for shift in shifts):
        return ""
    first = shifts[0]
    if np.allclose(shifts, first, rtol=1e-5, atol=look.tolerance):
        if look.size < 3 and abs(first) != 1:  # a single number is off by something anyway
            return ""
        off = " (off by one)" if abs(first) == 1 else ""
        everywhere = ", everywhere" if look.size > 1 else ""
        return f"this is {abs(first):.6g} too {'much' if first > 0 else 'little'}{everywhere}{off}"
    named = explain(look, np.array(shifts), (-1, 0, 1, 2))
    if named:
        return f"what it gives, minus what it should give, is {named}"
    if all(b.size > 2 for b in look.wanted):
        return f"each case is off by a number that is added, the same everywhere in it: {_few(shifts)}"
    return ""


def along_an_axis(look: Look) -> str:
    """Each row (or column) off by a factor or a number of its own."""
    if not look.ndim:
        return ""
    for axis in range(-1, -1 - look.ndim, -1):
        if any(b.shape[axis] < 3 for b in look.wanted):
            continue
        name = "row" if axis == -1 else "column" if axis == -2 else f"line along axis {axis}"
        with np.errstate(all="ignore"):
            if all(_flat(look, a / b, axis) for a, b in look.pairs()):
                one = times(_strangest(look, "/"))
                return f"each {name} is right but for a factor of its own; one is {one} what it should be"
            if all(_flat(look, a - b, axis) for a, b in look.pairs()):
                return f"each {name} is off by a number of its own, one by {_strangest(look, '-'):.4g}"
    return ""


def affine(look: Look) -> str:
    """Right but for a factor and a number that is added, the same everywhere."""
    a, b = (np.concatenate([np.ravel(one) for one in many]).astype(float) for many in (look.given, look.wanted))
    finite = np.isfinite(a) & np.isfinite(b)
    if not look.near(a[~finite], b[~finite]) or len(np.unique(np.round(b[finite], 9))) < 4:
        return ""
    factor, shift = np.polyfit(b[finite], a[finite], 1)
    if factor and look.near(a[finite], factor * b[finite] + shift):
        return f"this is {factor:.4g} times the right answer, and {shift:.4g} more"
    return ""


def order(look: Look) -> str:
    """The right numbers in other places."""
    if not look.ndim or any(len(np.unique(b)) < max(3, b.size // 2) for b in look.wanted):
        return ""
    for axis in range(look.ndim):
        where = f" along axis {axis}" if look.ndim > 1 else ""
        if look.all(lambda b, axis=axis: np.flip(b, axis)):
            return f"the right numbers in reverse{where}"
        for step, said in ((1, "later"), (-1, "earlier")):
            if look.all(lambda b, axis=axis, step=step: np.roll(b, step, axis)):
                return f"the right numbers, one place {said}{where}"
    if all(look.near(np.sort(a, axis=None), np.sort(b, axis=None)) for a, b in look.pairs()):
        return "the right numbers, in the wrong places"
    return ""


def _ratio(look: Look, a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the one factor between two arrays, if there is one."""
    a, b = a.astype(float), b.astype(float)
    use = np.isfinite(a) & np.isfinite(b) & (b != 0)
    if not use.any() or not np.any(a[use]):
        return None
    place = np.argmax(np.where(use, np.abs(b), -1))
    factor = float(a.ravel()[place] / b.ravel()[place])
    with np.errstate(all="ignore"):
        scale = max(1.0, abs(factor))
        return factor if look.near(a / scale, b * (factor / scale)) and factor else None


def _shift(look: Look, a: np.ndarray, b: np.ndarray) -> float | None:
    a, b = a.astype(float), b.astype(float)
    use = np.isfinite(a) & np.isfinite(b)
    if not use.any():
        return None
    shift = float((a - b)[use].ravel()[0])
    return shift if look.near(a, b + shift) and shift else None


def _flat(look: Look, x: np.ndarray, axis: int) -> bool:
    """Say whether an array is finite and does not change along an axis."""
    return bool(np.isfinite(x).all()) and look.near(x, np.broadcast_to(x.take([0], axis), x.shape))


def _strangest(look: Look, how: str) -> float:
    """Return the factor that is farthest from 1, or the difference that is farthest from 0."""
    found = np.concatenate([np.ravel(a / b if how == "/" else a - b) for a, b in look.pairs()])
    return float(found[np.argmax(np.abs(found - (how == "/")))])


def _few(numbers: list[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in itertools.islice(numbers, 4)) + (", …" if len(numbers) > 4 else "")


MASKS = (complement,)
VALUES = (
    constant,
    sign,
    argument,
    recipe,
    transform,
    units,
    constant_factor,
    constant_difference,
    order,
    along_an_axis,
    affine,
)
