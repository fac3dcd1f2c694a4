"""Exercises of chapter 17, parameter sharing."""

from collections.abc import Callable
from functools import partial
from math import ceil

import numpy as np

from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(17)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape)


def _shared_block(
    x: np.ndarray,
    w: np.ndarray,
    times: int,
    d_x: np.ndarray,
    *,
    uses: slice = slice(None),
    around: bool = True,
    bent: bool = True,
    inputs: Callable[[list[np.ndarray]], list[np.ndarray]] = list,
    mean: bool = False,
) -> np.ndarray:
    """The gradient by a matrix that x + tanh(x w) uses so many times; or one with a mistake."""
    entered = []
    for _ in range(times):
        entered.append(x)
        x = x + np.tanh(x @ w)
    parts = []
    for entry, before in zip(reversed(inputs(entered)), reversed(entered), strict=True):
        d_z = d_x * (1 - np.tanh(before @ w) ** 2) if bent else d_x
        parts.append(entry.T @ d_z)
        d_x = d_z @ w.T + (d_x if around else 0)
    total = sum(parts[::-1][uses])
    return total / times if mean else total


def _texts(
    memory: float,
    ends: float,
    per_layer: float,
    n_layers: int,
    times: int,
    n_kv_heads: int,
    head_dim: int,
    n_tokens: int,
    *,
    numbers: float = 2,
    size: int = 2,
    cached: float = 1,
    stored: float = 1,
    rounded: Callable[[float], int] = int,
    least: float = 0,
) -> int:
    """How many texts fit; or with other numbers for each head and token, of another size, cached or stored so often."""
    weights = size * (ends + per_layer * n_layers / times**stored)
    cache = size * numbers * n_layers * n_kv_heads * head_dim * n_tokens / times ** (1 - cached)
    return max(least, rounded((memory - weights) / cache))


def _without_weights(memory: float, ends: float, per_layer: float, *shape: int) -> int:
    return _texts(memory, 0, 0, *shape)


_MACHINES = [
    (80e9, 0.26e9, 0.2e9, 32, 1, 32, 128, 2048),
    (80e9, 0.26e9, 0.2e9, 32, 2, 8, 128, 2048),
    (24e9, 0.26e9, 0.2e9, 32, 4, 32, 128, 4096),
    (80e9, 0.52e9, 0.8e9, 80, 1, 64, 128, 2048),
    (80e9, 0.52e9, 0.8e9, 80, 8, 1, 128, 2048),
]


