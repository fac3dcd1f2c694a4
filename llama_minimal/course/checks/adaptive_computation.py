"""Exercises of chapter 18, adaptive computation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llama_minimal.course.exercises import Exercise

_P, _Q = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.125, 0.5, 0.125, 0.25])
_ROOM = np.maximum(_P - _Q, 0)


def _hit(weights: np.ndarray, w: float) -> int:
    """Return the first token whose running sum is above w."""
    return int(np.searchsorted(np.cumsum(weights), w, side="right").clip(0, len(weights) - 1))


def _step(
    p: np.ndarray,
    q: np.ndarray,
    x: int,
    u: float,
    w: float,
    *,
    chance: Callable = lambda p, q, x: p[x] / q[x],
    rest: Callable = lambda p, q, x: np.maximum(p - q, 0),
    norm: bool = True,
    dart: Callable = lambda u, w: w,
) -> int:
    """Keep x or put another token in its place, or do so with a slip in one of the parts."""
    if u < chance(p, q, x):
        return x
    left = rest(p, q, x)
    total = left.sum() if norm else 1.0
    return _hit(left / (total or 1.0), dart(u, w))


def _slip(**parts: Any) -> Callable[..., int]:
    return lambda *case: _step(*case, **parts)


def _without(p: np.ndarray, q: np.ndarray, x: int) -> np.ndarray:
    return np.where(np.arange(len(p)) == x, 0, p)


def _expected(chances: Sequence[float], *, more: float = 1.0) -> float:
    return more + float(np.cumprod(chances).sum())


def _even(chances: Sequence[float]) -> float:
    mean = float(np.mean(chances))
    return float(sum(mean**i for i in range(len(chances) + 1)))


def _speeds(alpha: float, c: float, slope: float, most: int) -> np.ndarray:
    n = np.arange(most + 1)
    return np.cumsum(alpha**n) / (1 + slope * n + c * n)


def _best(alpha: float, c: float, slope: float, most: int) -> int:
    return int(_speeds(alpha, c, slope, most).argmax())


def _written(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    n = 0
    while n < len(candidates) and candidates[n] == choices[n]:
        n += 1
    return list(choices[: n + 1])


def _as_it_was(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    n = sum(a == b for a, b in zip(candidates, choices, strict=False))
    return [*candidates[:n], choices[n]]


def _late(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    """Compare each candidate with what the model says after it."""
    n = 0
    while n < len(candidates) and candidates[n] == choices[n + 1]:
        n += 1
    return [*candidates[:n], choices[n]]


def _depths(confidence: np.ndarray, threshold: float, *, reaches: Callable = np.greater_equal) -> np.ndarray:
    """Return after how many layers each token leaves, (T, B): the last where no exit is sure."""
    sure = reaches(confidence, threshold)
    return np.where(sure.any(-1), sure.argmax(-1) + 1, confidence.shape[-1] + 1)


def _layers(depths: np.ndarray) -> tuple[float, float]:
    return float(depths.mean()), float(depths.max(1).mean())


def _batch(confidence: np.ndarray, threshold: float) -> tuple[float, float]:
    return _layers(_depths(confidence, threshold))


def _last_sure(confidence: np.ndarray, threshold: float) -> tuple[float, float]:
    sure = confidence >= threshold
    last = confidence.shape[-1] - sure[..., ::-1].argmax(-1)
    return _layers(np.where(sure.any(-1), last, confidence.shape[-1] + 1))


def _confidence(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, size=shape) / 8  # so that some are just the threshold


EXERCISES = {
    "accept": Exercise(
        right=_step,
        cases=[
            (_P, _Q, 1, 0.3, 0.93),
            (_P, _Q, 1, 0.45, 0.93),
            (_P, _Q, 1, 0.45, 0.1),
            (_P, _Q, 0, 0.99, 0.9),
            (_P, _Q, 3, 0.7, 0.85),
            (_P, _Q, 3, 0.3, 0.85),
            (_P, _Q, 3, 0.7, 0.35),
            (_P, _Q, 1, 0.95, 0.72),
            (_P, _Q, 1, 0.45, 0.6),
        ],
        mistakes={
            "the ratio is upside down: a token is kept with probability p/q": _slip(chance=lambda p, q, x: q[x] / p[x]),
            "it keeps with probability p, whatever q says; the draft has weighed it with q already": _slip(
                chance=lambda p, q, x: p[x]
            ),
            "it keeps every candidate; that gives q": _slip(chance=lambda p, q, x: 1.0),
            "it keeps a candidate only if p is at least q there; below, p/q of them stay": _slip(
                chance=lambda p, q, x: float(p[x] >= q[x])
            ),
            "in the place of a refused one it draws from p; draw from what p has over q": (
                _slip(rest=lambda p, q, x: p)
            ),
            "it draws from p without the refused token; what p has over q is another thing": _slip(rest=_without),
            "it draws from |p − q|; only where p is larger is something missing": _slip(
                rest=lambda p, q, x: np.abs(p - q)
            ),
            "it draws from what q has over p; the other way round": _slip(rest=lambda p, q, x: np.maximum(q - p, 0)),
            "what p has over q is not made to sum to 1 before the dart is thrown": _slip(norm=False),
            "the second dart is w; u has been thrown already, and is not small where a candidate is refused": _slip(
                dart=lambda u, w: u
            ),
            "it takes the likeliest of what is left; throw the dart w": _slip(
                dart=lambda u, w: np.cumsum(_ROOM / _ROOM.sum())[_ROOM.argmax()] - 1e-9
            ),
        },
    ),
    "expected": Exercise(
        right=_expected,
        cases=[([0.5, 0.5],), ([0.9, 0.5, 0.1],), ([0.1, 0.5, 0.9],), ([0.75],), ([1.0, 1.0, 1.0, 1.0],), ([],)],
        mistakes={
            "the token that comes in any case is missing": lambda chances: _expected(chances, more=0.0),
            "a candidate counts only if all before it are kept: multiply the chances before you add": lambda chances: (
                1 + float(np.sum(chances))
            ),
            "this is the chance that all are kept, and one": lambda chances: 1 + float(np.prod(chances)),
            "it puts the mean chance into the formula; kept runs end at the first bad place": lambda chances: (
                _even(chances) if len(chances) else 1.0
            ),
            "the chances are multiplied from the far end; the first candidate comes first": lambda chances: _expected(
                list(chances)[::-1]
            ),
            "it leaves out the last candidate": lambda chances: _expected(list(chances)[:-1]),
        },
    ),
    "best": Exercise(
        right=_best,
        cases=[
            (0.8, 0.1, 0.0, 12),
            (0.8, 0.1, 0.2, 12),
            (0.3, 0.5, 0.2, 12),
            (0.9, 0.8, 0.1, 12),
            (0.95, 0.02, 0.01, 8),
            (0.6, 0.05, 0.0, 12),
        ],
        mistakes={
            "n = 0, to write without a draft, is a choice, too: its speed is 1": lambda *case: int(
                _speeds(*case)[1:].argmax() + 1
            ),
            "this is an index and not n; is your list one that begins with n = 1?": lambda *case: int(
                _speeds(*case)[1:].argmax()
            ),
            "these are the most tokens a pass, whatever they cost": lambda alpha, c, slope, most: most,
            "the wider pass is free here; it costs 1 + slope · n": lambda alpha, c, slope, most: _best(
                alpha, c, 0.0, most
            ),
            "the draft is free here; it costs n · c": lambda alpha, c, slope, most: _best(alpha, 0.0, slope, most),
            "the draft takes one step here; n candidates take n": lambda alpha, c, slope, most: int(
                (np.cumsum(alpha ** np.arange(most + 1)) / (1 + c + slope * np.arange(most + 1))).argmax()
            ),
            "the token that comes in any case is missing in the numerator": lambda alpha, c, slope, most: int(
                ((np.cumsum(alpha ** np.arange(most + 1)) - 1) / (1 + (c + slope) * np.arange(most + 1))).argmax()
            ),
            "this is the speed; which n has it?": lambda *case: float(_speeds(*case).max()),
        },
    ),
    "written": Exercise(
        right=_written,
        cases=[
            ([5, 6, 7], [5, 6, 7, 8]),
            ([5, 9, 7], [5, 6, 7, 8]),
            ([4, 6, 7], [5, 6, 7, 8]),
            ([5, 6, 9], [5, 6, 7, 8]),
            ([], [5]),
            ([6, 6, 6, 6], [6, 6, 5, 6, 6]),
        ],
        mistakes={
            "this is the function above: a match after the first miss was made after another text": _as_it_was,
            "candidate i is compared with what the model says after it; choices[i] is what it says in its place": _late,
            "the model's own token is missing: after the kept ones it has one more": lambda a, b: _written(a, b)[:-1],
            "in the place of the first miss comes the model's choice, not the candidate": lambda a, b: list(
                (*a, *b[-1:])[: len(_written(a, b))]
            ),
            "it writes all that the model chose; after the first miss these were answers to another text": (
                lambda a, b: list(b)
            ),
            "it writes all candidates; the model has to agree": lambda a, b: [*a, b[-1]],
            "all candidates or none: kept are those before the first miss": lambda a, b: (
                list(b) if list(a) == list(b[:-1]) else [b[0]]
            ),
        },
    ),
    "batch": Exercise(
        right=_batch,
        cases=[(_confidence(0, 5, 3, 3), 0.75), (_confidence(1, 4, 2, 5), 0.875), (_confidence(2, 3, 1, 2), 0.5)],
        mistakes={
            "a token leaves if its confidence is *at least* the threshold": lambda confidence, threshold: _layers(
                _depths(confidence, threshold, reaches=np.greater)
            ),
            "a token for which no exit is sure uses all E + 1 layers; argmax of a row without True is 0": (
                lambda confidence, threshold: _layers((confidence >= threshold).argmax(-1) + 1)
            ),
            "a token for which no exit is sure uses E + 1 layers: those after the last exit, too": (
                lambda confidence, threshold: _layers(np.minimum(_depths(confidence, threshold), confidence.shape[-1]))
            ),
            "the first exit is after one layer: depth is place plus 1": lambda confidence, threshold: _layers(
                _depths(confidence, threshold) - 1
            ),
            "a token leaves at the first exit that is sure, not at the last": _last_sure,
            "a layer runs for the batch if *any* row needs it: the largest depth of a step, not the mean": (
                lambda confidence, threshold: (_batch(confidence, threshold)[0],) * 2
            ),
            "the smallest depth: there the first row leaves, and the others still need the layers above": (
                lambda confidence, threshold: (
                    _batch(confidence, threshold)[0],
                    float(_depths(confidence, threshold).min(1).mean()),
                )
            ),
            "the largest depth of each row over time; the rows of one *step* share a layer": (
                lambda confidence, threshold: (
                    _batch(confidence, threshold)[0],
                    float(_depths(confidence, threshold).max(0).mean()),
                )
            ),
            "the other way round: first the mean depth of a token, then the layers that the batch runs": (
                lambda *case: _batch(*case)[::-1]
            ),
        },
    ),
}
