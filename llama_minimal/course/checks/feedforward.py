"""Exercises of chapter 04, the feed-forward layer."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.feedforward import silu, swiglu

Pair = tuple[np.ndarray, np.ndarray]

_RNG = np.random.default_rng(4)
_LAYER = tuple(_RNG.normal(size=shape) for shape in ((5, 4), (6, 4), (4, 6), (6, 4)))
_BACKWARD = [(_RNG.normal(size=(5, 4)), *_LAYER)]
_LARGE = (800.0 * _LAYER[0], *_LAYER[1:])  # the exponential of such a gate overflows
_PAIRS = [(_RNG.normal(size=(7, 2)),), (np.array([[3.0, -2], [0, 5], [-4, -1]]),)]
_FEATURES = [(_RNG.normal(size=6), _RNG.normal(size=(4, 6)), _RNG.normal(size=4))]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def _careless_silu(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return z * (np.exp(z) / (1 + np.exp(z)))


def _gated(bend: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, w1, w2, w3: (bend(x @ w1.T) * (x @ w3.T)) @ w2.T


def _two_features(gate: Callable, up: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """Two features of SwiGLU: silu(x₁)·x₂ and another gate and way up, made of x₁ and x₂."""

    def answer(x: np.ndarray) -> np.ndarray:
        a, b = x[:, :1], x[:, 1:]
        return silu(a) * b + silu(gate(a, b)) * up(a, b)

    return answer


def _with_up_for_gate(d_out: np.ndarray, x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> Pair:
    return _glu_gradients()(d_out, x, w1, w2, w3)[0], (d_out @ w2 * (x @ w3.T)).T @ x


def _glu_gradients(
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda g, s: s * (1 - s),
    passed: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda g, s: s,
    *,
    up_counts: bool = True,
) -> Callable[..., Pair]:
    """The gradients of w1 and w3, or wrong ones: another slope of the gate, or something else let through."""

    def answer(d_out: np.ndarray, x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> Pair:
        gate, up, d_hidden = x @ w1.T, x @ w3.T, d_out @ w2
        s = _sigmoid(gate)
        d_gate = d_hidden * (up if up_counts else 1) * slope(gate, s)
        return d_gate.T @ x, (d_hidden * passed(gate, s)).T @ x

    return answer


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Pair]:
    right = _glu_gradients()
    return lambda *case: tuple(change(part) for part in right(*case))


def _ways(
    d_out: np.ndarray,
    x: np.ndarray,
    w1: np.ndarray,
    w2: np.ndarray,
    w3: np.ndarray,
    *,
    slope_from: Callable[[np.ndarray], np.ndarray] | None = lambda gate: gate,
    opened_from: Callable[[np.ndarray], np.ndarray] = lambda gate: gate,
) -> Pair:
    """The two parts of SwiGLU's gradient at x: through the gate, and through the way up."""
    gate, d_hidden = x @ w1.T, d_out @ w2
    s = _sigmoid(gate)
    slope = 1 if slope_from is None else s * (1 + slope_from(gate) * (1 - s))
    return (d_hidden * (x @ w3.T) * slope) @ w1, (d_hidden * opened_from(gate) * s) @ w3


