"""Exercises of chapter 09, mixed precision."""

from collections.abc import Callable
from functools import partial

import numpy as np

from llama_minimal.course.checks.number_formats import FORMATS
from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.mixed_precision import round_float

Round = Callable[[np.ndarray], np.ndarray]

_RNG = np.random.default_rng(9)


def _step(
    w: np.ndarray,
    scaled: np.ndarray,
    scale: float,
    max_norm: float,
    lr: float,
    *,
    clip_first: bool = False,
    unscale: bool = True,
    clip: str = "down",
    skip: str = "both",
    lost: str = "kept",
    sign: float = -1.0,
    length: Callable = np.linalg.norm,
    times: float = 1.0,
) -> np.ndarray:
    """A step; or one that clips before unscaling, does not unscale, does not clip, or skips at the wrong time."""
    g = scaled / scale if unscale else scaled
    bad = {"both": ~np.isfinite(g), "inf": np.isinf(g), "nan": np.isnan(g), "never": np.zeros(g.shape, bool)}[skip]
    if bad.any() and lost != "numbers":
        return w if lost == "kept" else 0 * w
    g = np.where(bad, 0.0, g)
    with np.errstate(invalid="ignore", over="ignore"):
        norm = length(scaled if clip_first else g)
        factor = {"down": min(1.0, max_norm / norm), "always": max_norm / norm, "never": 1.0}[clip]
        return w + sign * lr * g * factor * scale ** (times - 1.0)


def _buggy_step(w: np.ndarray, scaled: np.ndarray, scale: float, max_norm: float, lr: float) -> np.ndarray:
    return _step(w, scaled, scale, max_norm, lr, clip_first=True, skip="inf")


def _clip_numbers(w: np.ndarray, scaled: np.ndarray, scale: float, max_norm: float, lr: float) -> np.ndarray:
    return w - lr * np.clip(scaled / scale, -max_norm, max_norm) if np.isfinite(scaled).all() else w


_W, _G = _RNG.normal(size=(2, 4)), _RNG.normal(size=(2, 4))
_WITH = {what: np.where(np.arange(8).reshape(2, 4) == 5, what, 1024 * _G) for what in (np.inf, -np.inf, np.nan)}
_STEPS = [
    (_W, 1024 * _G, 1024.0, 0.5, 0.1),
    (_W, 256 * 0.01 * _G, 256.0, 50.0, 2.0),
    *((_W, scaled, 1024.0, 0.5, 0.1) for scaled in _WITH.values()),
]


def _bf16(x: np.ndarray) -> np.ndarray:
    return round_float(x, "bf16")


def _e4m3(x: np.ndarray) -> np.ndarray:
    return round_float(x, "fp8_e4m3")


def _two_halves(
    w: np.ndarray,
    c: np.ndarray,
    update: np.ndarray,
    rounded: Round,
    *,
    use: float = 1.0,
    owe_old: bool = True,
    sign: float = 1.0,
    round_w: bool = True,
    round_c: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """A compensated step; or one that leaves out the old remainder, turns the new one, or does not round."""
    owed = update + use * c
    new = rounded(w + owed) if round_w else w + owed
    left = sign * ((owed if owe_old else update) - (new - w))
    return new, rounded(left) if round_c else left


def _two_sums(w: np.ndarray, c: np.ndarray, update: np.ndarray, rounded: Round) -> tuple[np.ndarray, np.ndarray]:
    return rounded(w + update), rounded(c + update)


_HALVES = [
    (_bf16(30 * _RNG.normal(size=5)), _bf16(0.05 * _RNG.normal(size=5)), 0.03 * _RNG.normal(size=5), _bf16),
    (_bf16(np.array([64.0, -100.0, 3.0])), _bf16(np.array([0.2, -0.1, 0.0])), np.array([0.1, -0.2, 0.4]), _bf16),
    (_e4m3(4 * _RNG.normal(size=(2, 3))), _e4m3(0.1 * _RNG.normal(size=(2, 3))), 0.3 * _RNG.normal(size=(2, 3)), _e4m3),
]


def _blocks(
    w: np.ndarray,
    block: int,
    largest: float,
    rounded: Round,
    *,
    over: str = "block",
    size: Round = np.abs,
    back: bool = True,
    careful: bool = True,
    turned: bool = False,
) -> np.ndarray:
    """Blocks that were rounded at their own scale; or at that of a row or of the matrix, or of other blocks."""
    parts = w.reshape(block, -1, len(w)).T if turned else w.reshape(len(w), -1, block)
    axes = {"block": -1, "row": (-2, -1), "matrix": None}[over]
    scale = size(parts).max(axis=axes, keepdims=True) / largest
    scale = np.where(scale != 0, scale, 1.0) if careful else scale
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rounded(parts / scale) * (scale if back else 1.0)).reshape(w.shape)


_ROWS = _RNG.normal(size=(3, 8)) * np.array([1, 1, 1, 1, 0.02, 0.02, 0.02, 0.02])
_EMPTY = np.where(np.arange(8) < 4, 0.0, _RNG.normal(size=(2, 8)))
_WEIGHTS = [(_ROWS, 4, 127.0, np.rint), (-np.abs(_ROWS), 2, 448.0, _e4m3), (_EMPTY, 4, 7.0, np.rint)]


def _scale(g: np.ndarray, largest: float, *, to_whole: Round = np.floor, size: Callable = np.max) -> float:
    """The largest power of two; or the next, the nearest, or one for another entry than the largest."""
    return float(2.0 ** to_whole(np.log2(largest / size(np.abs(g)))))


