"""The linear layer, three activations, and the feed-forward layers made of them."""

# D model width, F ffn width

import math
from collections.abc import Callable

import numpy as np

from llama_minimal.reference._types import VJP, Array


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """Multiply each row by a matrix: x·wᵀ + b.

    Args:
        x: (..., in).
        w: one row per output feature, (out, in).
        b: (out,).

    Returns:
        (..., out).
    """
    out = x @ w.T
    return out if b is None else out + b


def linear_vjp(x: Array, w: Array, b: Array | None = None) -> VJP:
    """Return ``linear`` and its backward, d_out → (d_x, d_w, d_b): d_x = d_out·w, d_w = d_outᵀ·x."""

    def backward(d_out: Array) -> tuple[Array, Array, Array | None]:
        d_rows, x_rows = d_out.reshape(-1, d_out.shape[-1]), x.reshape(-1, x.shape[-1])
        return d_out @ w, d_rows.T @ x_rows, None if b is None else d_rows.sum(axis=0)

    return linear(x, w, b), backward


def relu(x: Array) -> Array:
    """Return max(x, 0), element by element."""
    return np.maximum(x, 0)


def relu_vjp(x: Array) -> VJP:
    """Return ``relu`` and its backward, d_out → d_x."""
    return relu(x), lambda d_out: d_out * (x > 0)


def gelu(x: Array) -> Array:
    """Return x·Φ(x) with the Gaussian Φ approximated by a tanh.

    ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), element by element.

    Source: Hendrycks & Gimpel 2016, §2.
    """
    return x / 2 * (1 + _gelu_tanh(x))


def gelu_vjp(x: Array) -> VJP:
    """Return ``gelu`` and its backward, d_out → d_x."""
    t = _gelu_tanh(x)
    slope = (1 - t**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return gelu(x), lambda d_out: d_out * (1 + t + x * slope) / 2


def _gelu_tanh(x: Array) -> Array:
    return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def silu(x: Array) -> Array:
    """Return x·σ(x) with σ(x) = 1/(1 + e⁻ˣ), element by element; also called Swish.

    Source: Ramachandran et al. 2017, §4.
    """
    return x * _sigmoid(x)


def silu_vjp(x: Array) -> VJP:
    """Return ``silu`` and its backward, d_out → d_x: the slope is σ + x·σ·(1 − σ)."""
    s = _sigmoid(x)
    return silu(x), lambda d_out: d_out * (s + x * s * (1 - s))


def _sigmoid(x: Array) -> Array:
    # log(1 + e⁻ˣ) as one step: e⁻ˣ alone overflows for a large negative x.
    return np.exp(-np.logaddexp(0, -x))


def swiglu(
    x: Array, w1: Array, w2: Array, w3: Array, b1: Array | None = None, b2: Array | None = None, b3: Array | None = None
) -> Array:
    """Apply LLaMA's feed-forward layer: w2·(silu(w1·x) ⊙ w3·x).

    Args:
        x: (..., D).
        w1, w3: the gate and what it lets through, (F, D).
        w2: back to the model width, (D, F).
        b1, b2, b3: biases (F,), (D,), (F,), or None.

    Returns:
        (..., D).

    Source: Shazeer 2020, eq. 6.
    """
    return linear(silu(linear(x, w1, b1)) * linear(x, w3, b3), w2, b2)


def swiglu_vjp(
    x: Array, w1: Array, w2: Array, w3: Array, b1: Array | None = None, b2: Array | None = None, b3: Array | None = None
) -> VJP:
    """Return ``swiglu`` and its backward, d_out → (d_x, d_w1, d_w2, d_w3, d_b1, d_b2, d_b3)."""
    gate, gate_backward = linear_vjp(x, w1, b1)  # (..., F)
    up, up_backward = linear_vjp(x, w3, b3)  # (..., F)
    opened, silu_backward = silu_vjp(gate)
    out, down_backward = linear_vjp(opened * up, w2, b2)  # (..., D)

    def backward(d_out: Array) -> tuple[Array | None, ...]:
        d_product, d_w2, d_b2 = down_backward(d_out)
        d_x_gate, d_w1, d_b1 = gate_backward(silu_backward(d_product * up))
        d_x_up, d_w3, d_b3 = up_backward(d_product * opened)
        return d_x_gate + d_x_up, d_w1, d_w2, d_w3, d_b1, d_b2, d_b3

    return out, backward


def gelu_ffn(x: Array, w1: Array, w2: Array, b1: Array | None = None, b2: Array | None = None) -> Array:
    """Apply the feed-forward layer of GPT: w2·gelu(w1·x + b1) + b2.

    Args:
        x: (..., D).
        w1, w2: (F, D) and (D, F).
        b1, b2: biases (F,) and (D,), or None.

    Returns:
        (..., D).

    Source: Radford et al. 2018, §4.1.
    """
    return linear(gelu(linear(x, w1, b1)), w2, b2)


def gelu_ffn_vjp(x: Array, w1: Array, w2: Array, b1: Array | None = None, b2: Array | None = None) -> VJP:
    """Return ``gelu_ffn`` and its backward, d_out → (d_x, d_w1, d_w2, d_b1, d_b2)."""
    return _two_layers_vjp(gelu_vjp, x, w1, w2, b1, b2)


def relu_ffn(x: Array, w1: Array, w2: Array, b1: Array | None = None, b2: Array | None = None) -> Array:
    """Apply the feed-forward layer of the first Transformer: w2·relu(w1·x + b1) + b2.

    Args:
        x: (..., D).
        w1, w2: (F, D) and (D, F).
        b1, b2: biases (F,) and (D,), or None.

    Returns:
        (..., D).

    Source: Vaswani et al. 2017, eq. 2.
    """
    return linear(relu(linear(x, w1, b1)), w2, b2)


def relu_ffn_vjp(x: Array, w1: Array, w2: Array, b1: Array | None = None, b2: Array | None = None) -> VJP:
    """Return ``relu_ffn`` and its backward, d_out → (d_x, d_w1, d_w2, d_b1, d_b2)."""
    return _two_layers_vjp(relu_vjp, x, w1, w2, b1, b2)


def _two_layers_vjp(
    activation_vjp: Callable[[Array], VJP], x: Array, w1: Array, w2: Array, b1: Array | None, b2: Array | None
) -> VJP:
    hidden, up_backward = linear_vjp(x, w1, b1)  # (..., F)
    active, activation_backward = activation_vjp(hidden)
    out, down_backward = linear_vjp(active, w2, b2)  # (..., D)

    def backward(d_out: Array) -> tuple[Array | None, ...]:
        d_active, d_w2, d_b2 = down_backward(d_out)
        d_x, d_w1, d_b1 = up_backward(activation_backward(d_active))
        return d_x, d_w1, d_w2, d_b1, d_b2

    return out, backward
