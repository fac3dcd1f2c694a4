"""Normalization: LayerNorm of the Transformer and RMSNorm of LLaMA."""

# B batch, T time, D model width

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llama_minimal.config import LlamaConfig
from llama_minimal.products import are_plain


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
    is_same = wide.dtype == x.dtype == weight.dtype and x.device == weight.device
    if torch.is_grad_enabled() and is_same and not torch.compiler.is_compiling() and are_plain(x, weight):
        return _RMSNorm.apply(x, weight, eps)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).type_as(x) * weight


class _RMSNorm(torch.autograd.Function):
    """``rms_norm`` with the gradient that one can write down, in fewer passes over memory.

    With r = 1/√(mean(x²) + ε), n = r·x and g = d_out·weight: d_x = r·(g − n·mean(g·n)), d_weight = Σ d_out·n.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        n = x * r
        products = d_out * n
        d_weight = products.reshape(-1, weight.numel()).sum(0)  # a new array even of one token
        mean = products.mul_(weight).mean(-1, keepdim=True)
        return (d_out * weight).addcmul_(n, mean, value=-1).mul_(r), d_weight, None


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
