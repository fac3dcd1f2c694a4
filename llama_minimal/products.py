"""Matrix products in float32, by the faster of the two libraries that PyTorch has for them on a CPU."""

# N tokens, in and out: the widths of a linear layer

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LARGE = 1 << 21  # multiplications; below, what Python costs is more than the other library saves


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Return whether ``product`` is the faster way to x wᵀ, for training.

    PyTorch leaves float32 products to MKL, which keeps to AVX2's registers on an AMD processor. oneDNN, which is in
    PyTorch too, for bfloat16, uses the wider ones of AVX-512: twice as fast (benchmarks/README.md).
    """
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.size(0) >= _LARGE
        and type(x) is Tensor  # and not one that is spread over processes
        and type(weight) in (Tensor, nn.Parameter)
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._functorch.is_functorch_wrapped_tensor(weight)
        and _mkl_is_slow()
    )


@cache
def _mkl_is_slow() -> bool:
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not libraries or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    described = Path("/proc/cpuinfo")
    return described.exists() and "AuthenticAMD" in described.read_text()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x wᵀ, computed by oneDNN, as are its gradients.

    Args:
        x: (..., in), float32, on the CPU.
        weight: (out, in), likewise.
    """
    return _Product.apply(x, weight)


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    """Return a bᵀ. Where rows of ``b`` lie apart costs nothing; ``a`` is copied if it is not contiguous."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


class _Product(torch.autograd.Function):
    """out = x wᵀ; d_x = d_out w; d_w = d_outᵀ x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        d_x = _onednn(d_out, weight.t()) if ctx.needs_input_grad[0] else None
        return d_x, _weight_gradient(d_out.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None


def _weight_gradient(d_out: Tensor, x: Tensor) -> Tensor:
    """Return d_outᵀ x, (out, in); the narrower of the two is the one that is copied."""
    if d_out.size(1) < x.size(1):
        return _onednn(d_out.t(), x.t())
    return _onednn(x.t(), d_out.t()).t().contiguous()
