"""Right and wrong ways to read a pattern of bits, and to round one."""

from functools import partial

import numpy as np

from llama_minimal.course.exercises import Exercise

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
    unit: float = 1.0,
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
    return sign * (one + fraction / 2 ** (unit * fraction_bits)) * 2.0 ** (exponent - bias)


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

FORMATS = {
    "value": Exercise(
        right=value,
        cases=PATTERNS,
        mistakes={
            "the leading 1 stands before subnormal numbers, too; where the exponent field is 0, there is none": partial(
                value, subnormal=False
            ),
            "subnormal numbers have the exponent 1 − b, not −b: else a gap opens above them": partial(value, lowest=0),
            "the leading 1 is missing": partial(value, one=0.0),
            "the bias is 2^(k − 1) − 1 for k bits; this one is larger by 1": partial(value, bias=0),
            "the bias is missing: this exponent is never negative": lambda pattern, exponent_bits, fraction_bits: value(
                pattern, exponent_bits, fraction_bits, bias=-(2 ** (exponent_bits - 1))
            ),
            "the highest exponent field means infinity or not a number": partial(value, infinity=False),
            "with the highest exponent field, a fraction other than 0 means not a number": lambda *fields: (
                np.inf if np.isnan(value(*fields)) else value(*fields)
            ),
            "the sign is still in the exponent: take the remainder by 2^exponent_bits": lambda pattern, k, p: (
                value(pattern, k, p)
                if pattern >> (k + p) == 0
                else -value(pattern, k + 1, p, bias=2 ** (k - 1) - 2**k - 1, infinity=False, signed=False)
            ),
            "the fraction field is to be divided by 2^fraction_bits": partial(value, unit=0),
            "the sign is ignored": partial(value, signed=False),
        },
    ),
    "bf16": Exercise(
        right=upper_half,
        cases=WORDS,
        mistakes={
            "the lower half is cut off: this rounds toward zero": partial(upper_half, add=0, odd_at=None),
            "ties go up; to the even pattern they should": partial(upper_half, add=0x8000, odd_at=None),
            "ties go down; to the even pattern they should": partial(upper_half, add=0x7FFF, odd_at=None),
            "ties go to the odd pattern": lambda patterns: (patterns + 0x8000 - ((patterns >> 16) & 1)) >> 16,
            "these are 32 bits, rounded; the upper half is what is asked for": lambda patterns: (
                upper_half(patterns) << 16
            ),
            "this is the lower half; the upper one is asked for": lambda patterns: patterns & 0xFFFF,
            "every lower half but 0 carries: this rounds up, away from zero": partial(
                upper_half, add=0xFFFF, odd_at=None
            ),
            "nothing is shifted: the upper half is what is asked for": partial(upper_half, shift=0),
            "1 too much is added: 0x7FFF, and 1 if the upper half is odd": partial(upper_half, add=0x8000),
        },
    ),
}
