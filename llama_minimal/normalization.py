"""Normalization: LayerNorm of the Transformer and RMSNorm of LLaMA."""

# B batch, T time, D model width

import torch
from torch import Tensor, nn

from llama_minimal.config import LlamaConfig


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each token's features by their root mean square, and scale.

    x / √(mean(x²) + ε) · weight, with the mean over the last axis, in at least float32.

    Args:
        x: (..., D).
        weight: (D,).

    Returns:
        (..., D).

    Source: Zhang and Sennrich 2019, eq. 4.
    """
    wide = _at_least_float32(x)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).type_as(x) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Shift each token's features to mean 0, divide by their standard deviation, scale and shift.

    (x − μ) / √(σ² + ε) · weight + bias, with μ and σ² over the last axis, in at least float32.

    Args:
        x: (..., D).
        weight, bias: (D,).

    Returns:
        (..., D).

    Source: Ba, Kiros and Hinton 2016, §3.
    """
    wide = _at_least_float32(x)
    centered = wide - wide.mean(-1, keepdim=True)
    return (centered * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + eps)).type_as(x) * weight + bias


class RMSNorm(nn.Module):
    """Apply ``rms_norm`` with a learned scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Apply ``layer_norm`` with a learned scale and shift."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


def make_norm(config: LlamaConfig) -> RMSNorm | LayerNorm:
    """Build the norm that ``config.norm`` names."""
    return {"rms": RMSNorm, "layer": LayerNorm}[config.norm](config.dim, config.norm_eps)
