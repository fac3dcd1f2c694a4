"""Numbers in few bits: what a float format holds, how a number gets into it, and the scaling that saves gradients."""

from dataclasses import dataclass

import numpy as np

from llama_minimal.reference._types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFormat:
    """Say how a sign, an exponent and a fraction share the bits of a number.

    A pattern with the exponent field E and the fraction field M stands for (1 + M/2^fraction_bits)·2^(E − bias); with
    E = 0 for the subnormal number M/2^fraction_bits·2^(1 − bias). With ``infinity``, the highest E is kept for
    infinities and NaN; without, only the pattern whose fields are all ones is NaN.

    Source: IEEE 754; for the two formats of 8 bits Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
    """

    exponent_bits: int
    fraction_bits: int
    infinity: bool = True

    @property
    def bits(self) -> int:
        """Return the size of a number in bits."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def bias(self) -> int:
        """Return what is subtracted from the exponent field."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def dtype(self) -> np.dtype:
        """Return the unsigned integers that hold its patterns."""
        return np.dtype(f"uint{self.bits}")

    @property
    def largest_pattern(self) -> int:
        """Return the pattern of the largest finite number."""
        reserved = 1 << self.fraction_bits if self.infinity else 1
        return (1 << (self.bits - 1)) - 1 - reserved

    @property
    def largest(self) -> float:
        """Return the largest finite number."""
        exponent, fraction = divmod(self.largest_pattern, 1 << self.fraction_bits)
        return (1 + fraction / 2**self.fraction_bits) * 2.0 ** (exponent - self.bias)

    @property
    def smallest_normal(self) -> float:
        """Return the smallest positive number with all its bits: below, numbers keep their spacing."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest(self) -> float:
        """Return the smallest positive number."""
        return 2.0 ** (1 - self.bias - self.fraction_bits)


FLOAT_FORMATS = {
    "fp32": FloatFormat(exponent_bits=8, fraction_bits=23),
    "fp16": FloatFormat(exponent_bits=5, fraction_bits=10),
    "bf16": FloatFormat(exponent_bits=8, fraction_bits=7),
    "fp8_e4m3": FloatFormat(exponent_bits=4, fraction_bits=3, infinity=False),
    "fp8_e5m2": FloatFormat(exponent_bits=5, fraction_bits=2),
}


def float_format(name: str) -> FloatFormat:
    """Return a format by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in FLOAT_FORMATS:
        raise ValueError(f"there is no float format {name!r}; there are: {', '.join(FLOAT_FORMATS)}")
    return FLOAT_FORMATS[name]


def encode_float(x: Array, name: str, *, rng: np.random.Generator | None = None) -> Array:
    """Return the patterns of the nearest numbers of a format, of two equally near ones the even pattern's.

    |x| is counted in units of the spacing where it lies, 2^(max(⌊log₂|x|⌋, 1 − bias) − fraction_bits), and rounded to
    a whole number. What is too large becomes infinite; without ``infinity``, the largest number.

    Args:
        x: floats; float64 is rounded once, and everything else is taken as float32.
        name: a key of ``FLOAT_FORMATS``.
        rng: rounds stochastically instead: up with the probability of the fraction of a unit, so that the mean is x
            (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision").

    Returns:
        Unsigned integers of the format's size, in x's shape.

    Raises:
        ValueError: if there is no such format.
    """
    form = float_format(name)
    x = np.asarray(x)
    x = x.astype(np.result_type(x, np.float32))
    size, lowest = np.where(np.isfinite(x), np.abs(x), 0), 1 - form.bias
    exponent = np.where(size > 0, np.maximum(np.frexp(size)[1] - 1, lowest), lowest)
    units = np.ldexp(size, form.fraction_bits - exponent)  # exact, a power of two: below 2^(fraction_bits + 1)
    whole = np.rint(units) if rng is None else np.floor(units) + (rng.random(x.shape) < units % 1)
    # A normal number has 2^fraction_bits units for its leading one, and adding them moves E from 0 to 1. A carry into
    # the exponent is right for the same reason.
    pattern = ((exponent.astype(np.int64) - lowest) << form.fraction_bits) + whole.astype(np.int64)
    too_large = form.largest_pattern + form.infinity  # what follows the largest number is infinity
    pattern = np.minimum(np.where(np.isinf(x), too_large, pattern), too_large)
    pattern = np.where(np.isnan(x), _nan_pattern(form), pattern)
    return (pattern | (np.signbit(x).astype(np.int64) << (form.bits - 1))).astype(form.dtype)


