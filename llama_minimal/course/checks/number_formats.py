"""Right and wrong ways to read a pattern of bits, and to round one."""

import numpy as np

_RNG = np.random.default_rng(9)


def value(
    pattern: int,
    exponent_bits: int,
    fraction_bits: int,
    *,
    bias: int = -1,
    subnormal: bool = True,
    lowest: int = 1,
    one: float = 1.0,
    infinity: bool = True,
    signed: bool = True,
) -> float:
    """The number; or with another bias (added to the right one), other subnormals, another leading number."""
    fraction = pattern % 2**fraction_bits
    exponent = (pattern >> fraction_bits) % 2**exponent_bits
    sign = -1.0 if signed and pattern >> (exponent_bits + fraction_bits) else 1.0
    bias += 2 ** (exponent_bits - 1)
    if infinity and exponent == 2**exponent_bits - 1:
        return sign * np.inf if fraction == 0 else np.nan
    if subnormal and exponent == 0:
        return sign * fraction / 2**fraction_bits * 2.0 ** (lowest - bias)
    return sign * (one + fraction / 2**fraction_bits) * 2.0 ** (exponent - bias)


# Small formats, whose subnormal numbers are not tiny; and fp16.
PATTERNS = [
    (0b0_10001_1010000000, 5, 10),
    (0b1_01111_0000000001, 5, 10),
    (0b1_011_0100, 3, 4),
    (0b0_000_1010, 3, 4),
    (0b1_00_111, 2, 3),
    (0, 3, 4),
    (0b0_001_0000, 3, 4),
    (0b1_111_0000, 3, 4),
    (0b0_111_0100, 3, 4),
]


def upper_half(patterns: np.ndarray, *, add: int = 0x7FFF, odd_at: int | None = 16, shift: int = 16) -> np.ndarray:
    """Round to the upper half; or with another number added, another bit that decides a tie, another shift."""
    tie = 0 if odd_at is None else (patterns >> odd_at) & 1
    return (patterns + add + tie) >> shift


def _of_floats(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32).view(np.uint32).astype(np.int64)


WORDS = [
    (_of_floats(_RNG.normal(size=8).tolist()),),
    (_of_floats([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-23, 1 + 2**-8 - 2**-23, 2 - 2**-9]),),
    (_of_floats([1 + 2**-7 + 2**-8 - 2**-23, 1 + 2**-7 + 2**-8 + 2**-23, 1 + 2**-7, 1 + 2**-23]),),
    (_of_floats([0.0, -0.0, 1e-40, 3.39e38, -65504.0, 0.1]),),
]
