"""How rotary frequencies are stretched for a context longer than the trained one."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from llama_minimal.config.checks import check_integer, check_number, check_one_of

Kind = Literal["linear", "ntk", "llama3", "yarn", "dynamic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Say how rotary frequencies are stretched for a context longer than the trained one.

    ``linear`` divides every frequency by ``factor`` (position interpolation, Chen et al. 2023, §2.3).
    ``ntk`` raises the base to θ·factor^(Dh/(Dh−2)), which stretches the slower pairs more, and the
    fastest not at all.
    ``dynamic`` is ``ntk`` with a factor that follows the context: with S = ``max_seq_len`` and M =
    ``original_max_seq_len`` it is factor·S/M − (factor − 1), and 1 while S ≤ M. The tables are made once, for
    S, so that all keys in a cache are turned by one base. The transformers library takes for S the longest
    sequence seen so far: both agree up to M tokens, and on sequences of exactly S.
    ``llama3`` keeps wavelengths below ``original_max_seq_len / high_freq_factor``, divides those above
    ``original_max_seq_len / low_freq_factor`` and blends in between (Llama 3.1's released code).
    ``yarn`` keeps pairs that turn more than ``beta_fast`` times within ``original_max_seq_len``, divides those
    that turn less than ``beta_slow`` times, and blends in between; ``truncate`` rounds the two borders to whole
    pairs. Queries and keys grow by ``attention_factor``, left out 0.1·ln(factor) + 1 (Peng et al. 2023, §3.2–3.4).
    """

    kind: Kind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def __post_init__(self) -> None:
        check_one_of("rope_scaling.kind", self.kind, get_args(Kind))
        check_number("rope_scaling.factor", self.factor, at_least=1.0)
        check_integer("rope_scaling.original_max_seq_len", self.original_max_seq_len)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_scaling has low_freq_factor={self.low_freq_factor} and "
                f"high_freq_factor={self.high_freq_factor}; need 0 < low < high (Llama 3.1 uses 1 and 4)"
            )
        if self.attention_factor is not None:
            check_number("rope_scaling.attention_factor", self.attention_factor)
        check_number("rope_scaling.beta_fast", self.beta_fast)
        check_number("rope_scaling.beta_slow", self.beta_slow)
        check_one_of("rope_scaling.truncate", self.truncate, (True, False))

    @property
    def amplitude(self) -> float:
        """What the rotation multiplies the length of queries and keys by: 1, but for YaRN."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0

    def ntk_factor(self, max_seq_len: int) -> float:
        """Return the factor by which ``ntk`` and ``dynamic`` stretch the slowest pair for a context, else 1."""
        if self.kind == "dynamic":
            return max(1.0, self.factor * max_seq_len / self.original_max_seq_len - (self.factor - 1))
        return self.factor if self.kind == "ntk" else 1.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RopeScaling":
        """Build a scaling from plain values.

        Raises:
            ValueError: if a field is unknown, missing or out of range.
        """
        try:
            return cls(**values)
        except TypeError:
            known = [field.name for field in fields(cls)]
            raise ValueError(f"rope_scaling={values!r} must have kind and factor; its fields are {known}") from None