def decode_float(patterns: Array, name: str) -> Array:
    """Return the numbers that patterns of a format stand for, as float32: each of the formats fits in it.

    Args:
        patterns: integers from 0 to 2^bits − 1.
        name: a key of ``FLOAT_FORMATS``.

    Raises:
        ValueError: if there is no such format.
    """
    form = float_format(name)
    patterns = np.asarray(patterns).astype(np.int64)
    sign, pattern = patterns >> (form.bits - 1), patterns & ((1 << (form.bits - 1)) - 1)
    exponent, fraction = pattern >> form.fraction_bits, pattern & ((1 << form.fraction_bits) - 1)
    whole = fraction + np.where(exponent > 0, 1 << form.fraction_bits, 0)
    power = np.maximum(exponent, 1) - form.bias - form.fraction_bits
    finite = pattern <= form.largest_pattern
    value = np.ldexp(whole.astype(np.float32), np.where(finite, power, 0))
    special = np.where(form.infinity & (fraction == 0), np.float32(np.inf), np.float32(np.nan))
    return np.where(sign > 0, np.float32(-1), np.float32(1)) * np.where(finite, value, special)


def round_float(x: Array, name: str, *, rng: np.random.Generator | None = None) -> Array:
    """Return what is left of numbers that pass through a format, in their own dtype.

    Args:
        x: floats.
        name: a key of ``FLOAT_FORMATS``.
        rng: rounds stochastically instead.

    Raises:
        ValueError: if there is no such format, or x are no floats.

    Example:
        >>> from llama_minimal.reference import round_float
        >>> round_float(np.array([1 + 2**-8, 3e38]), "bf16").tolist()[0]
        1.0
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"x is {x.dtype}, which cannot hold what a format of floats leaves of it; give floats")
    return decode_float(encode_float(x, name, rng=rng), name).astype(x.dtype)


def store_float8(w: Array, name: str = "fp8_e4m3") -> tuple[Array, Array]:
    """Return the patterns of a matrix in 8 bits, and a scale for each row that makes the most of their range.

    w ≈ decode_float(patterns)·scale with scale = max|row| / largest, 1 for a row of zeros.

    Args:
        w: (out, in).
        name: "fp8_e4m3" or "fp8_e5m2".

    Returns:
        (out, in) and (out, 1).
    """
    scale = np.abs(w).max(axis=-1, keepdims=True) / np.asarray(float_format(name).largest, dtype=w.dtype)
    scale = np.where(scale > 0, scale, np.ones_like(scale))
    return encode_float(w / scale, name), scale


def _nan_pattern(form: FloatFormat) -> int:
    if not form.infinity:
        return form.largest_pattern + 1
    return form.largest_pattern + 1 + (1 << (form.fraction_bits - 1))  # a quiet one, as processors make


class LossScaler:
    """Keep a factor for the loss that lifts gradients into the range of half precision, as large as they allow.

    After a step with a gradient that is infinite or not a number, the scale is multiplied by ``backoff``, and the step
    is to be skipped; after ``interval`` good steps in a row, by ``growth``, unless that would be infinite in float32.

    Args:
        scale: at first.
        growth: above 1.
        backoff: below 1.
        interval: in steps.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", §3; the defaults are PyTorch's.
    """

    def __init__(
        self, scale: float = 65536.0, *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
    ) -> None:
        self.scale, self.growth, self.backoff, self.interval = scale, growth, backoff, interval
        self.good_steps = 0  # since the scale last changed
        self.skipped = 0

    def unscale(self, grads: dict[str, Array]) -> tuple[dict[str, Array], bool]:
        """Return the gradients of the loss itself, and whether all of them are finite."""
        finite = all(bool(np.isfinite(grad).all()) for grad in grads.values())
        return {name: grad * np.asarray(1 / self.scale, dtype=grad.dtype) for name, grad in grads.items()}, finite

    def update(self, *, finite: bool) -> None:
        """Take note of a step: done if its gradients were finite, and otherwise skipped."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale *= self.backoff
            self.skipped += 1
        elif self.good_steps == self.interval:
            self.good_steps = 0
            if self.scale * self.growth <= float(np.finfo(np.float32).max):
                self.scale *= self.growth
