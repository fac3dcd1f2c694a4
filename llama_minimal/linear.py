"""The linear layer, and faster ways through it for a few tokens at a time.

Writing text, a model multiplies each of its matrices with one vector per row of the batch, and most of the time is
reading the matrices. How fast that goes depends on how the numbers lie in memory (benchmarks/README.md has the
figures). So at its first step without gradients a layer on a CPU lays its weights out anew:

- **float32**: matrices that read the same vector move into one block of memory. One product of them, cut into rows,
  uses every core, where MKL's product of a matrix and a vector keeps to one.
- **bfloat16**: they go into the order in which oneDNN reads them (``packed_weights.py``).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal import native
from llama_minimal.compiling import FEW, LARGE, in_one_call, n_compiled_vectors, vector_product
from llama_minimal.packed_weights import Pack, PackedWeight, can_pack, is_alone
from llama_minimal.products import MKL_IS_SLOW, is_faster, product

Weight = Tensor | nn.Module

_BLOCKS = 8
_FEW_VECTORS = 8
_FEW_IN_BLOCKS = 4 if MKL_IS_SLOW else 8  # then the other library's product of a few more is better


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
    return tuple(linear(x, w) for w in weights) if out is None else out.split([width(w) for w in weights], dim=-1)


def width(layer: nn.Module) -> int:
    """Return how many features a linear layer gives: under tensor parallelism fewer than its ``out_features``."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return layer.out_features
    return weight.n_rows if type(weight) is PackedWeight else weight.size(0)


def cast_once(x: Tensor) -> Tensor:
    """Cast what several linear layers are about to read as autocast would in each of them anew."""
    if x.is_meta:  # has no autocast; torch.amp.is_autocast_available cannot be compiled before PyTorch 2.12
        return x
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Linear(nn.Linear):
    """Be ``nn.Linear``, and faster on a CPU when few tokens come at a time."""

    is_table = False
    """Whether rows of the weight are looked up, too, as those of an embedding that is tied to the output."""
    packs = True
    """Whether the weight may be packed."""

    def forward(self, x: Tensor) -> Tensor:
        out = in_one_product(x, (self,))
        if out is None and n_compiled_vectors(x) == 1:
            out = vector_product(x, self.weight, self.bias)
        if out is None and self.bias is None and is_faster(x, self.weight):
            out = product(x, self.weight)
        return F.linear(x, self.weight, self.bias) if out is None else out

    @property
    def few(self) -> int:
        """The most vectors that a product in C++ takes at a time; none from a subclass, which may do something else."""
        return FEW if type(self) is Linear and self.weight.dtype in native.DTYPES else 0

    def vector_parts(self) -> tuple[Tensor, None]:
        """Return what a product in C++ reads."""
        return self.weight, None

    def restore(self) -> None:
        """Put the weight into the order in which it is saved."""
        weight = self._parameters.get("weight")  # none where it is computed of others (torch.nn.utils.prune, …)
        if type(weight) is PackedWeight:
            weight.pack.open()

    prepare = restore  # for compiled code, which reads it so


def in_one_product(x: Tensor, layers: Sequence[Weight]) -> Tensor | None:
    """Return x wᵀ of all the layers, one beside the other; None where each for itself is as good, or needed.

    Args:
        x: (..., in).
        layers: each ``Linear`` (out, in); another kind may have a method of this name; the rest is for itself.

    Returns:
        (..., sum of outs).
    """  # It stands in the way of every token, so it is written for speed.
    if torch.compiler.is_compiling():
        return in_one_call(x, layers)
    if torch.is_grad_enabled() or type(x) is not Tensor or x.device.type != "cpu":
        return None
    if type(layers[0]) is not Linear and (way := getattr(layers[0], "in_one_product", None)) is not None:
        return way(x, layers)
    n_out = 0
    for layer in layers:
        if type(layer) is not Linear or (len(layers) > 1 and (layer._forward_hooks or layer._forward_pre_hooks)):
            return None
        n_out += layer.out_features
    if n_out * x.size(-1) < LARGE:
        return None
    weights = [layer._parameters.get("weight") for layer in layers]
    if type(weights[0]) is PackedWeight:
        pack = weights[0].pack
        return pack.product(x) if x.dtype == torch.bfloat16 and pack.holds(weights) else None
    if not 0 < x.numel() <= _FEW_VECTORS * x.size(-1):
        return None
    for layer, weight in zip(layers, weights, strict=True):
        if type(weight) is not nn.Parameter or weight.dtype != x.dtype or layer._parameters["bias"] is not None:
            return None
    if x.dtype == torch.float32 and x.numel() <= _FEW_IN_BLOCKS * x.size(-1):
        return _by_blocks(x, weights)
    if x.dtype == torch.bfloat16 and _may_pack(layers):
        pack = Pack(weights, is_table=layers[0].is_table)
        out = pack.product(x)
        if layers[0].is_table and pack.rows is None:  # else each look-up would open it
            layers[0].packs = False
            pack.open()
        return out
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
    if not all(is_alone(w) for w in weights):
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


def _may_pack(layers: Sequence[Linear]) -> bool:
    if not can_pack() or sum([layer.weight.numel() for layer in layers]) < LARGE:
        return False
    return all(layer.packs and is_alone(layer.weight) for layer in layers)
