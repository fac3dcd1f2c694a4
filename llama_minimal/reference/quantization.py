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


def round_to_grid(
    w: Array,
    bits: int,
    *,
    group_size: int | str | None = None,
    symmetric: bool = False,
    keep: Array | None = None,
) -> Array:
    """Return a matrix with every number rounded to one that a code of few bits could stand for.

    Args:
        w: (out, in).
        bits: 1 to 8, of a symmetric grid 2 to 8.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None or "row" means the
            whole row, "tensor" the whole matrix.
        symmetric: a grid with 0 in the middle instead of one with a zero point.
        keep: columns that stay as they are and do not count for the grids, as numbers or as a mask (in,).

    Returns:
        (out, in).
    """
    rounded = w.copy()
    if keep is not None:
        rounded[:, keep] = 0
    if group_size == "tensor":
        rounded = _nearest(rounded.reshape(1, -1), bits, symmetric).reshape(w.shape)
    else:
        size = w.shape[1] if group_size in (None, "row") else group_size
        for start in range(0, w.shape[1], size):
            group = slice(start, start + size)
            rounded[:, group] = _nearest(rounded[:, group], bits, symmetric)
    if keep is not None:
        rounded[:, keep] = w[:, keep]
    return rounded


def _nearest(w: Array, bits: int, symmetric: bool) -> Array:
    scale, zero = (symmetric_grid(w, bits), None) if symmetric else zero_point_grid(w, bits)
    return from_codes(to_codes(w, scale, zero, bits=bits), scale, zero)


def awq(
    w: Array, hessian: Array, sizes: Array, bits: int, *, group_size: int | None = None, n_powers: int = 20
) -> tuple[Array, Array]:
    """Round a matrix whose columns are scaled by how large their inputs are.

    w x = (w · s)(x / s), for any s > 0 of the inputs. With s_j = size_j^α the columns of large inputs are enlarged
    before rounding, and their error, divided by s_j, is smaller: as long as they do not widen the grid of all. So α is
    the best of 0, 1/n, … (n−1)/n, by the error of the output; α = 0 is rounding to the nearest.

    Args:
        w: (out, in).
        hessian: (in, in), 2 xᵀx of what the layer reads, in any scale.
        sizes: mean |x_j| of what the layer reads, (in,), in any scale.
        bits: 1 to 8.
        group_size: numbers of a row that share a grid; None means the whole row.
        n_powers: n, how many α are tried.

    Returns:
        The rounded w · s, (out, in), and s, (in,).

    Source: Lin et al. 2023, "AWQ"; the values of α, and the division of s by √(max · min): its released code.
    """
    tried = []
    for n in range(n_powers):
        s = np.maximum(sizes / sizes.mean(), np.asarray(1e-4, sizes.dtype)) ** np.asarray(n / n_powers, sizes.dtype)
        s = s / np.sqrt(s.max() * s.min())
        rounded = round_to_grid(w * s, bits, group_size=group_size)
        change = rounded / s - w
        tried.append((((change @ hessian) * change).sum(), rounded, s))
    _, rounded, s = min(tried, key=lambda one: one[0])
    return rounded, s


def outliers(x: Array, threshold: float = 6.0) -> Array:
    """Return which numbers are at least ``threshold`` in size, as a mask of x's shape.

    Source: Dettmers et al. 2022, "LLM.int8()", whose threshold is 6.
    """
    return np.abs(x) >= threshold


def dynamic_linear(x: Array, codes: Array, scale: Array, *, threshold: float | None = None) -> Array:
    """Return x wᵀ as a product of whole numbers: each token is rounded to int8 with a step of its own.

    y = s_x · s_w · (codes_x · codes_wᵀ), and inputs of at least ``threshold`` in size get a product of their own.

    Args:
        x: (..., in).
        codes: (out, in) int8, the matrix w = scale · codes.
        scale: (out, 1), one step per row.
        threshold: size from which a number of x is an outlier; None means that none is.

    Returns:
        (..., out).

    Source: Dettmers et al. 2022, "LLM.int8()" (vector-wise quantization, mixed-precision decomposition). There an
    outlier takes its column along, of all tokens; here it comes alone, so that no row depends on its neighbors.
    """
    apart = np.zeros_like(x) if threshold is None else x * outliers(x, threshold)
    step = symmetric_grid(x - apart, 8)
    whole = to_codes(x - apart, step, bits=8).astype(np.int32) @ codes.T.astype(np.int32)
    return apart @ from_codes(codes, scale).T + whole.astype(x.dtype) * step * scale.T


def gptq(w: Array, hessian: Array, bits: int, group_size: int | None = None, damping: float = 0.01) -> Array:
    """Round a matrix so that the layer's output changes little, and return what it has become.

    Column i goes to its grid, and its error e is made good by the columns after it, as well as they can:
    w_j −= e · (H⁻¹)_ij / (H⁻¹)_ii. Then column i is done, and H⁻¹ becomes that of the columns that remain.

    Args:
        w: (out, in).
        hessian: (in, in), 2 xᵀx of what the layer reads, in any scale.
        bits: 1 to 8.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None means the whole row.
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