_GRADIENTS = [
    (np.array([1e-5, -3e-4, 2e-6]), 65504.0),
    (_RNG.normal(size=(2, 3)), 448.0),
    (np.array([65504.0 / 2**20, -1e-7]), 65504.0),
    (np.array([-3e6, 5.0]), 65504.0),
]


EXERCISES = FORMATS | {
    "step": Exercise(
        right=_step,
        cases=_STEPS,
        mistakes={
            "nothing has changed: the scaled gradients are clipped, and nan gets through": _buggy_step,
            "the norm is that of the scaled gradients: divide by the scale first": partial(_step, clip_first=True),
            "nan gets through, and is in the weights for ever: ask isfinite": partial(_step, skip="inf"),
            "infinity gets through: ask isfinite": partial(_step, skip="nan"),
            "no step is skipped: infinity and nan reach the weights": partial(_step, skip="never"),
            "the gradients are not divided by the scale": partial(_step, unscale=False),
            "nothing is clipped": partial(_step, clip="never"),
            "gradients shorter than max_norm are made longer; clipping only shortens": partial(_step, clip="always"),
            "this goes uphill: subtract the step": partial(_step, sign=1.0),
            "the norm is the root of the sum of squares; this takes their mean": partial(
                _step, length=lambda g: np.sqrt((g**2).mean())
            ),
            "the norm is the root of the sum of squares; the root is missing": partial(
                _step, length=lambda g: (g**2).sum()
            ),
            "the norm is the root of the sum of squares; this adds absolute values": partial(
                _step, length=lambda g: np.abs(g).sum()
            ),
            "each number is clipped by itself; clipping shortens the whole gradient, and keeps its direction": (
                _clip_numbers
            ),
            "the step is divided by the scale twice": partial(_step, times=0.0),
            "only the numbers that are not finite are left out; the whole step should be": partial(
                _step, lost="numbers"
            ),
            "a skipped step leaves the weights as they are; these are zero": partial(_step, lost="zero"),
        },
    ),
    "two_halves": Exercise(
        right=_two_halves,
        cases=_HALVES,
        mistakes={
            "what was owed before is never paid: add c to the update": partial(_two_halves, use=0.0, owe_old=False),
            "c is paid, and then forgotten in the new remainder": partial(_two_halves, owe_old=False),
            "the new remainder has the wrong sign: what is owed minus what was moved": partial(_two_halves, sign=-1.0),
            "c is subtracted; it is what the weight is still owed": partial(_two_halves, use=-1.0),
            "the weight is not rounded: then it is no bf16, and nothing is ever owed": partial(
                _two_halves, round_w=False
            ),
            "the remainder is not rounded": partial(_two_halves, round_c=False),
            "this c has the other sign, as in Kahan's own form; here it is what is still owed": partial(
                _two_halves, use=-1.0, sign=-1.0
            ),
            "c only collects updates; it should be what is left after the weight has moved": _two_sums,
        },
    ),
    "blocks": Exercise(
        right=_blocks,
        cases=_WEIGHTS,
        mistakes={
            "one scale serves the whole matrix": partial(_blocks, over="matrix"),
            "one scale serves a whole row; a block should have its own": partial(_blocks, over="row"),
            "the scale comes from the largest number; take its size, for negative ones": partial(
                _blocks, size=lambda x: x
            ),
            "the numbers are not multiplied by the scale again": partial(_blocks, back=False),
            "a block of zeros is divided by zero": partial(_blocks, careful=False),
            "nothing is rounded": lambda w, block, largest, rounded: w,
            "it is rounded without any scale": lambda w, block, largest, rounded: rounded(w),
            "the scale is the largest size; divide it by the format's largest": lambda w, block, largest, rounded: (
                _blocks(w, block, 1.0, rounded)
            ),
        },
    ),
    "scale": Exercise(
        right=_scale,
        cases=_GRADIENTS,
        mistakes={
            "this is the largest factor; the largest power of two is asked for": lambda g, largest: (
                largest / np.abs(g).max()
            ),
            "one step too far: the largest gradient overflows": lambda g, largest: 2 * _scale(g, largest),
            "this is the next power of two above; the largest gradient overflows": partial(_scale, to_whole=np.ceil),
            "this is the nearest power of two, which may be too large": partial(_scale, to_whole=np.rint),
            "this is the exponent; return the power": lambda g, largest: np.log2(_scale(g, largest)),
            "this asks the largest entry; the largest size may be negative": lambda g, largest: (
                2.0 ** np.floor(np.log2(largest / g.max()))
            ),
            "this asks the smallest gradient, and the largest overflows": partial(_scale, size=np.min),
            "this is the quotient upside down: the smaller the gradients, the larger their scale": lambda g, largest: (
                2.0 ** np.floor(np.log2(np.abs(g).max() / largest))
            ),
            "2 to a whole number is asked for; this is e to it": lambda g, largest: np.exp(
                np.floor(np.log(largest / np.abs(g).max()))
            ),
            "the logarithm must be that of base 2": lambda g, largest: (
                2.0 ** np.floor(np.log(largest / np.abs(g).max()))
            ),
            "int cuts toward zero, which for a scale below 1 is up; take the floor": lambda g, largest: (
                2.0 ** int(np.log2(largest / np.abs(g).max()))
            ),
            "every single gradient must fit, and not their sum": lambda g, largest: (
                2.0 ** np.floor(np.log2(largest / np.abs(g).sum()))
            ),
            "this asks the mean size, and the largest overflows": partial(_scale, size=np.mean),
            "one step too low: another doubling still fits": lambda g, largest: _scale(g, largest) / 2,
        },
    ),
}
