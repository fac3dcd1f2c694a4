"""Quantization of a whole model: its linear layers, and the tables of its vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llama_minimal.config.checks import check_divides, check_integer, check_one_of, settle
from llama_minimal.devices import find_dtype
from llama_minimal.linear import Linear
from llama_minimal.lora.adapters import keep_adapters, let_train, refuse_merged
from llama_minimal.lora.layer import Adapted
from llama_minimal.quantization.layers import QuantizedLinear
from llama_minimal.quantization.schemes import SCHEMES

Scheme = Literal["int8", "int4", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Say how a model's matrices are kept."""

    scheme: Scheme
    """``int8`` (a step per row), ``int4`` (a step and an offset per group) or ``fp8`` (floats of 8 bits)."""
    group_size: int | Literal["row"] | None = None
    """Numbers of a row that share a grid; None means 32 for int4, where a row's last group may be shorter, and
    otherwise the whole row."""
    skip: tuple[str, ...] = ()
    """Layers to leave as they are, such as ``output``, ``w2`` or ``layers.0.attention.wq``."""

    def __post_init__(self) -> None:
        check_one_of("scheme", self.scheme, tuple(SCHEMES))
        if self.group_size not in ("row", None):
            settle(self, "group_size", check_integer("group_size", self.group_size, at_least=2))
            if self.scheme == "fp8":
                raise ValueError("fp8 has a scale per row; leave group_size out")
        if isinstance(self.skip, str) or not all(isinstance(name, str) for name in self.skip):
            raise ValueError(f"skip={self.skip!r} must be names of layers, such as ('output',)")
        settle(self, "skip", tuple(dict.fromkeys(self.skip)))

    @property
    def group(self) -> int | None:
        """Numbers that share a grid, None for a row."""
        size = self.group_size or (32 if self.scheme == "int4" else "row")
        return None if size == "row" else size

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``Quantization(**values)`` reads them back."""
        return asdict(self) | {"skip": list(self.skip)}


class QuantizedEmbedding(nn.Module):
    """Look rows up in a quantized table, which may be the output layer, too."""

    def __init__(self, table: QuantizedLinear, *, is_output: bool) -> None:
        super().__init__()
        if is_output:
            self._table = (table,)  # it stands under its own name in the model
        else:
            self.table = table

    @property
    def num_embeddings(self) -> int:
        """How many rows there are."""
        return self._rows.out_features

    @property
    def _rows(self) -> QuantizedLinear:
        return self._table[0] if "_table" in self.__dict__ else self.table

    def forward(self, tokens: Tensor) -> Tensor:
        try:
            return self._rows.decode(tokens.flatten()).view(*tokens.shape, -1)
        except RuntimeError:  # PyTorch's for an unknown row, where its own embedding raises IndexError
            if ((tokens < 0) | (tokens >= self.num_embeddings)).any():
                raise IndexError(f"of {self.num_embeddings} rows, there is none of some of these numbers") from None
            raise


@torch.no_grad()
def quantize(
    model: nn.Module,
    scheme: Scheme,
    *,
    group_size: int | Literal["row"] | None = None,
    skip: Sequence[str] = (),
    dtype: torch.dtype | str = torch.bfloat16,
) -> nn.Module:
    """Keep the matrices of a model in few bits, in place: linear layers, embedding and output.

    What remains, norms and biases, no longer learns; an adapter beside a quantized layer does.

    Args:
        scheme, group_size, skip: as in ``Quantization``.
        dtype: of what remains, of the grids and of all arithmetic. On a CPU the fast products are those in bfloat16.

    Returns:
        The model.

    Raises:
        ValueError: if the scheme is unknown, a group does not divide the rows, a layer to skip is not there, or the
            model is quantized already, on the meta device, spread over processes or devices, or has an adapter merged;
            it is then as it was.
    """
    skip = skip if isinstance(skip, str) else tuple(skip)  # a text is refused
    how, dtype = Quantization(scheme=scheme, group_size=group_size, skip=skip), find_dtype(dtype)
    refuse_quantized(model, "quantize it once more")
    refuse_merged(model, "quantize a model")
    matrices = _matrices(model, how.skip)
    for name, module in matrices.items():
        _check_matrix(name, module, how)
    options = {"group_size": how.group, "dtype": dtype}
    _replace(model, matrices, lambda old: SCHEMES[scheme].from_weight(old.weight, _bias_of(old), **options))
    model.to(dtype).requires_grad_(False)
    let_train(model)
    return model


def expect_quantized(model: nn.Module, how: Quantization) -> None:
    """Put layers without numbers in the place of a model's, in place, for a quantized checkpoint to fill.

    Args:
        model: on the meta device.

    Raises:
        ValueError: if a layer to skip is not there.
    """

    def make(old: nn.Module) -> QuantizedLinear:
        n_out, n_in = old.weight.shape
        options = {"dtype": old.weight.dtype, "device": old.weight.device, "group_size": how.group}
        return SCHEMES[how.scheme](n_in, n_out, bias=_bias_of(old) is not None, **options)

    _replace(model, _matrices(model, how.skip), make)
    model.requires_grad_(False)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers, and a table of an embedding, that are kept in few bits."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def quantization_of(model: nn.Module) -> Quantization | None:
    """Return how a model is quantized, None if it is not."""
    layers = quantized_layers(model)
    if not layers:
        return None
    layer = next(iter(layers.values()))
    group = None if layer.scheme == "fp8" else layer.group_size or "row"
    return Quantization(scheme=layer.scheme, group_size=group, skip=tuple(_matrices(model, ())))


def quantized_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the codes and grids of a model by name, in the order in which they are saved."""
    found = {}
    for name, layer in quantized_layers(model).items():
        layer.restore()
        found |= {f"{name}.weight": layer.weight, f"{name}.scale": layer.scale}
    return found


