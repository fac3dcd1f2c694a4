"""Exercises of chapter 04, the feed-forward layer."""

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.feedforward import silu, swiglu

_RNG = np.random.default_rng(4)
_LAYERS = [tuple(_RNG.normal(size=shape) for shape in ((5, 4), (6, 4), (4, 6), (6, 4)))]
_WIDTHS = [(4096, 256), (5120, 256), (8192, 256), (64, 1), (100, 32)]
_Z = [(np.linspace(-6, 6, 25),)]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


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
            "nothing is bent: the silu is missing": lambda x, w1, w2, w3: ((x @ w1.T) * (x @ w3.T)) @ w2.T,
        },
    ),
    "width": Exercise(
        right=_width,
        cases=_WIDTHS,
        mistakes={
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
            "this is silu itself, and not its slope": silu,
        },
    ),
    "break_even": Exercise(
        right=6 * 4096 * 11008 // (4 * 4096),
        mistakes={
            "this counts two matrices in the feed-forward layer; SwiGLU has three": 4 * 11008 // 4,
            "solve 4·T·D = 6·D·F for T: this forgot the 4": 6 * 11008,
        },
    ),
}
