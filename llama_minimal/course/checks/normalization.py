"""Exercises of chapter 05, normalization."""

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.normalization import layer_norm, rms_norm, rms_norm_vjp

_RNG = np.random.default_rng(5)
_X, _WEIGHT, _D_OUT = _RNG.normal(size=(2, 3, 5)) + 1, _RNG.normal(size=5), _RNG.normal(size=(2, 3, 5))
_ONES = np.ones(5)


def _steps() -> list[tuple]:
    """Return cases of functions that are easy to tell apart."""

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.abs(x).max()

    def f(x: np.ndarray) -> np.ndarray:
        return 3 * x + 1

    return [(_X, norm, f)]


EXERCISES = {
    "rms_norm": Exercise(
        right=rms_norm,
        cases=[(_X, _WEIGHT, 1e-5), (0.01 * _X, _WEIGHT, 1e-2)],
        mistakes={
            "the mean goes over time as well: the norm of a token must not depend on others": lambda x, weight, eps: (
                x / np.sqrt((x**2).mean(axis=(-2, -1), keepdims=True) + eps) * weight
            ),
            "the mean is subtracted: this is LayerNorm": lambda x, weight, eps: layer_norm(x, weight, 0 * weight, eps),
            "epsilon is outside of the root": lambda x, weight, eps: (
                x / (np.sqrt((x**2).mean(axis=-1, keepdims=True)) + eps) * weight
            ),
            "it divides by the length, the root of the sum; take the mean of the squares": lambda x, weight, eps: (
                x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + eps) * weight
            ),
            "the weight is missing": lambda x, weight, eps: rms_norm(x, 1 + 0 * weight, eps),
        },
    ),
    "rms_norm_backward": Exercise(
        right=lambda x, d_out, eps: rms_norm_vjp(x, _ONES, eps)[1](d_out)[0],
        cases=[(_X, _D_OUT, 1e-5)],
        mistakes={
            "this takes the root mean square for a constant; it depends on x, too": lambda x, d_out, eps: (
                d_out / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
            ),
            "the second term has the wrong sign": lambda x, d_out, eps: (
                2 * d_out / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
                - rms_norm_vjp(x, _ONES, eps)[1](d_out)[0]
            ),
            "the division by the root mean square is missing": lambda x, d_out, eps: (
                rms_norm_vjp(x, _ONES, eps)[1](d_out)[0] * np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
            ),
        },
    ),
    "layer_norm": Exercise(
        right=lambda x, eps: layer_norm(x, _ONES, 0 * _ONES, eps),
        cases=[(_X, 1e-5), (_X[0], 1e-2)],
        mistakes={
            "nothing has changed: one mean and one variance for all tokens": lambda x, eps: (
                (x - x.mean()) / np.sqrt(x.var() + eps)
            ),
            "the statistics go over time; they belong to one token": lambda x, eps: (
                (x - x.mean(axis=-2, keepdims=True)) / np.sqrt(x.var(axis=-2, keepdims=True) + eps)
            ),
            "the mean is right, and the variance is still that of all tokens": lambda x, eps: (
                (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var() + eps)
            ),
            "this is RMSNorm: the mean is not subtracted": lambda x, eps: rms_norm(x, _ONES, eps),
        },
    ),
    "pre_norm": Exercise(
        right=lambda x, norm, f: x + f(norm(x)),
        cases=_steps(),
        mistakes={
            "this is post-norm: the sum is normalized": lambda x, norm, f: norm(x + f(x)),
            "the residual is missing": lambda x, norm, f: f(norm(x)),
            "what is added to is the normalized x; the stream itself stays as it is": lambda x, norm, f: (
                norm(x) + f(norm(x))
            ),
            "nothing is normalized": lambda x, norm, f: x + f(x),
        },
    ),
}