def refuse_quantized(model: nn.Module, what: str) -> None:
    """Refuse to do something to a quantized model.

    Raises:
        ValueError: if it is one.
    """
    if layers := quantized_layers(model):
        scheme = next(iter(layers.values())).scheme
        raise ValueError(f"cannot {what}: the model is quantized ({scheme}); load the original, and begin with that")


def weight_bytes(model: nn.Module) -> int:
    """Return what all weights of a model take in memory, in bytes: each matrix once, tables and grids included."""
    layers = quantized_layers(model).values()
    kept = [tensor for layer in layers for tensor in (layer.weight, layer.scale)]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *kept])


def _matrices(model: nn.Module, skip: Sequence[str]) -> dict[str, nn.Module]:
    """Return what can be quantized, by name; of a tied table its output layer alone."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and ".adapters." not in name
    }
    for left_out in skip:
        if not any(_is_meant(name, left_out) for name in found):
            there = ", ".join(dict.fromkeys(name.split(".")[-1] for name in found))
            raise ValueError(f"the model has no layer {left_out!r} to skip; there are {there}")
    kept = {id(module.weight) for name, module in found.items() if any(_is_meant(name, one) for one in skip)}
    outputs = {id(module.weight) for module in found.values() if isinstance(module, nn.Linear)}
    return {
        name: module
        for name, module in found.items()
        if id(module.weight) not in kept and not (isinstance(module, nn.Embedding) and id(module.weight) in outputs)
    }


def _is_meant(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _check_matrix(name: str, module: nn.Module, how: Quantization) -> None:
    kind = type(module).__bases__[1] if isinstance(module, Adapted) else type(module)
    if kind not in (Linear, nn.Linear, nn.Embedding) or type(module.weight.data) is not Tensor or _is_moved(module):
        raise ValueError(f"{name} is spread over processes or devices; quantize the model before that")
    if module.weight.is_meta:
        raise ValueError("a model on the meta device holds no numbers to quantize; build or load it first")
    if not module.weight.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity, which no grid can; mend the model first")
    n_in = module.weight.size(1)
    if how.group_size not in ("row", None) and n_in % how.group_size:
        check_divides("group_size", how.group_size, f"the rows of {name}", n_in)


def _is_moved(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks)


def _bias_of(module: nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)


def _replace(model: nn.Module, matrices: dict[str, nn.Module], make: Callable[[nn.Module], QuantizedLinear]) -> None:
    """Put what ``make`` makes of each matrix in its place, one after the other; a tied table stays one."""
    tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, old in matrices.items():
        new = make(old).train(old.training)
        owner, _, last = name.rpartition(".")
        if isinstance(old, nn.Embedding):
            setattr(model.get_submodule(owner), last, QuantizedEmbedding(new, is_output=False))
            continue
        for other, table in tables.items():
            if table.weight is old.weight:
                place, _, leaf = other.rpartition(".")
                setattr(model.get_submodule(place), leaf, QuantizedEmbedding(new, is_output=True))
        setattr(model.get_submodule(owner), last, keep_adapters(old, new))
