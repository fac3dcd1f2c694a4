"""Rounding to few bits: a grid with or without a zero point, one for each row of numbers; two numbers in a byte."""

# n numbers that share a grid

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer


def symmetric_grid(w: Tensor, bits: int) -> Tensor:
    """Return the step between the numbers that 0, ±1, … ±(2^(bits−1) − 1) stand for: max|w| / (2^(bits−1) − 1).

    All numbers along the last axis share a grid. Give a matrix (out, in) for one per row, ``w.reshape(1, -1)`` for one
    in all, and ``w.unflatten(-1, (-1, 32))`` for one per group of 32.

    Args:
        w: (..., n).
        bits: 2 to 8.

    Returns:
        (..., 1); 1 where all numbers are zero.

    Source: Dettmers et al. 2022, "LLM.int8()" ("absmax quantization").
    """
    return _step(w.abs().amax(dim=-1, keepdim=True), 2 ** (_checked(bits) - 1) - 1)


def zero_point_grid(w: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the step of a grid of 2^bits numbers from min(w) to max(w), and which of them is 0.

    scale = (max − min) / (2^bits − 1), zero = round(−min / scale); the range is widened to hold 0, so that a weight
    of 0 stays 0.

    Args:
        w: (..., n), as for ``symmetric_grid``.
        bits: 1 to 8.

    Returns:
        scale and zero, each (..., 1), zero a whole number from 0 to 2^bits − 1.

    Source: Dettmers et al. 2022, "LLM.int8()" ("zeropoint quantization"), with the range widened.
    """
    low = w.amin(dim=-1, keepdim=True).clamp(max=0)
    high = w.amax(dim=-1, keepdim=True).clamp(min=0)
    scale = _step(high - low, 2 ** _checked(bits, least=1) - 1)
    return scale, torch.round(-low / scale)


def to_codes(w: Tensor, scale: Tensor, zero: Tensor | None = None, *, bits: int) -> Tensor:
    """Round numbers to the nearest of a grid: clamp(round(w / scale) + zero).

    Args:
        w: (..., n).
        scale, zero: (..., 1); without a zero point the codes are −(2^(bits−1) − 1) … 2^(bits−1) − 1, with one
            0 … 2^bits − 1.

    Returns:
        (..., n), int8 or with a zero point uint8.
    """
    whole = torch.round(w / scale)  # a half goes to the even neighbor, as in NumPy
    if zero is None:
        largest = 2 ** (_checked(bits) - 1) - 1
        return whole.clamp(-largest, largest).to(torch.int8)
    return (whole + zero).clamp(0, 2 ** _checked(bits, least=1) - 1).to(torch.uint8)


def from_codes(codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Return the numbers that codes stand for, scale · (code − zero), in the dtype of scale."""
    codes = codes.to(scale.dtype)
    return scale * (codes if zero is None else codes - zero)


def rounding_error(scale: Tensor) -> Tensor:
    """Return the mean squared error of rounding to a grid: scale² / 12.

    The error is spread evenly over (−scale/2, scale/2) where many numbers fall between any two of the grid.

    Source: Gersho and Gray 1992, "Vector Quantization and Signal Compression" (high resolution).
    """
    return scale**2 / 12


def pack_int4(codes: Tensor) -> Tensor:
    """Put two codes of 4 bits into a byte, the first in its lower half; an odd last one is beside a 0.

    Args:
        codes: (..., n) uint8, 0 to 15.

    Returns:
        (..., ⌈n/2⌉) uint8.
    """
    if codes.size(-1) % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def unpack_int4(packed: Tensor, n: int) -> Tensor:
    """Return the codes that ``pack_int4`` put into bytes, (..., n)."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)[..., :n]


def _step(width: Tensor, n: int) -> Tensor:
    step = width / n
    return torch.where(step > 0, step, torch.ones_like(step))


def _checked(bits: int, least: int = 2) -> int:
    if check_integer("bits", bits, at_least=least) > 8:
        raise ValueError(f"bits={bits} must be a whole number from {least} to 8")
    return bits
