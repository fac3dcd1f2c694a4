"""The linear layer, and faster ways through it for a few tokens at a time.

Writing text, a model multiplies each of its matrices with one vector per row of the batch, and most of the time is
reading the matrices. How fast that goes depends on how the numbers lie in memory (benchmarks/README.md has the
figures). So at its first step without gradients a layer on a CPU lays its weights out anew:

- **float32**: matrices that read the same vector move into one block of memory. One product of them, cut into rows,
  uses every core, where MKL's product of a matrix and a vector keeps to one.
- **bfloat16**: they go into the order in which oneDNN reads them, which PyTorch otherwise makes anew in every call.
  The plain ones are given back to the system. Whoever asks for such a weight (an optimizer, a checkpoint, an adapter,
  a pruning mask, a forward pass with gradients) gets it as it was: it unpacks itself first.
"""

import copy
import functools
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from llama_minimal.products import is_faster, product

Weight = Tensor | nn.Module

_BLOCKS = 8
_FEW_VECTORS = 8
LARGE = 1 << 16
"""Numbers of a weight from which the ways here pay: smaller ones stay in the processor's cache."""


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


def linears(x: Tensor, *weights: Weight) -> tuple[Tensor, ...]:
    """Return x wᵀ of several weights; in one product where that is faster.

    Args:
        x: (..., in).
        weights: each (out, in), or a module in its place, as for ``linear``.
    """
    out = in_one_product(x, weights)
    return tuple(linear(x, w) for w in weights) if out is None else out.split([w.out_features for w in weights], dim=-1)


def cast_once(x: Tensor) -> Tensor:
    """Cast what several linear layers are about to read as autocast would in each of them anew."""
    if x.is_meta:  # has no autocast; torch.amp.is_autocast_available cannot be compiled before PyTorch 2.12
        return x
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def compiling_pays(model: nn.Module) -> bool:
    """Return whether a compiled step of one token is the faster one, and warn where it is not.

    PyTorch's compiler makes better steps of small kernels, but on a CPU worse products of a large matrix and a vector.
    """
    pays = any(p.device.type != "cpu" for p in model.parameters()) or all(p.numel() < LARGE for p in model.parameters())
    if not pays:
        warnings.warn(
            f"not compiled: on a CPU that pays only for models whose matrices all have fewer than {LARGE:,} numbers",
            stacklevel=2,
        )
    return pays


class Linear(nn.Linear):
    """Be ``nn.Linear``, and faster on a CPU when few tokens come at a time."""

    packs = True
    """Whether the weight may be packed: a table whose rows are looked up, too, would be unpacked for each token."""

    def forward(self, x: Tensor) -> Tensor:
        out = in_one_product(x, (self,))
        if out is None and self.bias is None and is_faster(x, self.weight):
            out = product(x, self.weight)
        return F.linear(x, self.weight, self.bias) if out is None else out


def in_one_product(x: Tensor, layers: Sequence[Weight]) -> Tensor | None:
    """Return x wᵀ of all the layers, one beside the other; None where each for itself is as good, or needed.

    Args:
        x: (..., in).
        layers: each ``Linear`` (out, in); another kind may have a method of this name; the rest is for itself.

    Returns:
        (..., sum of outs).
    """  # It stands in the way of every token, so it is written for speed.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu":
        return None
    if type(layers[0]) is not Linear and (way := getattr(layers[0], "in_one_product", None)) is not None:
        return way(x, layers)
    weights = []
    for layer in layers:
        if type(layer) is not Linear or (len(layers) > 1 and (layer._forward_hooks or layer._forward_pre_hooks)):
            return None
        weights.append(layer._parameters.get("weight"))
    if type(weights[0]) is PackedWeight:
        pack = weights[0].pack
        return pack.product(x) if x.dtype == torch.bfloat16 and pack.holds(weights) else None
    if not 0 < x.numel() <= _FEW_VECTORS * x.size(-1):
        return None
    for layer, weight in zip(layers, weights, strict=True):
        if type(weight) is not nn.Parameter or weight.dtype != x.dtype or layer._parameters["bias"] is not None:
            return None
    if x.dtype == torch.float32:
        return _by_blocks(x, weights)
    if x.dtype == torch.bfloat16 and _may_pack(layers):
        return Pack(weights).product(x)
    return None


