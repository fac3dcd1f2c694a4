"""Answers to the exercises of chapter 18, right ones and almost right ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

P, Q = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.125, 0.5, 0.125, 0.25])
ROOM = np.maximum(P - Q, 0)


def hit(weights: np.ndarray, w: float) -> int:
    """Return the first token whose running sum is above w."""
    return int(np.searchsorted(np.cumsum(weights), w, side="right").clip(0, len(weights) - 1))


def step(
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
    return hit(left / (total or 1.0), dart(u, w))


def slip(**parts: Any) -> Callable[..., int]:
    """Return ``step`` with other parts."""
    return lambda *case: step(*case, **parts)


def without(p: np.ndarray, q: np.ndarray, x: int) -> np.ndarray:
    """Return p with nothing for x."""
    return np.where(np.arange(len(p)) == x, 0, p)


def expected(chances: Sequence[float], *, more: float = 1.0) -> float:
    """Return how many tokens a step writes, from the chance of each candidate."""
    return more + float(np.cumprod(chances).sum())


def even(chances: Sequence[float]) -> float:
    """Return the same as if every chance were the mean one."""
    mean = float(np.mean(chances))
    return float(sum(mean**i for i in range(len(chances) + 1)))


def speeds(alpha: float, c: float, slope: float, most: int) -> np.ndarray:
    """Return how many times as fast 0, 1, … candidates make it."""
    n = np.arange(most + 1)
    return np.cumsum(alpha**n) / (1 + slope * n + c * n)


def best(alpha: float, c: float, slope: float, most: int) -> int:
    """Return the number of candidates with the highest speed."""
    return int(speeds(alpha, c, slope, most).argmax())


def written(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    """Return the candidates before the first miss, and the model's own token."""
    n = 0
    while n < len(candidates) and candidates[n] == choices[n]:
        n += 1
    return list(choices[: n + 1])


def as_it_was(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    """Return what a count of all matches would write."""
    n = sum(a == b for a, b in zip(candidates, choices, strict=False))
    return [*candidates[:n], choices[n]]


def late(candidates: Sequence[int], choices: Sequence[int]) -> list[int]:
    """Compare each candidate with what the model says after it."""
    n = 0
    while n < len(candidates) and candidates[n] == choices[n + 1]:
        n += 1
    return [*candidates[:n], choices[n]]


def depths(confidence: np.ndarray, threshold: float, *, reaches: Callable = np.greater_equal) -> np.ndarray:
    """Return after how many layers each token leaves, (T, B): the last where no exit is sure."""
    sure = reaches(confidence, threshold)
    return np.where(sure.any(-1), sure.argmax(-1) + 1, confidence.shape[-1] + 1)


def layers(depths: np.ndarray) -> tuple[float, float]:
    """Return the layers of a token, and of a step of the batch."""
    return float(depths.mean()), float(depths.max(1).mean())


def batch(confidence: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return both means for a threshold."""
    return layers(depths(confidence, threshold))


def last_sure(confidence: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return both means where a token leaves at the last exit that is sure."""
    sure = confidence >= threshold
    last = confidence.shape[-1] - sure[..., ::-1].argmax(-1)
    return layers(np.where(sure.any(-1), last, confidence.shape[-1] + 1))


def confidence(seed: int, *shape: int) -> np.ndarray:
    """Draw confidences in eighths."""
    return np.random.default_rng(seed).integers(0, 9, size=shape) / 8  # so that some are just the threshold
