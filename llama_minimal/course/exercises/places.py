"""Predicates on where an answer is wrong, and on sums that its rows should have."""

import itertools
from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises.look import Look
from llama_minimal.course.exercises.wording import apart, worst

STATISTICS: dict[str, Callable] = {
    "sum to": np.sum,
    "have a mean of": np.mean,
    "have a mean square of": lambda x, axis: np.mean(x * x, axis=axis),
    "have a length of": lambda x, axis: np.sqrt(np.sum(x * x, axis=axis)),
}
MOSTLY = 0.5  # of a region is wrong, or the region explains nothing
LINES = {-1: "row", -2: "column"}


def infinite(look: Look) -> str:
    """Numbers that are nan or infinite where they should not be; NumPy knows why."""
    bad = [~np.isfinite(a) & np.isfinite(b) if a.shape == b.shape else ~np.isfinite(a) for a, b in look.pairs()]
    finite = all(np.isfinite(b).all() for b in look.wanted)
    if not any(one.any() for one in bad) or not (look.alike or finite):
        return ""
    what = "nan" if any(np.isnan(a[one]).any() for a, one in zip(look.given, bad, strict=True)) else "infinite"
    why = f" (NumPy: {', '.join(look.warned[:2])})" if look.warned else ""
    remedy = ""
    if any("overflow encountered in exp" in text for text in look.warned):
        remedy = "; e⁷¹⁰ is too large for a float: subtract something before the exponential"
    elif any("divide by zero encountered in log" in text for text in look.warned):
        remedy = "; log 0 is −∞: a number has become 0 before the logarithm"
    numbers = f"{sum(int(one.sum()) for one in bad)} of {sum(a.size for a in look.given)} numbers"
    return f"{numbers} are {what} where they should be finite{why}{remedy}"


def finite(look: Look) -> str:
    """Numbers where −∞, ∞ or nan is due."""
    if not look.alike:
        return ""
    due = [~np.isfinite(b) for b in look.wanted]
    wrong = [np.isfinite(a) & one for a, one in zip(look.given, due, strict=True)]
    if not wrong[0].any():  # what is said stands behind the first case
        return ""
    rest = all(look.near(a[~one], b[~one]) for (a, b), one in zip(look.pairs(), due, strict=True))
    value, wanted = look.given[0][wrong[0]].ravel()[0], look.wanted[0][wrong[0]].ravel()[0]
    all_else = "all else is right" if rest else "other numbers are wrong, too"
    return f"it gives {value:.4g} where it should give {_infinity(wanted)}; {all_else}"


def statistics(look: Look) -> str:
    """Rows that should all sum to one, or have a mean of zero, and do not."""
    if not look.alike or not look.ndim or look.size < 4 or look.masks:
        return ""
    for (said, over), axis in itertools.product(STATISTICS.items(), (-1, -2)[: look.ndim]):
        due = _common(look.wanted, over, axis)
        row = None if due is None else _stray(look.given, over, axis, due)
        if row is None:
            continue
        line = LINES[axis] if look.ndim > 1 else "array"
        crossed = None if look.ndim < 2 else _common(look.given, over, -3 - axis)
        instead = f"; here each {LINES[-3 - axis]} does" if crossed is not None and abs(crossed - due) < 1e-6 else ""
        verb = said.replace("have", "has").replace("sum", "sums")
        stray, wanted = apart(row, due)
        return f"each {line} should {said} {wanted}, and one here {verb} {stray}{instead}"
    return ""


def mask(look: Look) -> str:
    """A mask that allows too much or too little."""
    if not look.alike or any(b.dtype != bool or b.ndim == 0 for b in look.wanted):
        return ""
    extra, missing = (sum(int(np.sum(one)) for one in many) for many in _more_and_less(look))
    if any(a.dtype.kind not in "b" and not np.isin(a, (0, 1)).all() for a in look.given):
        return "a mask consists of True and False; this has other numbers"
    where = _region(look)
    if extra and not missing:
        return f"nothing is missing, but {extra} places are True that should be False{where}"
    if missing and not extra:
        return f"nothing is too much, but {missing} places are False that should be True{where}"
    return ""


def region(look: Look) -> str:
    """All that is wrong lies in one region: the diagonal, one row, the first column."""
    if not look.alike or not look.ndim or look.size < 4:
        return ""
    where = _region(look)
    return f"all is right but{where[1:]}: {_example(look)}" if where else ""


def one_entry(look: Look) -> str:
    """A single wrong number among many."""
    if not look.alike or any(b.size < 4 for b in look.wanted):
        return ""
    wrong = [~np.isclose(a, b, rtol=look.tolerance, atol=look.tolerance, equal_nan=True) for a, b in look.pairs()]
    return f"only one number is wrong: {_example(look)}" if all(one.sum() == 1 for one in wrong) else ""