# ---- float32: blocks of rows


def _by_blocks(x: Tensor, weights: Sequence[nn.Parameter]) -> Tensor | None:
    """Return x wᵀ, computed block of rows by block of rows."""
    n_in, n_out = x.size(-1), sum([w.size(0) for w in weights])
    if n_out * n_in < LARGE or n_out % _BLOCKS or (weight := _side_by_side(weights, n_out, n_in)) is None:
        return None
    blocks = weight.view(_BLOCKS, -1, n_in)  # (blocks, out / blocks, in)
    columns = x.reshape(-1, n_in).t()  # (in, n)
    out = torch.bmm(blocks, columns.expand(_BLOCKS, -1, -1))  # (blocks, out / blocks, n)
    return out.view(n_out, -1).t().reshape(*x.shape[:-1], n_out)


def _side_by_side(weights: Sequence[nn.Parameter], n_out: int, n_in: int) -> Tensor | None:
    """Return the weights as one, (sum of outs, in), after moving them to one place if they are not there yet."""
    if len(weights) == 1:
        return weights[0] if weights[0].is_contiguous() else None
    if weights[0].untyped_storage().nbytes() == n_out * n_in * 4 and _are_neighbors(weights):
        return weights[0].as_strided((n_out, n_in), (n_in, 1))
    if not all(_is_alone(w) for w in weights):
        return None
    with torch.inference_mode(False), torch.no_grad():
        together = torch.cat(weights)
        for weight, part in zip(weights, together.split([w.size(0) for w in weights]), strict=True):
            weight.data = part
    return together


def _are_neighbors(weights: Sequence[nn.Parameter]) -> bool:
    place = weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != place or not weight.is_contiguous():
            return False
        place += weight.numel() * 4
    return True


def _is_alone(weight: nn.Parameter) -> bool:
    """Tell whether nobody else can read or write this memory: no view, no graph, no state dict in someone's hands."""
    storage = weight.untyped_storage()  # used by it and this variable
    return not weight.is_inference() and torch._C._storage_Use_Count(storage._cdata) <= 2 and weight._use_count() == 1


# ---- bfloat16: packed


def _may_pack(layers: Sequence[Linear]) -> bool:
    if not _can_pack() or sum([layer.weight.numel() for layer in layers]) < LARGE:
        return False
    return all([layer.packs and _is_alone(layer.weight) for layer in layers])


@functools.cache
def _can_pack() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Pack:
    """Hold the weights of layers that read the same vector, in oneDNN's order, one beside the other.

    Args:
        weights: each (out, in).
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights = list(weights)
        with torch.inference_mode(False), torch.no_grad():
            together = torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0].detach()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(together.contiguous(), 1)
            for weight in self.weights:
                weight.data = weight.new_zeros(()).expand(weight.shape)  # a shape without memory
                weight.__class__ = PackedWeight
                weight.pack = self

    def holds(self, weights: Sequence[Tensor]) -> bool:
        """Return whether it holds these weights, no more and no fewer."""
        return len(weights) == len(self.weights) and all(map(operator.is_, weights, self.weights))

    def product(self, x: Tensor) -> Tensor:
        """Return x wᵀ of all the weights, (..., in) -> (..., sum of outs)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def open(self) -> None:
        """Give every weight its own memory again."""
        with torch.inference_mode(False), torch.no_grad():
            parts = self.packed.to_dense().split([w.size(0) for w in self.weights])
            for weight, part in zip(self.weights, parts, strict=True):
                del weight.pack
                weight.__class__ = nn.Parameter
                weight.data = part.clone() if len(parts) > 1 else part


class PackedWeight(nn.Parameter):
    """Be a parameter whose numbers are in a ``Pack``, which is opened as soon as anyone asks for them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
