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


def _key(q: np.ndarray, n: int, theta: float) -> np.ndarray:
    angles = n * rope_frequencies(len(q), theta)
    return apply_rope(q, np.cos(angles), np.sin(angles))


def _distance(T: int) -> np.ndarray:
    return np.arange(T)[:, None] - np.arange(T)


def _alibi(slopes: np.ndarray, T: int) -> np.ndarray:
    return np.where(_distance(T) < 0, -np.inf, -slopes[:, None, None] * _distance(T))


def _theta(n: int, head_dim: int) -> float:
    return (n / (2 * np.pi)) ** (head_dim / (head_dim - 2))


EXERCISES = {
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
    "key_for_distance": Exercise(
        right=_key,
        cases=[(_RNG.normal(size=8), 3, 10_000.0), (_RNG.normal(size=4), 12, 100.0)],
        mistakes={
            "it looks ahead: this key scores highest n tokens after the query": lambda q, n, theta: _key(q, -n, theta),
            "the key is not turned: it scores highest at distance 0": lambda q, n, theta: q,
            "this is the key for one token back": lambda q, n, theta: _key(q, 1, theta),
            "this is right for a base of 10,000; use theta": lambda q, n, theta: _key(q, n, 10_000.0),
            "this is the half-split layout; here neighbors are pairs": lambda q, n, theta: _halves(
                q, *(table[n] for table in rope_table(len(q), n + 1, theta))
            ),
            "the exponent uses i where it should use 2i": lambda q, n, theta: _key(q, n, theta**0.5),
            "every pair is turned by the same angle; each has its own frequency": lambda q, n, theta: _key(q, n, 1.0),
            "the key should be as long as q": lambda q, n, theta: _key(q, n, theta) / np.linalg.norm(q),
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
            "the columns are reordered; the rows of w make q": lambda w, n_heads: w[
                :, np.r_[0 : w.shape[1] : 2, 1 : w.shape[1] : 2]
            ],
            "the second entries come first": lambda w, n_heads: (
                w.reshape(n_heads, -1, 2, w.shape[-1])[:, :, ::-1].swapaxes(1, 2).reshape(w.shape)
            ),
            "the axis of the heads is swapped; swap pair and entry": lambda w, n_heads: (
                w.reshape(n_heads, -1, 2, w.shape[-1]).swapaxes(0, 1).reshape(w.shape)
                if n_heads > 1
                else w.reshape(-1, 2, w.shape[-1]).swapaxes(0, 1).reshape(w.shape)
            ),
        },
    ),
    "alibi": Exercise(
        right=_alibi,
        cases=[(np.array([0.5, 0.25]), 4), (np.array([1.0]), 3), (np.array([2.0, 0.5, 0.1]), 2)],
        mistakes={
            "the sign is turned: far keys should get less": lambda slopes, T: np.where(
                _distance(T) < 0, -np.inf, slopes[:, None, None] * _distance(T)
            ),
            "the future is not hidden": lambda slopes, T: -slopes[:, None, None] * _distance(T),
            "the future is not hidden, and counts as if it were past": lambda slopes, T: (
                -slopes[:, None, None] * abs(_distance(T))
            ),
            "the past is hidden; hide the keys with s > t": lambda slopes, T: np.where(
                _distance(T) > 0, -np.inf, -slopes[:, None, None] * _distance(T)
            ),
            "rows and columns are exchanged: rows are queries": lambda slopes, T: _alibi(slopes, T).swapaxes(-1, -2),
            "a key does not see itself; the distance 0 is allowed": lambda slopes, T: np.where(
                _distance(T) <= 0, -np.inf, -slopes[:, None, None] * _distance(T)
            ),
            "the distance is counted from 1": lambda slopes, T: _alibi(slopes, T) - slopes[:, None, None],
            "hidden keys get 0; they should get −∞": lambda slopes, T: np.where(
                _distance(T) < 0, 0, -slopes[:, None, None] * _distance(T)
            ),
            "the slope of the first head is used for all": lambda slopes, T: _alibi(0 * slopes + slopes[0], T),
            "the heads are the last axis; return (H, T, T)": lambda slopes, T: np.moveaxis(_alibi(slopes, T), 0, -1),
        },
    ),
    "theta": Exercise(
        right=_theta,
        cases=[(2048, 128), (8192, 64), (100, 4), (700, 6)],
        draw=lambda rng: (int(rng.integers(20, 9999)), 2 * int(rng.integers(2, 99))),
        mistakes={
            "this is for one radian; a round has 2π of them": lambda n, head_dim: n ** (head_dim / (head_dim - 2)),
            "the exponent is turned over": lambda n, head_dim: (n / (2 * np.pi)) ** ((head_dim - 2) / head_dim),
            "the slowest pair has 2i = Dh − 2, not Dh": lambda n, head_dim: n / (2 * np.pi),
            "2i is even: the last pair has 2i = Dh − 2": lambda n, head_dim: (
                (n / (2 * np.pi)) ** (head_dim / (head_dim - 1))
            ),
            "multiply or divide? the wavelength is 2π divided by the frequency": lambda n, head_dim: (
                (n * 2 * np.pi) ** (head_dim / (head_dim - 2))
            ),
            "this is the slowest frequency; its base is asked for": lambda n, head_dim: 2 * np.pi / n,
        },
    ),
}
