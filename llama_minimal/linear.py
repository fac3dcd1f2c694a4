"""The linear layer, and one faster way through it for a token at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.products import is_faster, product

Weight = Tensor | nn.Module

# A CPU's float32 product of a matrix with a few vectors keeps to one core in MKL, and waits for memory. Cut into
# this many blocks of rows, as a batched product, it uses all cores: 2 to 4 times as fast (benchmarks/README.md).
_BLOCKS = 8
_FEW_VECTORS = 8
_LARGE = 1 << 16  # smaller weights stay in the cache, and the detour costs more than it saves


def linear(x: Tensor, w: Weight, b: Tensor | None = None) -> Tensor:
    """Return x wᵀ + b, or what a module in the place of ``w`` makes of x.

    So that formulas serve matrices as well as layers: a plain ``Linear``, one with a low-rank adapter, in int8,
    or sharded over devices.

    Args:
        x: (..., in).
        w: (out, in), or a module that maps (..., in) to (..., out) and brings its own bias.
        b: (out,).
    """
    return w(x) if isinstance(w, nn.Module) else F.linear(x, w, b)


def cast_once(x: Tensor) -> Tensor:
    """Cast what several linear layers are about to read as autocast would in each of them anew."""
    if x.is_meta:  # has no autocast; torch.amp.is_autocast_available cannot be compiled before PyTorch 2.12
        return x
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Linear(nn.Linear):
    """Be ``nn.Linear``, and faster on a CPU when few tokens come at a time."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() and bias is None and is_faster(x, weight):
            return product(x, weight)
        if torch.is_grad_enabled() or bias is not None or not _is_worth_it(x, weight):
            return F.linear(x, weight, bias)
        return _by_blocks(x, weight)


def _is_worth_it(x: Tensor, weight: Tensor) -> bool:
    n_out, n_in = weight.shape
    return (
        type(x) is Tensor  # and not one that is spread over processes
        and 0 < x.numel() <= _FEW_VECTORS * n_in
        and n_out * n_in >= _LARGE
        and n_out % _BLOCKS == 0
        and weight.dtype == x.dtype == torch.float32
        and weight.device.type == "cpu"
    )


def _by_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """Return x wᵀ, computed block of rows by block of rows."""
    columns = x.reshape(-1, x.size(-1)).t()  # (in, n)
    blocks = weight.unflatten(0, (_BLOCKS, -1))  # (blocks, out / blocks, in)
    out = torch.bmm(blocks, columns.expand(_BLOCKS, -1, -1))  # (blocks, out / blocks, n)
    return out.flatten(0, 1).t().reshape(*x.shape[:-1], weight.size(0))
