"""Numbers in blocks of 32, as llama.cpp's files hold them: 32 whole numbers and the step that they share.

``q8_0`` spends 8 bits a number and 16 on the step: 8.5 bits. ``q4_0`` spends 4 and 16: 4.5 bits.
"""

# n numbers in a row, n // 32 blocks

import numpy as np

from llama_minimal.reference._types import Array

BLOCK = 32


def to_q8_0(x: Array) -> tuple[Array, Array]:
    """Round numbers to 255 steps on both sides of 0: step = max|x| / 127, code = round(x / step).

    A half is rounded away from 0, as C's ``roundf`` does, and not to the even neighbor. The codes are made with the
    exact step; only what is stored of it is rounded to float16.

    Args:
        x: (..., n), n a multiple of 32.

    Returns:
        step: (..., n // 32) float16; 0 for a block of zeros.
        codes: (..., n // 32, 32) int8, −127 to 127.

    Source: ggml, ``quantize_row_q8_0_ref`` in ggml-quants.c.
    """
    blocks = _in_blocks(x)
    step = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    quotient = blocks * _inverse(step)
    codes = np.sign(quotient) * np.floor(np.abs(quotient) + np.float32(0.5))
    return _stored(step), codes.astype(np.int8)


def from_q8_0(step: Array, codes: Array) -> Array:
    """Return the numbers that the codes stand for, step · code: (..., n) float32."""
    numbers = step[..., None].astype(np.float32) * codes.astype(np.float32)
    return numbers.reshape(*codes.shape[:-2], -1)


def pack_q8_0(step: Array, codes: Array) -> Array:
    """Return the bytes of a row: for each block two of the step and 32 of the codes, (..., n // 32 · 34) uint8."""
    return _joined(step, codes.view(np.uint8))


def to_q4_0(x: Array) -> tuple[Array, Array]:
    """Round numbers to 16 steps, the number farthest from 0 to the outermost: step = x_far / −8, code = x / step + 8.

    The grid −8 … 7 has one number more below 0 than above. The sign of the step turns it so that x_far, whatever its
    own sign, stands at −8 and keeps its value; numbers near −x_far have no place and are cut to 7.

    Args:
        x: (..., n), n a multiple of 32.

    Returns:
        step: (..., n // 32) float16, with a sign; 0 for a block of zeros.
        codes: (..., n // 32, 32) uint8, 0 to 15; 8 stands for 0.

    Source: ggml, ``quantize_row_q4_0_ref`` in ggml-quants.c.
    """
    blocks = _in_blocks(x)
    farthest = np.abs(blocks).argmax(axis=-1, keepdims=True)
    step = np.take_along_axis(blocks, farthest, axis=-1) / np.float32(-8)
    codes = np.trunc(blocks * _inverse(step) + np.float32(8.5))  # the numbers are all positive here: cut = round
    return _stored(step), np.clip(codes, 0, 15).astype(np.uint8)


def from_q4_0(step: Array, codes: Array) -> Array:
    """Return the numbers that the codes stand for, step · (code − 8): (..., n) float32."""
    numbers = step[..., None].astype(np.float32) * (codes.astype(np.float32) - 8)
    return numbers.reshape(*codes.shape[:-2], -1)


def pack_q4_0(step: Array, codes: Array) -> Array:
    """Return the bytes of a row: for each block two of the step and 16 of the codes, (..., n // 32 · 18) uint8.

    Byte i holds number i in its lower half and number i + 16 in its upper: not neighbors, but the two halves of the
    block, so that a vector instruction unpacks 16 numbers in order at once.
    """
    low, high = codes[..., : BLOCK // 2], codes[..., BLOCK // 2 :]
    return _joined(step, low | (high << 4))


def _in_blocks(x: Array) -> Array:
    if x.ndim == 0 or x.shape[-1] % BLOCK:
        raise ValueError(f"x of shape {x.shape} has rows that are no multiple of {BLOCK}; keep those in float16")
    return x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)


def _inverse(step: Array) -> Array:
    """1 / step, and 0 where all numbers are 0."""
    return np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)


def _stored(step: Array) -> Array:
    with np.errstate(over="ignore"):  # becomes infinite, which is told below
        stored = step[..., 0].astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(f"a step of {np.abs(step).max():g} is more than float16 holds (65504); keep x in float32")
    return stored


def _joined(step: Array, codes: Array) -> Array:
    # "<": the file is little-endian, whatever the machine.
    step_bytes = step.astype("<f2")[..., None].view(np.uint8)  # (..., n // 32, 2)
    whole = np.concatenate([step_bytes, codes], axis=-1)
    return whole.reshape(*codes.shape[:-2], -1)