def prefix(look: Look) -> str:
    """Right up to some place along the first axis, and wrong from there on."""
    if not look.alike or not look.ndim or any(b.shape[0] < 3 for b in look.wanted):
        return ""
    starts = []
    for a, b in look.pairs():
        wrong = ~np.isclose(a, b, rtol=look.tolerance, atol=look.tolerance, equal_nan=True)
        lines = wrong.reshape(len(wrong), -1).any(axis=1)
        starts.append(int(np.argmax(lines)) if lines[np.argmax(lines) :].all() else 0)
    if not all(starts) or len(set(starts)) > 1:
        return ""
    what = "number" if look.ndim == 1 else "entry along axis 0"
    return (
        f"the first {what} is right, and all after it are wrong"
        if starts[0] == 1
        else (f"all is right before {what} {starts[0]}, and wrong from there on")
    )


def nearly(look: Look) -> str:
    """All numbers within a thousandth: something small is missing, or a format has too few digits."""
    if not look.alike or look.masks:
        return ""
    a, b = (np.concatenate([np.ravel(one) for one in many]).astype(float) for many in (look.given, look.wanted))
    with np.errstate(all="ignore"):
        off = np.where(a == b, 0.0, np.abs(a - b) / np.abs(b))
    if not np.isfinite(off).all() or off.max() > 1e-3:
        return ""
    return f"nearly right: no number is off by more than {off.max():.1g} of it; something small is missing or too much"


def _common(arrays: list[np.ndarray], over: Callable, axis: int) -> float | None:
    """Return what a statistic is in every row of every array, if it is one and not trivially so."""
    if any(x.shape[axis] < 2 for x in arrays) or all(np.ptp(x) < 1e-9 for x in arrays):
        return None
    with np.errstate(all="ignore"):
        rows = np.concatenate([np.ravel(over(x.astype(float), axis=axis)) for x in arrays])
    alike = len(rows) > 1 and np.isfinite(rows).all() and np.allclose(rows, rows[0], rtol=1e-4, atol=1e-5)
    return float(np.round(rows[0], 5)) + 0.0 if alike else None


def _stray(arrays: list[np.ndarray], over: Callable, axis: int, due: float) -> float | None:
    """Return the statistic of the row where it is farthest from what is due, if it is far from it."""
    with np.errstate(all="ignore"):
        rows = np.concatenate([np.ravel(over(x.astype(float), axis=axis)) for x in arrays])
    if not np.isfinite(rows).all() or np.allclose(rows, due, rtol=1e-2, atol=1e-2):
        return None
    return float(rows[np.argmax(np.abs(rows - due))])


def _infinity(value: float) -> str:
    return "nan" if np.isnan(value) else "∞" if value > 0 else "−∞"


def _more_and_less(look: Look) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return (
        [a.astype(bool) & ~b.astype(bool) for a, b in look.pairs()],
        [~a.astype(bool) & b.astype(bool) for a, b in look.pairs()],
    )


def _region(look: Look) -> str:
    wrong = [~np.isclose(a, b, rtol=look.tolerance, atol=look.tolerance, equal_nan=True) for a, b in look.pairs()]
    for said, inside in REGIONS.items():
        within = [inside(one.shape) if one.ndim >= 1 else None for one in wrong]
        if all(
            one is not None and not one.all() and not (bad & ~one).any() and bad[one].mean() >= MOSTLY
            for bad, one in zip(wrong, within, strict=True)
        ):
            return f", {said}"
    return ""


def _at(axis: int, index: int) -> Callable[[tuple[int, ...]], np.ndarray | None]:
    def inside(shape: tuple[int, ...]) -> np.ndarray | None:
        if len(shape) < -axis or shape[axis] < 3:
            return None
        here = np.zeros(shape, dtype=bool)
        np.moveaxis(here, axis, 0)[index] = True
        return here

    return inside


def _triangle(keep: Callable[[np.ndarray], np.ndarray]) -> Callable[[tuple[int, ...]], np.ndarray | None]:
    def inside(shape: tuple[int, ...]) -> np.ndarray | None:
        if len(shape) < 2:
            return None
        ahead = np.arange(shape[-1]) - np.arange(shape[-2])[:, None]
        return np.broadcast_to(keep(ahead), shape)

    return inside


REGIONS: dict[str, Callable[[tuple[int, ...]], np.ndarray | None]] = {
    "on the diagonal": _triangle(lambda ahead: ahead == 0),
    "right above the diagonal": _triangle(lambda ahead: ahead == 1),
    "right below the diagonal": _triangle(lambda ahead: ahead == -1),
    "in the first row": _at(-2, 0),
    "in the last row": _at(-2, -1),
    "in the first of the last axis": _at(-1, 0),
    "in the last of the last axis": _at(-1, -1),
    "above the diagonal": _triangle(lambda ahead: ahead > 0),
    "below the diagonal": _triangle(lambda ahead: ahead < 0),
    "off the diagonal": _triangle(lambda ahead: ahead != 0),
}


def _example(look: Look) -> str:
    a, b = look.given[0], look.wanted[0]
    at = worst(a, b)
    given, wanted = apart(a[at], b[at])
    return f"at {at[0] if len(at) == 1 else at} it gives {given}, and should give {wanted}"


PLACES = (finite, mask, statistics, one_entry, region, prefix, nearly)
