"""Where a token stands: the sinusoidal table, and the rotary embedding with its scalings."""

# T time, D model width, Dh head width

import math

import numpy as np

from llama_minimal.config import RopeScaling
from llama_minimal.reference._types import VJP, Array


def sinusoidal_table(dim: int, max_seq_len: int) -> Array:
    """Return the table that the first Transformer adds to its embeddings.

    PE[t, 2i] = sin(t / 10000^(2i/D)) and PE[t, 2i+1] = cos(t / 10000^(2i/D)).

    Returns:
        (T, D), float64.

    Source: Vaswani et al. 2017, §3.5.
    """
    angles = np.outer(np.arange(max_seq_len), rope_frequencies(dim))  # (T, D/2)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(max_seq_len, dim)


def rope_frequencies(
    head_dim: int, theta: float = 10_000.0, scaling: RopeScaling | None = None, *, context: int = 0
) -> Array:
    """Return the angle, in radians, by which each pair of features turns per position.

    f_i = θ^(−2i/Dh), stretched by ``scaling`` for a context longer than the trained one.

    Args:
        context: tokens that ``dynamic`` scaling stretches for.

    Returns:
        (Dh/2,), float64.

    Source: Su et al. 2021, §3.2.2; the scalings are those of ``RopeScaling``.
    """
    if scaling is not None and scaling.kind in ("ntk", "dynamic"):
        theta = theta * scaling.ntk_factor(context) ** (head_dim / (head_dim - 2))
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is not None and scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        return _stretch_long_waves(frequencies, scaling)
    if scaling is not None and scaling.kind == "yarn":
        return _stretch_late_pairs(frequencies, theta, scaling)
    return frequencies


def _stretch_long_waves(frequencies: Array, scaling: RopeScaling) -> Array:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # How many full turns a pair makes within the trained context. A pair with many turns tells
    # neighbors apart and stays; one that never came round has no angle to spare and is stretched.
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def _stretch_late_pairs(frequencies: Array, theta: float, scaling: RopeScaling) -> Array:
    # The pairs, as fractions, that turn beta_fast and beta_slow times within the trained context.
    head_dim = 2 * len(frequencies)
    turns = np.array([scaling.beta_fast, scaling.beta_slow])
    low, high = head_dim / 2 * np.log(scaling.original_max_seq_len / (2 * math.pi * turns)) / math.log(theta)
    if scaling.truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    if low == high:
        high += 0.001
    stretch = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
    return (1 - stretch) * frequencies + stretch * frequencies / scaling.factor


def rope_table(
    head_dim: int,
    max_seq_len: int,
    theta: float = 10_000.0,
    scaling: RopeScaling | None = None,
    *,
    context: int | None = None,
) -> tuple[Array, Array]:
    """Return cos(t·f_i) and sin(t·f_i) for every position t and pair i, times what YaRN scales them by.

    Args:
        context: tokens that ``dynamic`` scaling stretches for; None means ``max_seq_len``.

    Returns:
        Two arrays (T, Dh/2), float64.
    """
    frequencies = rope_frequencies(head_dim, theta, scaling, context=max_seq_len if context is None else context)
    angles = np.outer(np.arange(max_seq_len), frequencies)
    amplitude = 1.0 if scaling is None else scaling.amplitude
    return amplitude * np.cos(angles), amplitude * np.sin(angles)


def apply_rope(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair of neighboring features by its position's angle.

    (a, b) → (a·cos − b·sin, a·sin + b·cos) for a = x[..., 2i], b = x[..., 2i+1]: Meta's layout.

    Args:
        x: queries or keys, (..., T, Dh).
        cos, sin: rows of ``rope_table``, (T, Dh/2).

    Returns:
        (..., T, Dh).

    Source: Su et al. 2021, eq. 34.
    """
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]  # (..., T, Dh/2)
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def apply_rope_vjp(x: Array, cos: Array, sin: Array) -> VJP:
    """Return ``apply_rope`` and its backward, d_out → d_x: a turn by the opposite angle, Rᵀ."""
    return apply_rope(x, cos, sin), lambda d_out: apply_rope(d_out, cos, -sin)
