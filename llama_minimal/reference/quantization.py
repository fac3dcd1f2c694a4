"""Rounding to few bits, by hand: a grid with or without a zero point, one for each row of numbers."""

# n numbers that share a grid

import numpy as np

from llama_minimal.reference._types import Array


def symmetric_grid(w: Array, bits: int) -> Array:
    """Return the step between the numbers that 0, ±1, … ±(2^(bits−1) − 1) stand for: max|w| / (2^(bits−1) − 1).

    All numbers along the last axis share a grid.

    Args:
        w: (..., n).
        bits: 2 to 8.

    Returns:
        (..., 1); 1 where all numbers are zero.

    Source: Dettmers et al. 2022, "LLM.int8()" ("absmax quantization").
    """
    return _step(np.abs(w).max(axis=-1, keepdims=True), 2 ** (bits - 1) - 1)


def zero_point_grid(w: Array, bits: int) -> tuple[Array, Array]:
    """Return the step of a grid of 2^bits numbers from min(w) to max(w), and which of them is 0.

    scale = (max − min) / (2^bits − 1), zero = round(−min / scale); the range is widened to hold 0.

    Args:
        w: (..., n).
        bits: 1 to 8.

    Returns:
        scale and zero, each (..., 1).

    Source: Dettmers et al. 2022, "LLM.int8()" ("zeropoint quantization"), with the range widened.
    """
    low = np.minimum(w.min(axis=-1, keepdims=True), 0)
    high = np.maximum(w.max(axis=-1, keepdims=True), 0)
    scale = _step(high - low, 2**bits - 1)
    return scale, np.rint(-low / scale)


def to_codes(w: Array, scale: Array, zero: Array | None = None, *, bits: int) -> Array:
    """Round numbers to the nearest of a grid: clamp(round(w / scale) + zero).

    Args:
        w: (..., n).
        scale, zero: (..., 1); without a zero point the codes are −(2^(bits−1) − 1) … 2^(bits−1) − 1, with one
            0 … 2^bits − 1.

    Returns:
        (..., n), int8 or with a zero point uint8.
    """
    whole = np.rint(w / scale)
    if zero is None:
        largest = 2 ** (bits - 1) - 1
        return np.clip(whole, -largest, largest).astype(np.int8)
    return np.clip(whole + zero, 0, 2**bits - 1).astype(np.uint8)


def from_codes(codes: Array, scale: Array, zero: Array | None = None) -> Array:
    """Return the numbers that codes stand for, scale · (code − zero), in the dtype of scale."""
    codes = codes.astype(scale.dtype)
    return scale * (codes if zero is None else codes - zero)


def rounding_error(scale: Array) -> Array:
    """Return the mean squared error of rounding to a grid: scale² / 12, that of an error even over one step."""
    return scale**2 / 12


def pack_int4(codes: Array) -> Array:
    """Put two codes of 4 bits into a byte, the first in its lower half; an odd last one is beside a 0.

    Args:
        codes: (..., n) uint8, 0 to 15.

    Returns:
        (..., ⌈n/2⌉) uint8.
    """
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def unpack_int4(packed: Array, n: int) -> Array:
    """Return the codes that ``pack_int4`` put into bytes, (..., n)."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :n]


def _step(width: Array, n: int) -> Array:
    step = width / np.asarray(n, dtype=width.dtype)
    return np.where(step > 0, step, np.ones_like(step))


def gptq(w: Array, hessian: Array, bits: int, group_size: int | None = None, damping: float = 0.01) -> Array:
    """Round a matrix so that the layer's output changes little, and return what it has become.

    Column i goes to its grid, and its error e is made good by the columns after it, as well as they can:
    w_j −= e · (H⁻¹)_ij / (H⁻¹)_ii. Then column i is done, and H⁻¹ becomes that of the columns that remain.

    Args:
        w: (out, in).
        hessian: (in, in), 2 xᵀx of what the layer reads, in any scale.
        bits: 1 to 8.
        group_size: numbers of a row that share a grid; None means the whole row.
        damping: this share of the mean of H's diagonal is added to it.

    Returns:
        (out, in).

    Source: Frantar et al. 2022, "GPTQ" (after Frantar, Singh and Alistarh 2022, "Optimal Brain
    Compression"), in the order of the columns.
    """
    w, n_in = w.copy(), w.shape[1]
    inverse = np.linalg.inv(hessian + damping * np.diagonal(hessian).mean() * np.eye(n_in, dtype=w.dtype))
    for i in range(n_in):
        if i % (group_size or n_in) == 0:
            scale, zero = zero_point_grid(w[:, i : i + (group_size or n_in)], bits)
        rounded = from_codes(to_codes(w[:, i : i + 1], scale, zero, bits=bits), scale, zero)
        w[:, i:] -= (w[:, i : i + 1] - rounded) * inverse[i, i:] / inverse[i, i]
        w[:, i : i + 1] = rounded
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return w