EXERCISES = {
    "swiglu": Exercise(
        right=swiglu,
        cases=[_LAYER, _LARGE],
        mistakes={
            "the activation is on w3; the gate is w1": lambda x, w1, w2, w3: swiglu(x, w3, w2, w1),
            "the gate is a plain sigmoid; silu is z times sigmoid(z)": _gated(_sigmoid),
            "gate and way up are added; they are multiplied": lambda x, w1, w2, w3: (silu(x @ w1.T) + x @ w3.T) @ w2.T,
            "the silu is on the product; it belongs on the gate alone": lambda x, w1, w2, w3: (
                silu((x @ w1.T) * (x @ w3.T)) @ w2.T
            ),
            "both ways up are bent; only the gate is": lambda x, w1, w2, w3: (silu(x @ w1.T) * silu(x @ w3.T)) @ w2.T,
            "the gate is a ReLU; LLaMA's is a SiLU": _gated(lambda z: np.maximum(0, z)),
            "nothing is bent: the silu is missing": _gated(lambda z: z),
            "the exponential overflows for a large gate: write the sigmoid as 1 / (1 + e⁻ᶻ)": _gated(_careless_silu),
        },
    ),
    "multiply": Exercise(
        right=lambda x: x[:, :1] * x[:, 1:],
        cases=_PAIRS,
        mistakes={
            "this is one feature, silu(x₁)·x₂; a second adds what is missing": lambda x: silu(x[:, :1]) * x[:, 1:],
            "the second feature needs one minus more or less, in w3 or in w2: its sign is wrong": _two_features(
                lambda a, b: -a, lambda a, b: b
            ),
            "the second gate is x₁ again; it should be −x₁": _two_features(lambda a, b: a, lambda a, b: b),
            "the two features cancel: their gates are equal and their ways up opposite": _two_features(
                lambda a, b: a, lambda a, b: -b
            ),
            "this bends each of the two once; bend x₁ and −x₁, and let x₂ go up": _two_features(
                lambda a, b: b, lambda a, b: a
            ),
            "this is minus the product: turn the signs of w2": lambda x: -x[:, :1] * x[:, 1:],
            "this is twice the product": lambda x: 2 * x[:, :1] * x[:, 1:],
            "the shape is (N,), and should be (N, 1): w2 has one row": lambda x: x[:, 0] * x[:, 1],
        },
    ),
    "glu_gradients": Exercise(
        right=_glu_gradients(),
        cases=_BACKWARD,
        mistakes={
            "this is the slope of silu; here the gate is a plain sigmoid": _glu_gradients(
                lambda g, s: s * (1 + g * (1 - s))
            ),
            "these are the gradients of SwiGLU; here the gate is a plain sigmoid": _glu_gradients(
                lambda g, s: s * (1 + g * (1 - s)), lambda g, s: g * s
            ),
            "the slope of the sigmoid is missing in w1's gradient": _glu_gradients(lambda g, s: 1),
            "the slope of the sigmoid is σ(1 − σ), not σ": _glu_gradients(lambda g, s: s),
            "w3's gradient takes the gate before its bend": _glu_gradients(passed=lambda g, s: g),
            "w3's gradient takes what goes up; the product rule multiplies by the gate": _with_up_for_gate,
            "w3's gradient forgets the gate": _glu_gradients(passed=lambda g, s: 1),
            "w1's gradient forgets what goes up: the product rule multiplies by it": _glu_gradients(up_counts=False),
            "the two are in the other order: first w1's, then w3's": lambda *case: _glu_gradients()(*case)[::-1],
            "both are transposed: dW has the shape of W, (F, D)": _each(np.transpose),
            "both are divided by the number of tokens; a gradient is a sum": _each(lambda part: part / 5),
        },
    ),
    "input_gradient": Exercise(
        right=lambda *case: sum(_ways(*case)),
        cases=_BACKWARD,
        mistakes={
            "this is the function above: in backward, gate is no longer what the slope needs": lambda *case: sum(
                _ways(*case, slope_from=silu, opened_from=silu)
            ),
            "the gate's part is mended; the way up still multiplies by σ twice": lambda *case: sum(
                _ways(*case, opened_from=silu)
            ),
            "the way up is mended; the slope still takes silu(gate) for the gate": lambda *case: sum(
                _ways(*case, slope_from=silu)
            ),
            "the way through w3 is missing": lambda *case: _ways(*case)[0],
            "the way through the gate is missing": lambda *case: _ways(*case)[1],
            "the gate's gradient lacks the slope of silu": lambda *case: sum(_ways(*case, slope_from=None)),
            "the two ways are multiplied; their gradients are added": lambda *case: np.multiply(*_ways(*case)),
        },
    ),
    "break_even": Exercise(
        right=3 * 11008 - 1,
        tolerance=1e-4,  # so that 3F is right, too
        mistakes={
            "this is where the last token is even; the average one looks at half of the text": 3 * 11008 // 2,
            "the average token looks at half of the text, so the text has to be longer, not shorter": 3 * 11008 // 4,
            "this counts two matrices in the feed-forward layer; SwiGLU has three": 2 * 11008,
            "this takes F = 4D; LLaMA-7B has F = 11,008": 3 * 16384,
            "round 8/3 · D up to a multiple of 256: F = 11,008": 8 * 4096,
            "this counts one of attention's two products": 6 * 11008,
        },
    ),
    "contributions": Exercise(
        right=lambda hidden, w2, direction: hidden * (direction @ w2),
        cases=_FEATURES,
        mistakes={
            "this is their sum; give one number for each inner feature": lambda hidden, w2, direction: (
                direction @ (w2 @ hidden)
            ),
            "this has one number for each of the D numbers of the stream; give one for each inner feature": (
                lambda hidden, w2, direction: direction * (w2 @ hidden)
            ),
            "this is what each feature would add if it were 1; multiply by how large it is": (
                lambda hidden, w2, direction: direction @ w2
            ),
            "the direction is missing": lambda hidden, w2, direction: hidden * w2.sum(axis=0),
            "the sign counts: some features speak against the token": lambda hidden, w2, direction: np.abs(
                hidden * (direction @ w2)
            ),
            "keep the order of the features": lambda hidden, w2, direction: np.sort(hidden * (direction @ w2))[::-1],
            "these are shares; give the contributions themselves": lambda hidden, w2, direction: (
                hidden * (direction @ w2) / (direction @ (w2 @ hidden))
            ),
        },
    ),
}
