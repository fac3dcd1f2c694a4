"""Weights in the order in which oneDNN reads them, for products with a few vectors in bfloat16.

PyTorch makes that order anew in every call. Here it is made once, and the plain weights are given back to the system.
Whoever asks for such a weight (an optimizer, a checkpoint, an adapter, a pruning mask, a forward pass with gradients)
gets it as it was: it unpacks itself first.
"""

import copy
import ctypes
import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@functools.cache
def can_pack() -> bool:
    """Return whether this processor has such products."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def is_alone(weight: nn.Parameter) -> bool:
    """Tell whether nobody else can read or write this memory: no view, no graph, no state dict in someone's hands."""
    if weight.is_inference():
        return False
    storage = weight.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) <= 2 and weight._use_count() == 1  # it and this variable


class Pack:
    """Hold the weights of layers that read the same vector, in oneDNN's order, one beside the other.

    Args:
        weights: each (out, in).
        is_table: also look up rows.
    """

    def __init__(self, weights: Sequence[nn.Parameter], *, is_table: bool = False) -> None:
        self.weights = list(weights)
        with torch.inference_mode(False), torch.no_grad():
            together = torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0].detach()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(together.contiguous(), 1)
            self.rows = _rows_of(self.packed, together) if is_table else None
            for weight in self.weights:
                weight.n_rows = weight.size(0)  # PyTorch would ask ``__torch_function__`` first, and this is read often
                weight.data = weight.new_zeros(()).expand(weight.shape)  # a shape without memory
                weight.__class__ = PackedWeight
                weight.pack = self

    def holds(self, weights: Sequence[Tensor]) -> bool:
        """Return whether it holds these weights, no more and no fewer."""
        return len(weights) == len(self.weights) and all(map(operator.is_, weights, self.weights))

    def product(self, x: Tensor) -> Tensor:
        """Return x wᵀ of all the weights, (..., in) -> (..., sum of outs)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def look_up(self, ids: Tensor) -> Tensor:
        """Return rows of the weight, (...) -> (..., in).

        Raises:
            IndexError: if there is no such row.
        """
        if bool(((ids < 0) | (ids >= self.weights[0].size(0))).any()):
            raise IndexError("no such row")
        n = self.rows.size(2)
        return self.rows[ids // n, :, ids % n].flatten(-2)  # (..., in / 2, 2) -> (..., in)

    def open(self) -> None:
        """Give every weight its own memory again."""
        with torch.inference_mode(False), torch.no_grad():
            parts = self.packed.to_dense().split([w.size(0) for w in self.weights])
            for weight, part in zip(self.weights, parts, strict=True):
                del weight.pack, weight.n_rows
                weight.__class__ = nn.Parameter
                weight.data = part.clone() if len(parts) > 1 else part


def _rows_of(packed: Tensor, weight: Tensor) -> Tensor | None:
    """Return packed numbers as a tensor (blocks, in / 2, rows of a block, 2), or None if they lie in another order.

    Where they lie is not documented, so the order is tried, on rows from everywhere.
    """
    n_rows, n_in = weight.shape
    sample = torch.linspace(0, n_rows - 1, 100).long()
    size = int(torch.ops.mkldnn._nbytes(packed))
    buffer = (ctypes.c_char * size).from_address(int(torch.ops.mkldnn.data_ptr(packed)))
    numbers = torch.frombuffer(buffer, dtype=weight.dtype)  # the same memory, which lives as long as ``packed``
    for n in (64, 48, 32, 16):
        if n_in % 2 == 0 and size % (2 * n * n_in) == 0:
            rows = numbers.view(-1, n_in // 2, n, 2)
            if len(rows) * n >= n_rows and rows[sample // n, :, sample % n].flatten(1).equal(weight[sample]):
                return rows
    return None


class PackedWeight(nn.Parameter):
    """Be a parameter whose numbers are in a ``Pack``, which is opened as soon as anyone asks for them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding and not torch.is_grad_enabled() and args[1].pack.rows is not None:
            return args[1].pack.look_up(args[0])
        if func not in _OUTSIDE:
            for leaf in tree_leaves((args, kwargs)):
                if type(leaf) is PackedWeight:
                    leaf.pack.open()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict) -> nn.Parameter:
        self.pack.open()
        return copy.deepcopy(self, memo)

    def __reduce_ex__(self, protocol: int) -> Any:
        self.pack.open()
        return self.__reduce_ex__(protocol)


# What can be told of a packed weight without its numbers.
_OUTSIDE = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "layout", "ndim", "is_meta", "is_leaf")),
    *(getattr(Tensor, name).__get__ for name in ("requires_grad", "grad", "is_cuda", "is_cpu", "is_sparse")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.element_size, Tensor.is_floating_point),
    *(Tensor.__hash__, Tensor.__len__, Tensor.grad.__set__, Tensor.grad.__delete__),
}
