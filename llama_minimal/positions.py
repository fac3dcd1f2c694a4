"""Positions: the sinusoidal table of the Transformer and the rotary embedding of LLaMA."""

# B batch, T time, H heads, D model width, Dh head width

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.devices import has_complex


def sinusoidal_table(
    dim: int, max_seq_len: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Return the sinusoidal position table, (max_seq_len, D).

    PE[t, 2i] = sin(t / 10000^(2i/D)) and PE[t, 2i+1] = cos(t / 10000^(2i/D)).

    Source: Vaswani et al. 2017, §3.5.
    """
    cos, sin = rope_table(dim, max_seq_len, dtype=dtype, device=device)  # the same angles, D for Dh
    return torch.stack((sin, cos), dim=-1).flatten(-2)


def rope_frequencies(
    head_dim: int,
    theta: float = 10_000.0,
    scaling: RopeScaling | None = None,
    *,
    context: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the angle per token of each pair of features, θ^(−2i/Dh), stretched if asked.

    Args:
        context: tokens that ``dynamic`` scaling stretches for.

    Returns:
        (Dh/2,) in radians per token.

    Source: Su et al. 2021, eq. 15; ``RopeScaling`` names the sources of the scalings.
    """
    if scaling and scaling.kind in ("ntk", "dynamic"):
        theta = theta * scaling.ntk_factor(context) ** (head_dim / (head_dim - 2))
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=dtype, device=device) / head_dim)
    if scaling and scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling and scaling.kind == "llama3":
        turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)  # within the trained context
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1 for fast pairs, 0 for slow ones
        return keep * frequencies + (1 - keep) * frequencies / scaling.factor
    if scaling and scaling.kind == "yarn":
        first, last = _yarn_borders(head_dim, theta, scaling)
        pairs = torch.arange(head_dim // 2, dtype=dtype, device=device)
        keep = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
        return keep * frequencies + (1 - keep) * frequencies / scaling.factor
    return frequencies


def _yarn_borders(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """Return the last pair that is kept and the first that is wholly stretched, as fractions of pairs.

    θ^(−2i/Dh)·M = 2π·turns, solved for i. The clamps are those of the released code.
    """

    def pair(turns: float) -> float:
        return head_dim * math.log(scaling.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    return first, last + 0.001 * (first == last)  # a step where there is no slope


def rope_table(
    head_dim: int,
    max_seq_len: int,
    theta: float = 10_000.0,
    scaling: RopeScaling | None = None,
    *,
    context: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every position's angles, each (max_seq_len, Dh/2).

    Args:
        context: tokens that ``dynamic`` scaling stretches for; None means ``max_seq_len``.
    """
    frequencies = rope_frequencies(
        head_dim, theta, scaling, context=max_seq_len if context is None else context, dtype=dtype, device=device
    )
    angles = torch.outer(torch.arange(max_seq_len, dtype=dtype, device=device), frequencies)
    if scaling and scaling.amplitude != 1:  # YaRN's queries and keys grow: sharper attention
        return angles.cos() * scaling.amplitude, angles.sin() * scaling.amplitude
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of neighboring features by its position's angle.

    (x₀, x₁) ↦ (x₀·cos − x₁·sin, x₀·sin + x₁·cos), computed in at least float32.

    Args:
        x: (..., T, Dh), or any layout whose last axis is Dh.
        cos, sin: (T, Dh/2), or any shape that broadcasts against half of ``x``.

    Returns:
        The shape and dtype of ``x``.

    Source: Su et al. 2021, §3.4.2; Meta's interleaved layout.
    """
    pairs = x.to(cos.dtype).view(*x.shape[:-1], -1, 2)  # (..., Dh/2, 2)
    # A compiler fuses real arithmetic, and knows no complex numbers.
    if torch.compiler.is_compiling() or not has_complex(x.device):
        x0, x1 = pairs.unbind(-1)
        rotated = torch.stack((x0 * cos - x1 * sin, x0 * sin + x1 * cos), dim=-1)
    else:  # eager PyTorch makes a pass over memory per operation: one complex product is one pass
        rotated = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
    return rotated.flatten(-2).type_as(x)


class PositionTable(nn.Module):
    """Hold position tables that no change of dtype or device can spoil.

    In bfloat16, most positions past 256 would be rounded to a neighbor's. So the tables are computed
    anew, in float32 or better, whenever the module is moved or cast, ``to_empty`` included.
    """

    def __init__(self, make: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._make = make
        self._fill(torch.get_default_device(), torch.float32)

    def _fill(self, device: torch.device, dtype: torch.dtype) -> None:
        self._probe = torch.empty(0, dtype=dtype, device=device)
        # On the meta device, where a model begins that is loaded, this would import half a second of compiler.
        self.tables = () if device.type == "meta" else self._compute()

    def _compute(self) -> tuple[Tensor, ...]:
        tables = self._make(dtype=self._probe.dtype, device=self._probe.device)
        return tables if isinstance(tables, tuple) else (tables,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PositionTable":
        super()._apply(fn, recurse)
        probe = fn(self._probe)
        dtype = torch.promote_types(probe.dtype, torch.float32)
        if (probe.device, dtype) != (self._probe.device, self._probe.dtype):
            self._fill(probe.device, dtype)
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Look up the rows of each table: positions (...) -> (..., width) each."""
        return tuple(table[positions] for table in self.tables or self._compute())


def make_position_table(config: LlamaConfig) -> PositionTable | None:
    """Build the table of a model's positions, or None if it has none."""
    if config.position == "rope":
        return PositionTable(
            partial(rope_table, config.head_dim, config.max_seq_len, config.rope_theta, config.rope_scaling)
        )
    if config.position == "sinusoidal":
        return PositionTable(partial(sinusoidal_table, config.dim, config.max_seq_len))
    return None
