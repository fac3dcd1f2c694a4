"""Exercises of chapter 05, normalization."""

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


_Q, _K = _RNG.normal(size=(2, 3, 4)) + 0.5, _RNG.normal(size=(2, 5, 4)) + 0.5


def _cosine(n: int, a: float, kind: str) -> float:
    """What is left of the embedding after n sub-layers that each add a mean square of a."""
    if kind == "pre":
        return (1 + n * a) ** -0.5
    return (1 + a / (n**0.5 if kind == "scaled" else 1)) ** (-n / 2)


def _unit(x: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=axis, keepdims=True) + 1e-5)


def _scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return _unit(q) @ _unit(k).swapaxes(-1, -2) / np.sqrt(q.shape[-1])


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
            "the sign is turned": lambda x, d_out, eps: -_layer_norm_backward(x, d_out, eps),
            "this is the output of LayerNorm, not its gradient": lambda x, d_out, eps: layer_norm(
                x, _ONES, 0 * _ONES, eps
            ),
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
            "w is transposed; return (F, D), as it was": lambda weight, w: (w * weight).T,
            "the weight is applied twice": lambda weight, w: w * weight**2,
            "the weight is added; the norm's output was multiplied by it": lambda weight, w: w + weight,
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
    "cosine": Exercise(
        right=_cosine,
        cases=[(160, 0.5, "pre"), (160, 0.05, "post"), (160, 0.5, "scaled"), (3, 2.0, "post"), (2, 1.0, "scaled")],
        mistakes={
            "mean squares add up, not their roots; a cosine is a ratio of roots": lambda n, a, kind: (
                _cosine(n, a, kind) ** 2
            ),
            "with pre-norm what is added does not grow with the stream: 1 + n·a, not (1 + a) to the power of n": (
                lambda n, a, kind: _cosine(n, a, "post" if kind == "pre" else kind)
            ),
            "post-norm divides the stream after each step, so cosines multiply; this is pre-norm's sum": (
                lambda n, a, kind: _cosine(n, a, "pre" if kind == "post" else kind)
            ),
            "c multiplies the stream, so it counts with its square beside a": lambda n, a, kind: (
                (1 + a / n**0.25) ** (-n / 2) if kind == "scaled" else _cosine(n, a, kind)
            ),
            "for the scaled kind this is one step; there are n": lambda n, a, kind: (
                (1 + a / n**0.5) ** -0.5 if kind == "scaled" else _cosine(n, a, kind)
            ),
            "c is missing: this is plain post-norm": lambda n, a, kind: _cosine(n, a, kind.replace("scaled", "post")),
            "this is pre-norm for every kind": lambda n, a, kind: _cosine(n, a, "pre"),
            "this is post-norm for every kind": lambda n, a, kind: _cosine(n, a, "post"),
            "these are sizes; divide what is left of the embedding by them": lambda n, a, kind: 1 / _cosine(n, a, kind),
            "there are n sub-layers, whatever the number of layers": lambda n, a, kind: _cosine(2 * n, a, kind),
        },
    ),
    "qk_norm": Exercise(
        right=_scores,
        cases=[(_Q, _K), (1000 * _Q, _K)],
        mistakes={
            "nothing is normalized": lambda q, k: q @ k.swapaxes(-1, -2) / 2,
            "nothing is normalized, and the division by the root of Dh is missing": lambda q, k: q @ k.swapaxes(-1, -2),
            "only the queries are normalized": lambda q, k: _unit(q) @ k.swapaxes(-1, -2) / 2,
            "only the keys are normalized": lambda q, k: q @ _unit(k).swapaxes(-1, -2) / 2,
            "the division by the root of Dh is missing": lambda q, k: 2 * _scores(q, k),
            "this divides by Dh; divide by its root": lambda q, k: _scores(q, k) / 2,
            "these are cosines: an RMSNorm leaves the length √Dh, not 1": lambda q, k: (
                (q / np.linalg.norm(q, axis=-1, keepdims=True))
                @ (k / np.linalg.norm(k, axis=-1, keepdims=True)).swapaxes(-1, -2)
            ),
            "the norm goes over time; it belongs to one vector, the last axis": lambda q, k: (
                _unit(q, axis=-2) @ _unit(k, axis=-2).swapaxes(-1, -2) / 2
            ),
            "the norm goes over time and features; it belongs to one vector, the last axis": lambda q, k: (
                _unit(q, axis=(-2, -1)) @ _unit(k, axis=(-2, -1)).swapaxes(-1, -2) / 2
            ),
            "the scores are normalized; normalize q and k, before the product": lambda q, k: (
                _unit(q @ k.swapaxes(-1, -2)) / 2
            ),
            "the mean is subtracted: this is LayerNorm": lambda q, k: _scores(
                q - q.mean(axis=-1, keepdims=True), k - k.mean(axis=-1, keepdims=True)
            ),
        },
    ),
}
