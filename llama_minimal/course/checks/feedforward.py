"""Exercises of chapter 04, the feed-forward layer."""

import math

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.feedforward import silu, swiglu

_RNG = np.random.default_rng(4)
_LAYERS = [tuple(_RNG.normal(size=shape) for shape in ((5, 4), (6, 4), (4, 6), (6, 4)))]
_BACKWARD = [(_RNG.normal(size=(5, 4)), *_LAYERS[0])]
_WIDTHS = [(4096, 256), (5120, 256), (8192, 256), (64, 1), (100, 32)]
_Z = [(np.linspace(-6, 6, 25),)]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _input_gradient(
    d_out: np.ndarray, x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray, *, slope: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of the gradient at x, through the gate and through the way up."""
    gate, up = x @ w1.T, x @ w3.T
    s, d_hidden = _sigmoid(gate), d_out @ w2
    return (d_hidden * up * (s * (1 + gate * (1 - s)) if slope else 1)) @ w1, (d_hidden * gate * s) @ w3


def _width(dim: int, multiple_of: int) -> int:
    return -(-int(2 * 4 * dim / 3) // multiple_of) * multiple_of


EXERCISES = {
    "swiglu": Exercise(
        right=swiglu,
        cases=_LAYERS,
        mistakes={
            "the activation is on w3; the gate is w1": lambda x, w1, w2, w3: swiglu(x, w3, w2, w1),
            "the gate is a plain sigmoid; silu is z times sigmoid(z)": lambda x, w1, w2, w3: (
                (_sigmoid(x @ w1.T) * (x @ w3.T)) @ w2.T
            ),
            "gate and way up are added; they are multiplied": lambda x, w1, w2, w3: (silu(x @ w1.T) + x @ w3.T) @ w2.T,
            "the silu is on the product; it belongs on the gate alone": lambda x, w1, w2, w3: (
                silu((x @ w1.T) * (x @ w3.T)) @ w2.T
            ),
            "both ways up are bent; only the gate is": lambda x, w1, w2, w3: (silu(x @ w1.T) * silu(x @ w3.T)) @ w2.T,
            "the gate is a ReLU; LLaMA's is a SiLU": lambda x, w1, w2, w3: (
                (np.maximum(0, x @ w1.T) * (x @ w3.T)) @ w2.T
            ),
            "nothing is bent: the silu is missing": lambda x, w1, w2, w3: ((x @ w1.T) * (x @ w3.T)) @ w2.T,
        },
    ),
    "width": Exercise(
        right=_width,
        cases=_WIDTHS,
        mistakes={
            "cut 8/3 · dim to a whole number before you round up to the multiple": lambda dim, m: (
                math.ceil(8 * dim / 3 / m) * m
            ),
            "it rounds down to a multiple; LLaMA rounds up": lambda dim, m: int(8 * dim / 3) // m * m,
            "it rounds to the nearest multiple; LLaMA rounds up": lambda dim, m: round(8 * dim / 3 / m) * m,
            "the two thirds are missing: this is 4 · dim": lambda dim, m: -(-4 * dim // m) * m,
            "it is not rounded to a multiple": lambda dim, m: int(8 * dim / 3),
        },
    ),
    "silu_slope": Exercise(
        right=lambda z: _sigmoid(z) + z * _sigmoid(z) * (1 - _sigmoid(z)),
        cases=_Z,
        mistakes={
            "this is the slope of the sigmoid; silu has the factor z, so use the product rule": lambda z: (
                _sigmoid(z) * (1 - _sigmoid(z))
            ),
            "the product rule has two terms: σ(z) is missing": lambda z: z * _sigmoid(z) * (1 - _sigmoid(z)),
            "σ(z) multiplies both terms: σ + zσ(1 − σ)": lambda z: _sigmoid(z) + z * (1 - _sigmoid(z)),
            "the factor σ(z) in front is missing": lambda z: 1 + z * (1 - _sigmoid(z)),
            "this is silu itself, and not its slope": silu,
        },
    ),
    "input_gradient": Exercise(
        right=lambda *case: sum(_input_gradient(*case)),
        cases=_BACKWARD,
        mistakes={
            "this is the function above: the way through w3 is missing": lambda *case: _input_gradient(*case)[0],
            "the way through the gate is missing": lambda *case: _input_gradient(*case)[1],
            "the gate's gradient lacks the slope of silu": lambda *case: sum(_input_gradient(*case, slope=False)),
            "the two ways are multiplied; their gradients are added": lambda *case: np.multiply(
                *_input_gradient(*case)
            ),
        },
    ),
    "break_even": Exercise(
        right=6 * 4096 * 11008 // (4 * 4096),
        mistakes={
            "this counts two matrices in the feed-forward layer; SwiGLU has three": 4 * 11008 // 4,
            "this takes F = 4D; LLaMA-7B has F = 11,008": 6 * 4 * 4096 // 4,
            "round 8/3 · D up to a multiple of 256: F = 11,008": 16384,
            "this counts one of attention's two products": 3 * 11008,
            "solve 4·T·D = 6·D·F for T: this forgot the 4": 6 * 11008,
        },
    ),
}