def _pool(w: np.ndarray, n_heads: int, n_groups: int, *, over: Callable = np.mean) -> np.ndarray:
    heads = w.reshape(n_groups, n_heads // n_groups, -1, w.shape[1])
    return over(heads, axis=1).reshape(-1, w.shape[1])


def _every_second(w: np.ndarray, n_heads: int, n_groups: int, *, over: Callable = np.mean) -> np.ndarray:
    heads = w.reshape(n_heads // n_groups, n_groups, -1, w.shape[1])
    return over(heads, axis=0).reshape(-1, w.shape[1])


def _neighboring_rows(w: np.ndarray, n_heads: int, n_groups: int) -> np.ndarray:
    return w.reshape(-1, n_heads // n_groups, w.shape[1]).mean(axis=1)


def _chosen(w: np.ndarray, n_heads: int, n_groups: int, *, member: int) -> np.ndarray:
    heads = w.reshape(n_groups, n_heads // n_groups, -1, w.shape[1])
    return heads[:, member].reshape(-1, w.shape[1])


def _all_alike(w: np.ndarray, n_heads: int, n_groups: int) -> np.ndarray:
    return np.tile(_pool(w, n_heads, 1), (n_groups, 1))


_HEADS = [(_normal(8, 3), 4, 2), (_normal(12, 5), 6, 2), (_normal(12, 4), 6, 3), (_normal(8, 3), 4, 1)]


def _agreement(gradients: np.ndarray, *, power: float = 1.0, mean: bool = False) -> float:
    together = gradients.mean(axis=0) if mean else gradients.sum(axis=0)
    return float(((together**2).sum() / (gradients**2).sum()) ** power)


def _mean_cosine(gradients: np.ndarray) -> float:
    flat = gradients.reshape(len(gradients), -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = unit @ unit.T
    return float(cosines[np.triu_indices(len(unit), 1)].mean())


_USES = [
    (_normal(4, 3, 2),),
    (_normal(1, 5) + 0.3 * _normal(3, 5),),
    (np.stack([one := _normal(2, 2), -one + 0.1 * _normal(2, 2)]),),
]


def _shared_values(w: np.ndarray, n_heads: int, *, rank: Callable[[int, int], int] = lambda Dh, H: Dh) -> np.ndarray:
    """The nearest matrix whose heads all make their values from so many common numbers."""
    U, S, Vt = np.linalg.svd(w, full_matrices=False)
    r = rank(len(w) // n_heads, n_heads)
    return (U[:, :r] * S[:r]) @ Vt[:r]


def _spread(w: np.ndarray, n_heads: int, *, over: Callable) -> np.ndarray:
    return np.tile(over(w.reshape(n_heads, -1, w.shape[1])), (n_heads, 1))


def _centered(w: np.ndarray, n_heads: int) -> np.ndarray:
    mean = w.mean(axis=0)
    return _shared_values(w - mean, n_heads) + mean


def _without_strengths(w: np.ndarray, n_heads: int) -> np.ndarray:
    U, _, Vt = np.linalg.svd(w, full_matrices=False)
    Dh = len(w) // n_heads
    return U[:, :Dh] @ Vt[:Dh]


EXERCISES = {
    "shared_block": Exercise(
        right=_shared_block,
        cases=[(_normal(4, 3), 0.5 * _normal(3, 3), times, _normal(4, 3)) for times in (3, 2, 4)],
        mistakes={
            "this is the last use alone; each use sends a gradient to the weights: add them": partial(
                _shared_block, uses=slice(-1, None)
            ),
            "this is the first use alone; each use sends a gradient to the weights: add them": partial(
                _shared_block, uses=slice(1)
            ),
            "this is the mean over the uses; the weights get the sum": partial(_shared_block, mean=True),
            "the first use is missing": partial(_shared_block, uses=slice(1, None)),
            "the last use is missing": partial(_shared_block, uses=slice(-1)),
            "the way around the block is missing: d_x also goes straight through": partial(_shared_block, around=False),
            "the bend is missing: d_x goes through tanh first, times 1 - tanh²": partial(_shared_block, bent=False),
            "every use is taken with the first input; each has its own": partial(
                _shared_block, inputs=lambda entered: [entered[0]] * len(entered)
            ),
            "every use is taken with the last input; each has its own": partial(
                _shared_block, inputs=lambda entered: [entered[-1]] * len(entered)
            ),
        },
    ),
    "texts_that_fit": Exercise(
        right=_texts,
        cases=_MACHINES,
        mistakes={
            "the cache is divided by `times`: each application of a block has keys and values of its own": partial(
                _texts, cached=0
            ),
            "the weights are not divided by `times`: a shared block is stored once": partial(_texts, stored=0),
            "a slot holds a key and a value: twice as many numbers": partial(_texts, numbers=1),
            "the weights are missing: they are in the memory, too": _without_weights,
            "a bf16 number takes two bytes": partial(_texts, size=1),
            "these are four bytes a number; bf16 takes two": partial(_texts, size=4),
            "half a text does not fit: round down": partial(_texts, rounded=ceil),
            "a memory that is too small for the weights holds 0 texts, and no negative number": partial(
                _texts, least=-np.inf
            ),
        },
    ),
    "pool": Exercise(
        right=_pool,
        cases=_HEADS,
        mistakes={
            "this is the code above, with both of its faults": partial(_every_second, over=np.sum),
            "the groups are of every second or third head; query heads read those of *neighbors*": _every_second,
            "the groups are right; but this is their sum: two equal heads are to become that head": partial(
                _pool, over=np.sum
            ),
            "this averages neighboring rows inside of a head; average heads, row by row": _neighboring_rows,
            "this is the first head of each group; the exercise asks for the mean": partial(_chosen, member=0),
            "this is the last head of each group; the exercise asks for the mean": partial(_chosen, member=-1),
            "this is the mean of all heads, for every group; take each group's own": _all_alike,
            "this is the median of each group; take the mean": partial(_pool, over=np.median),
        },
    ),
    "agreement": Exercise(
        right=_agreement,
        cases=_USES,
        mistakes={
            "the root is too much: a loss falls by the *square* of the gradient's length": partial(
                _agreement, power=0.5
            ),
            "upside down: how much faster is the shared weight?": partial(_agreement, power=-1),
            "this takes the mean gradient; a shared weight gets the sum": partial(_agreement, mean=True),
            "this is the mean cosine between two uses; the lengths count, too": _mean_cosine,
            "this sums the lengths before it squares; the copies' losses fall by each length squared": lambda g: float(
                (g.sum(axis=0) ** 2).sum() / np.linalg.norm(g.reshape(len(g), -1), axis=1).sum() ** 2
            ),
            "this is how far the loss falls with the shared weight; divide by what the copies reach": lambda g: float(
                (g.sum(axis=0) ** 2).sum()
            ),
            "this is by how much it falls faster, less one: give the ratio itself": lambda g: _agreement(g) - 1,
        },
    ),
    "shared_values": Exercise(
        right=_shared_values,
        cases=[(_normal(6, 5), 3), (_normal(8, 8), 4), (_normal(4, 9), 2)],
        mistakes={
            "all heads are the mean head here; each may mix the common numbers in its own way": partial(
                _spread, over=lambda heads: heads.mean(axis=0)
            ),
            "all heads are the first head here; each may mix the common numbers in its own way": partial(
                _spread, over=lambda heads: heads[0]
            ),
            "so many numbers as heads are shared here; share as many as a head is wide": partial(
                _shared_values, rank=lambda Dh, H: H
            ),
            "one common number is shared here; share as many as a head is wide": partial(
                _shared_values, rank=lambda Dh, H: 1
            ),
            "nothing is shared: this is `w` itself": lambda w, n_heads: w.copy(),
            "the mean of all rows is taken out and put back: that makes one common number more": _centered,
            "the strengths (singular values) are missing": _without_strengths,
        },
    ),
}
