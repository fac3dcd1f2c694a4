"""Exercises of chapter 10, data parallelism."""

import math
from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(10)
_COUNTS = np.array([[3.0, 5, 0], [20, 1, 7]])
_SHARDS = _RNG.normal(size=(3, 4))


def _ring(P: int, rank: int, sent: int, step: int, exchanges: int = -1) -> np.ndarray:
    """Exchange s sends piece rank + sent + step·s, and receives that of the neighbor on the other side."""
    s = np.arange(P + exchanges)
    return np.stack([rank + sent + step * s, rank + sent + step * (s + 1)], axis=1) % P


def _factors(counts: np.ndarray) -> np.ndarray:
    return counts * len(counts) / counts.sum()


def _two_floors(b: float, G: int, K: int) -> tuple:
    return 2 * (G - 1) / G * b, 2 * (K - 1) / K * b / G


def _devices(
    N: float, stage: int, budget: float, *, state: int = 12, least: int = 1, rounded: Callable = math.ceil
) -> int:
    cut = (0, state, state + 2, state + 4)[stage]
    rest = budget - (state + 4 - cut) * N
    if rest < 0 or (rest == 0 and cut):
        return 0
    return max(least, rounded(cut * N / rest)) if cut else 1


def _all_cut(N: float, stage: int, budget: float) -> int:
    return _devices(N, 3, budget) if _devices(N, stage, budget) else 0


def _clip(shards: np.ndarray, max_norm: float, joint: Callable = np.linalg.norm) -> np.ndarray:
    """Clip by a joint norm, a function of all shards, or of each rank's own norm."""
    norm = joint(np.linalg.norm(shards, axis=1)) + 0.0 * shards
    return shards * np.minimum(1.0, max_norm / np.where(norm == 0, 1e-300, norm))


