"""RMSNorm, and the LayerNorm that it replaced."""

# D model width; each row of D features is normalized alone

import numpy as np

from llama_minimal.reference._types import VJP, Array


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Divide each row by its root mean square.

    weight · x / √(mean(x²) + eps), the mean over the last axis only.

    Args:
        x: (..., D).
        weight: (D,).
        eps: keeps a row of zeros finite; 1e-5 or 1e-6.

    Returns:
        (..., D).

    Source: Zhang & Sennrich 2019, eq. 4.
    """
    return weight * (x * _inverse_rms(x, eps))


def rms_norm_vjp(x: Array, weight: Array, eps: float) -> VJP:
    """Return ``rms_norm`` and its backward, d_out → (d_x, d_weight).

    With r = 1/√(mean(x²) + eps), n = r·x and g = weight·d_out: d_x = r·(g − n·mean(g·n)).
    """
    r = _inverse_rms(x, eps)
    n = x * r

    def backward(d_out: Array) -> tuple[Array, Array]:
        g = d_out * weight
        d_x = r * (g - n * _mean(g * n))
        return d_x, _sum_rows(d_out * n)

    return rms_norm(x, weight, eps), backward


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Center each row and divide it by its standard deviation.

    weight · (x − mean(x)) / √(var(x) + eps) + bias, both statistics over the last axis only.

    Args:
        x: (..., D).
        weight, bias: (D,).
        eps: keeps a constant row finite.

    Returns:
        (..., D).

    Source: Ba et al. 2016, §3.
    """
    centered = x - _mean(x)
    return weight * (centered * _inverse_rms(centered, eps)) + bias


def layer_norm_vjp(x: Array, weight: Array, bias: Array, eps: float) -> VJP:
    """Return ``layer_norm`` and its backward, d_out → (d_x, d_weight, d_bias).

    As for ``rms_norm`` with n = r·(x − mean(x)): d_x = r·(g − mean(g) − n·mean(g·n)).
    """
    centered = x - _mean(x)
    r = _inverse_rms(centered, eps)
    n = centered * r

    def backward(d_out: Array) -> tuple[Array, Array, Array]:
        g = d_out * weight
        d_x = r * (g - _mean(g) - n * _mean(g * n))
        return d_x, _sum_rows(d_out * n), _sum_rows(d_out)

    return layer_norm(x, weight, bias, eps), backward


def _mean(x: Array) -> Array:
    return x.mean(axis=-1, keepdims=True)


def _inverse_rms(x: Array, eps: float) -> Array:
    return 1 / np.sqrt(_mean(x**2) + eps)


def _sum_rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1]).sum(axis=0)
