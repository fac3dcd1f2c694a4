"""Exercises of chapter 03, positions."""

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.positions import apply_rope, rope_frequencies, rope_table

_RNG = np.random.default_rng(3)
_TURNS = [(_RNG.normal(size=(2, 5, 8)), *rope_table(8, 5))]
_WEIGHTS = [(_RNG.normal(size=(16, 6)), 2), (_RNG.normal(size=(8, 3)), 1)]


def _reflected(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = x[..., 0::2], x[..., 1::2]
    return np.stack([a * cos - b * sin, a * sin - b * cos], axis=-1).reshape(x.shape)


def _halves(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _unwoven(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = x[..., 0::2], x[..., 1::2]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _overwritten(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = x[..., 0::2], x[..., 1::2]
    a = a * cos - b * sin
    return np.stack([a, a * sin + b * cos], axis=-1).reshape(x.shape)


def _to_halves(w: np.ndarray, n_heads: int) -> np.ndarray:
    return w.reshape(n_heads, -1, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


EXERCISES = {
    "frequencies": Exercise(
        right=rope_frequencies,
        cases=[(8, 10_000.0), (128, 500_000.0), (2, 10_000.0)],
        mistakes={
            "there is one for each feature; a pair has one frequency, so there are Dh/2": lambda head_dim, theta: (
                theta ** (-np.arange(head_dim) / head_dim)
            ),
            "the exponent has no minus: the frequencies grow": lambda head_dim, theta: (
                theta ** (np.arange(0, head_dim, 2) / head_dim)
            ),
            "theta is ignored": lambda head_dim, theta: rope_frequencies(head_dim, 10_000.0),
            "parentheses are missing: the power comes before the division": lambda head_dim, theta: (
                theta ** -np.arange(0, head_dim, 2.0) / head_dim
            ),
            "the exponent uses i where it should use 2i": lambda head_dim, theta: (
                theta ** (-np.arange(head_dim // 2) / head_dim)
            ),
        },
    ),
    "apply_rope": Exercise(
        right=apply_rope,
        cases=_TURNS,
        mistakes={
            "the second line has a minus too many; this is no rotation, since it changes lengths": _reflected,
            "it turns the other way: the sine has the wrong sign": lambda x, cos, sin: apply_rope(x, cos, -sin),
            "these are the pairs (i, i + Dh/2) of the transformers library; here neighbors are pairs": _halves,
            "the first line has changed a before the second one reads it": _overwritten,
            "both signs are plus; in the first line b comes with a minus": lambda x, cos, sin: np.stack(
                [x[..., 0::2] * cos + x[..., 1::2] * sin, x[..., 0::2] * sin + x[..., 1::2] * cos], axis=-1
            ).reshape(x.shape),
            "the pairs still have an axis of their own: reshape at the end": lambda x, cos, sin: np.stack(
                [x[..., 0::2] * cos - x[..., 1::2] * sin, x[..., 0::2] * sin + x[..., 1::2] * cos], axis=-1
            ),
            "the pairs are turned, and then not woven together again": _unwoven,
        },
    ),
    "to_halves": Exercise(
        right=_to_halves,
        cases=_WEIGHTS,
        mistakes={
            "the rows are reordered across heads; each head must be reordered on its own": lambda w, n_heads: (
                _to_halves(w, 1)
            ),
            "this is the way back, from the half-split layout to neighboring pairs": lambda w, n_heads: (
                w.reshape(n_heads, 2, -1, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)
            ),
            "nothing is reordered": lambda w, n_heads: w,
        },
    ),
    "round_trip": Exercise(
        right=round(2 * np.pi * 10_000 ** (126 / 128)),
        mistakes={
            "this is right; now round it": 2 * np.pi * 10_000 ** (126 / 128),
            "the exponent is 2i/Dh with i = 63, not i/Dh": round(2 * np.pi * 10_000 ** (63 / 128)),
            "the slowest pair is number 63, since they count from 0": round(2 * np.pi * 10_000 ** (124 / 128)),
            "2i is even: the last pair has 2i = 126": round(2 * np.pi * 10_000 ** (127 / 128)),
            "this is 2π·theta; the slowest frequency is theta to the power of −126/128, not of −1": round(
                2 * np.pi * 10_000
            ),
            "this is one radian; a round has 2π of them": round(10_000 ** (126 / 128)),
        },
    ),
}
