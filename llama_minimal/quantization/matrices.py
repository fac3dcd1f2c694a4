"""Which matrices of a model can be kept in few bits, and which are."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from llama_minimal.config.checks import nearest_divisors
from llama_minimal.linear import Linear
from llama_minimal.lora.layer import Adapted
from llama_minimal.quantization.config import Quantization
from llama_minimal.quantization.layers import QuantizedLinear


def find_matrices(model: nn.Module, skip: Sequence[str]) -> dict[str, nn.Module]:
    """Return what can be rounded, by name; of a tied table its output layer alone."""
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


def check_groups(group_size: int | Literal["row"] | None, matrices: Mapping[str, nn.Module]) -> None:
    """Refuse groups that do not divide the rows of all matrices, and name the nearest that do.

    Args:
        group_size: as it was asked for; None and "row" suit all.
    """
    if group_size in ("row", None):
        return
    lengths = {name: module.weight.size(1) for name, module in matrices.items()}
    near = nearest_divisors(math.gcd(*lengths.values()), group_size, at_least=2)
    for name, length in lengths.items():
        if length % group_size:
            use = f"use {', '.join(map(str, near))}, or leave it out" if near else "leave it out"
            raise ValueError(
                f"in {name}, row length={length} is not divisible by group_size={group_size}; "
                f"{use}: then the last group of a row may be shorter"
            )


def check_matrix(name: str, module: nn.Module) -> None:
    """Refuse a matrix that cannot be rounded.

    Args:
        name: of the module, for the message.

    Raises:
        ValueError: if it is spread over processes or devices, on the meta device, or not finite.
    """
    if not name:
        raise ValueError("what is quantized are the layers inside a model, and this is one layer; give the model")
    kind = type(module).__bases__[1] if isinstance(module, Adapted) else type(module)
    if kind not in (Linear, nn.Linear, nn.Embedding) or type(module.weight.data) is not Tensor or _is_moved(module):
        if isinstance(module, nn.Embedding) and kind is not nn.Embedding:
            raise ValueError(f"{name} is no table alone, it reads features; leave it as it is, with skip=({name!r},)")
        raise ValueError(f"{name} is spread over processes or devices; quantize the model before that")
    if module.weight.is_meta:
        raise ValueError("a model on the meta device holds no numbers to quantize; build or load it first")
    if not module.weight.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity, which no grid can; mend the model first")


def _is_moved(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers, and a table of an embedding, that are kept in few bits."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def quantization_of(model: nn.Module) -> Quantization | None:
    """Return how a model is quantized, None if it is not."""
    layers = quantized_layers(model)
    if not layers:
        return None
    layer = next(iter(layers.values()))
    group = None if layer.scheme in ("fp8", "int8-dynamic") else layer.group_size or "row"
    options = layer.options
    return Quantization(scheme=layer.scheme, group_size=group, skip=tuple(find_matrices(model, ())), **options)


def quantized_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the codes and grids of a model by name, in the order in which they are saved."""
    found = {}
    for name, layer in quantized_layers(model).items():
        layer.restore()
        found |= {f"{name}.weight": layer.weight, f"{name}.scale": layer.scale}
    return found


def check_steps(model: nn.Module, source: object) -> None:
    """Refuse steps that no rounding gives: what a damaged file holds.

    Raises:
        ValueError: if one is not above 0; the message names ``source`` and the layer.
    """
    for name, layer in quantized_layers(model).items():
        if not (layer.steps > 0).all():
            raise ValueError(f"{source}: {name}.scale holds steps that are not above 0; the checkpoint is damaged")


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
