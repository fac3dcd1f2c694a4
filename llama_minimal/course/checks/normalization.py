"""Exercises of chapter 05, normalization."""

import math

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.normalization import layer_norm, layer_norm_vjp, rms_norm, rms_norm_vjp

_RNG = np.random.default_rng(5)
_X, _WEIGHT, _D_OUT = _RNG.normal(size=(2, 3, 5)) + 1, _RNG.normal(size=5), _RNG.normal(size=(2, 3, 5))
_ONES = np.ones(5)


def _layer_norm_backward(
    x: np.ndarray, d_out: np.ndarray, eps: float, *, center: bool = True, constant: bool = False
) -> np.ndarray:
    """The right gradient, or one without the centering or with the variance taken for a constant."""
    centered = x - x.mean(axis=-1, keepdims=True)
    r = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps)
    unit = centered / r
    d_x = (d_out - (0 if constant else unit * (unit * d_out).mean(axis=-1, keepdims=True))) / r
    return d_x - d_x.mean(axis=-1, keepdims=True) if center else d_x


_LINEAR = [(_WEIGHT, _RNG.normal(size=(5, 5)))]  # square: rows for columns then gives an answer, and not an error


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
            "epsilon is missing": lambda x, weight, eps: rms_norm(x, weight, 0.0),
            "the root is missing: this divides by the mean square": lambda x, weight, eps: (
                x / ((x**2).mean(axis=-1, keepdims=True) + eps) * weight
            ),
            "one root mean square for all tokens: take the mean over the last axis": lambda x, weight, eps: (
                x / np.sqrt((x**2).mean() + eps) * weight
            ),
            "the weight is missing": lambda x, weight, eps: rms_norm(x, 1 + 0 * weight, eps),
        },
    ),
    "layer_norm_backward": Exercise(
        right=lambda x, d_out, eps: layer_norm_vjp(x, _ONES, 0 * _ONES, eps)[1](d_out)[0],
        cases=[(_X, _D_OUT, 1e-5), (0.1 * _X, _D_OUT, 1e-2)],
        mistakes={
            "this is right behind the centering; the gradient must be centered, too": lambda x, d_out, eps: (
                _layer_norm_backward(x, d_out, eps, center=False)
            ),
            "this takes the standard deviation for a constant; it depends on x, too": lambda x, d_out, eps: (
                _layer_norm_backward(x, d_out, eps, constant=True)
            ),
            "mean and standard deviation are taken for constants; they depend on x": lambda x, d_out, eps: (
                _layer_norm_backward(x, d_out, eps, constant=True, center=False)
            ),
            "this is the gradient of RMSNorm; center x first": lambda x, d_out, eps: rms_norm_vjp(x, _ONES, eps)[1](
                d_out
            )[0],
            "epsilon is missing": lambda x, d_out, eps: _layer_norm_backward(x, d_out, 0.0),
        },
    ),
    "merge": Exercise(
        right=lambda weight, w: w * weight,
        cases=_LINEAR,
        mistakes={
            "the rows are multiplied; a feature of the input meets a column of w": lambda weight, w: (
                w * weight[:, None]
            ),
            "it is divided by the weight; the norm's output was multiplied by it": lambda weight, w: w / weight,
            "nothing is merged": lambda weight, w: w,
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
            "the variance divides by D − 1; LayerNorm divides by D": lambda x, eps: (
                (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + eps)
            ),
            "epsilon is outside of the root": lambda x, eps: (
                (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + eps)
            ),
            "it divides by the variance; take its root": lambda x, eps: (
                (x - x.mean(axis=-1, keepdims=True)) / (x.var(axis=-1, keepdims=True) + eps)
            ),
        },
    ),
    "rms_at_the_top": Exercise(
        right=9.0,
        tolerance=0.002,
        mistakes={
            "this is the mean square; take its root": 81.0,
            "the stream begins with a mean square of 1; add it": math.sqrt(80),
            "there are 160 sub-layers, two in each layer": math.sqrt(41),
            "each adds a half, and not a whole": math.sqrt(161),
            "mean squares add up, and not their roots": 1 + 160 * math.sqrt(0.5),
            "that would be without norms, where each sub-layer multiplies": 1.5**80,
        },
    ),
}
