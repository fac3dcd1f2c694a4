"""Matrix products in float32, by the faster of the two libraries that PyTorch has for them on a CPU."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils.flop_counter import register_flop_formula


def _amd_family() -> int:
    """Return which family of AMD's processors with AVX-512 this is of; 0 if it is another maker's, or unknown."""
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    described = Path("/proc/cpuinfo")
    if not libraries or torch.backends.cpu.get_cpu_capability() != "AVX512" or not described.exists():
        return 0
    with described.open() as lines:
        found = re.search(r"AuthenticAMD\ncpu family\s*: (\d+)", lines.read(500))  # of the first core
    return int(found[1]) if found else 0


_FAMILY = _amd_family()
MKL_IS_SLOW = _FAMILY > 0
"""Whether MKL is to compute on another maker's processor that has AVX-512: it keeps to AVX2 there."""
# Multiplications; below, what Python costs is more than the other library saves. In family 25 (Zen 4) half as wide
# instructions are as good, and large products alone gain (benchmarks/README.md).
_LARGE = 1 << (21 if _FAMILY > 25 else 26)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Return whether ``product`` is the faster way to x wᵀ, where gradients are wanted.

    PyTorch leaves float32 to MKL, and bfloat16 to oneDNN. On AMD processors with AVX-512, oneDNN is faster in float32
    too, since Zen 5 about twice as fast (benchmarks/README.md).
    """
    return (
        MKL_IS_SLOW
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.size(0) >= _LARGE
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and are_plain(x, weight)
    )


def are_plain(*tensors: Tensor) -> bool:
    """Return whether a gradient written by hand may serve: not for tensors over processes, or inside torch.func."""
    if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors):
        return False
    # (A compiler has unwrapped what it sees.)
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return torch.compiler.is_compiling() or not any(is_wrapped(tensor) for tensor in tensors)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a bᵀ, by oneDNN; its gradients are products of the same kind.

    Args:
        a: (..., in), float32, on the CPU.
        b: (out, in), likewise.
    """
    return _Product.apply(a, b)


class _Product(torch.autograd.Function):
    """out = a bᵀ; d_a = d_out b; d_b = d_outᵀ a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.ops.llama_minimal.product(a, b)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        d_a = product(d_out, b.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_a, None
        a, d_out = a.flatten(0, -2), d_out.flatten(0, -2)
        # What stands on the left is copied, unless it is contiguous: let that be the narrower one.
        if d_out.size(1) < a.size(1):
            return d_a, product(d_out.t(), a.t())
        return d_a, product(a.t(), d_out.t()).t().contiguous()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


# A name of our own: PyTorch's compiler takes that function for one whose weights it has packed itself.
_LIBRARY = library.Library("llama_minimal", "DEF")
_LIBRARY.define("product(Tensor a, Tensor b) -> Tensor")
_LIBRARY.impl("product", _product, "CPU")
library.register_fake("llama_minimal::product", lambda a, b: a.new_empty(*a.shape[:-1], b.size(0)), lib=_LIBRARY)


@register_flop_formula(torch.ops.llama_minimal.product)
def _flops(a_shape: torch.Size, b_shape: torch.Size, *_: Any, **__: Any) -> int:
    """Count a product's arithmetic, for PyTorch's counter does not know of names of our own."""
    return 2 * a_shape.numel() * b_shape[0]