def _clip_by(joint: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda shards, max_norm: _clip(shards, max_norm, joint)


def _finish(
    ready: np.ndarray,
    sizes: np.ndarray,
    per_bucket: int,
    delay: float,
    bandwidth: float,
    *,
    queue: bool = True,
    overlap: bool = True,
    first: bool = False,
    wait: bool = True,
    early: bool = False,
    whole: bool = False,
) -> float:
    """The time of the last bucket, or what it would be with one of the rules left out."""
    free = 0.0
    for start in range(0, len(ready) - (per_bucket - 1 if whole else 0), per_bucket):
        part = slice(start, start + per_bucket)
        leaves = float(ready[part][0 if first else -1]) if overlap else float(ready[-1])
        begins = max(free - delay * early, leaves) if queue and wait else (free if queue else leaves)
        free = begins + delay + float(sizes[part].sum()) / bandwidth
    return free


def _finish_but(**rules: bool) -> Callable:
    return lambda ready, sizes, per_bucket, delay, bandwidth: _finish(
        ready, sizes, per_bucket, delay, bandwidth, **rules
    )


def _timeline(n: int, per_bucket: int, delay: float, bandwidth: float) -> tuple:
    return np.cumsum(_RNG.uniform(0.5, 1.5, size=n)), _RNG.uniform(0.5, 2, size=n), per_bucket, delay, bandwidth


_TIMELINES = [_timeline(12, 3, 0.5, 1.1), _timeline(7, 2, 0.1, 4.0), _timeline(5, 1, 0.3, 0.7)]

EXERCISES = {
    "left_ring": Exercise(
        right=lambda P, rank: _ring(P, rank, 1, 1),
        cases=[(4, 0), (4, 3), (3, 1), (6, 2)],
        mistakes={
            "this is the chapter's ring, which sends to the right": lambda P, rank: _ring(P, rank, -1, -1),
            "a rank begins with its own piece, so another rank than r ends up with piece r": lambda P, rank: _ring(
                P, rank, 0, 1
            ),
            "in the end rank r owns piece r + 1; begin one piece earlier": lambda P, rank: _ring(P, rank, 2, 1),
            "each pair is turned: the number of the piece sent comes first": lambda P, rank: (
                _ring(P, rank, 1, 1) @ [[0, 1], [1, 0]]
            ),
            "the numbers run the other way: what a rank sends next is what it has just received": lambda P, rank: (
                np.stack([rank + 1 - np.arange(P - 1), rank + 2 - np.arange(P - 1)], axis=1) % P
            ),
            "pieces come from the right: rank r receives what rank r + 1 sends": lambda P, rank: (
                np.stack([rank + 1 + np.arange(P - 1), rank + np.arange(P - 1)], axis=1) % P
            ),
            "the exchanges are in the reverse order": lambda P, rank: np.flip(_ring(P, rank, 1, 1), 0).copy(),
            "pieces are not counted around the circle: take their numbers modulo P": lambda P, rank: (
                rank + np.arange(P - 1)[:, None] + [1, 2]
            ),
            "one exchange too many: there are P − 1": lambda P, rank: _ring(P, rank, 1, 1, exchanges=0),
        },
    ),
    "factors": Exercise(
        right=_factors,
        cases=[(_COUNTS,), (np.array([[4.0, 2], [1, 1], [0, 8]]),)],
        mistakes={
            "DDP divides by the number of ranks; multiply by it": lambda counts: counts / counts.sum(),
            "this is for the gradient of the summed loss; here each micro-batch gives its mean": lambda counts: (
                np.full_like(counts, len(counts) / counts.sum())
            ),
            "this is the mean of means: every micro-batch weighs the same": lambda counts: np.full_like(
                counts, 1 / counts.shape[1]
            ),
            "this is the mean of means, divided by the ranks twice: DDP does it once": lambda counts: np.full_like(
                counts, 1 / counts.size
            ),
            "each rank divides by its own targets; divide by those of all ranks": lambda counts: (
                counts / counts.sum(axis=1, keepdims=True)
            ),
            "the sum goes over the ranks only; take all micro-batches of all ranks": lambda counts: (
                counts * len(counts) / counts.sum(axis=0, keepdims=True)
            ),
            "this multiplies by the number of micro-batches; it is the ranks that DDP averages over": lambda counts: (
                counts * counts.shape[1] / counts.sum()
            ),
            "this multiplies by ranks times micro-batches; DDP averages over the ranks only": lambda counts: (
                counts * counts.size / counts.sum()
            ),
        },
    ),
    "two_floors": Exercise(
        right=_two_floors,
        cases=[(960.0, 8, 4), (960.0, 4, 2), (1200.0, 2, 5), (960.0, 8, 2)],
        mistakes={
            "between nodes only a piece of 1/G travels, after the reduce-scatter": lambda b, G, K: (
                2 * (G - 1) / G * b,
                2 * (K - 1) / K * b,
            ),
            "inside a node there are two halves: reduce-scatter and all-gather": lambda b, G, K: (
                (G - 1) / G * b,
                2 * (K - 1) / K * b / G,
            ),
            "between nodes an all-reduce has two halves, too": lambda b, G, K: (
                2 * (G - 1) / G * b,
                (K - 1) / K * b / G,
            ),
            "both are half: an all-reduce has two halves": lambda b, G, K: (
                (G - 1) / G * b,
                (K - 1) / K * b / G,
            ),
            "the two are turned: first inside, then between": lambda b, G, K: _two_floors(b, G, K)[::-1],
            "a ring of K sends (K − 1)/K of the piece in each half, not the whole of it": lambda b, G, K: (
                2 * (G - 1) / G * b,
                2 * b / G,
            ),
            "this is for all devices of a node; one device was asked": lambda b, G, K: (
                2 * (G - 1) * b,
                2 * (K - 1) / K * b,
            ),
            "G and K are turned: the ring inside a node has G devices": lambda b, G, K: (
                2 * (K - 1) / K * b,
                2 * (G - 1) / G * b / K,
            ),
            "this cuts the piece by K, too, and then counts the ring's pieces of it": lambda b, G, K: (
                2 * (G - 1) / G * b,
                2 * (K - 1) / K * b / (G * K),
            ),
        },
    ),
    "devices": Exercise(
        right=_devices,
        cases=[(7, 0, 112), (7, 0, 111), (7, 1, 43), (7, 1, 28), (7, 2, 28), (7, 2, 20), (65, 3, 80), (1, 3, 80)],
        mistakes={
            "only what the stage cuts is divided by the devices; the rest stays whole on each": _all_cut,
            "rounded down: then it does not fit": lambda N, stage, budget: _devices(
                N, stage, budget, rounded=math.floor
            ),
            "rounded to the nearest: then it may not fit": lambda N, stage, budget: _devices(
                N, stage, budget, rounded=round
            ),
            "that is one device too many": lambda N, stage, budget: (
                _devices(N, stage, budget) + 1 if stage and _devices(N, stage, budget) else _devices(N, stage, budget)
            ),
            "stage 1 cuts the 12 bytes of the optimizer, 2 also the gradients, 3 also the weights": (
                lambda N, stage, budget: _devices(N, min(stage + 1, 3), budget)
            ),
            "this takes every stage for stage 3, and never says 0": lambda N, stage, budget: _devices(N, 3, budget),
            "the optimizer's state has 12 bytes: the float32 copy of the weights belongs to it": (
                lambda N, stage, budget: _devices(N, stage, budget, state=8)
            ),
            "what stays whole is taken from the budget of each device first": lambda N, stage, budget: (
                max(1, math.ceil((0, 12, 14, 16)[stage] * N / budget)) if _devices(N, stage, budget) else 0
            ),
        },
    ),
    "clip": Exercise(
        right=_clip,
        cases=[(_SHARDS, 1.0), (_SHARDS, 100.0), (0 * _SHARDS, 1.0), (5 * _SHARDS, 2.0)],
        mistakes={
            "each rank still clips by its own norm, so the direction changes": _clip_by(lambda norms: norms[:, None]),
            "norms do not add up; their squares do": _clip_by(np.sum),
            "this takes the mean of the norms": _clip_by(np.mean),
            "this takes the largest norm of a rank; all of them count": _clip_by(np.max),
            "the root is missing: this is the squared norm": _clip_by(lambda norms: (norms**2).sum()),
            "the squares are averaged over the ranks; add them": _clip_by(lambda norms: np.sqrt((norms**2).mean())),
            "small gradients are stretched: the factor is at most 1": lambda shards, max_norm: (
                shards * max_norm / max(np.linalg.norm(shards), 1e-300)
            ),
            "nothing is clipped": lambda shards, max_norm: 1.0 * shards,
        },
    ),
    "finish": Exercise(
        right=_finish,
        cases=_TIMELINES,
        mistakes={
            "buckets do not wait for the network: one is sent at a time": _finish_but(queue=False),
            "nothing overlaps: here every bucket waits for the whole backward pass": _finish_but(overlap=False),
            "a bucket leaves with its last gradient, not with its first": _finish_but(first=True),
            "buckets do not wait for their gradients: this is the network's time alone": _finish_but(wait=False),
            "the delay, too, occupies the network: it begins when the bucket before has arrived": _finish_but(
                early=True
            ),
            "the last bucket, which may have fewer layers, is left out": _finish_but(whole=True),
            "the delay is missing; each bucket has it once": lambda ready, sizes, per_bucket, delay, bandwidth: _finish(
                ready, sizes, per_bucket, 0.0, bandwidth
            ),
            "each layer pays the delay; a bucket pays it once": lambda ready, sizes, per_bucket, delay, bandwidth: (
                _finish(ready, sizes + delay * bandwidth, per_bucket, 0.0, bandwidth)
            ),
            "each layer travels alone, without buckets": lambda ready, sizes, per_bucket, delay, bandwidth: _finish(
                ready, sizes, 1, delay, bandwidth
            ),
            "bytes are divided by the bandwidth, not multiplied": lambda ready, sizes, per_bucket, delay, bandwidth: (
                _finish(ready, sizes, per_bucket, delay, 1 / bandwidth)
            ),
        },
    ),
}
