"""Adapters as part of the weights: nothing more to compute, and a way back."""

import torch
from torch import nn

from llama_minimal.lora.adapters import (
    active_adapters,
    adapted_layers,
    adapters,
    is_merged,
    let_train,
    refuse_merged,
    remove_adapter,
)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add the active adapters to the weights, W + scale · B A, so that they cost nothing more.

    The former matrices are kept, for as much memory again: to subtract what was added would not give back the same
    bits. To keep nothing, ``merge_and_unload``.

    Raises:
        ValueError: if none is active, adapters are merged already, or a weight is not a number in floating point.
    """
    refuse_merged(model, "merge once more")
    if not active_adapters(model):
        raise ValueError("no adapter is active; name those to merge with set_active")
    layers = {name: layer for name, layer in adapted_layers(model).items() if layer.working()}
    for name, layer in layers.items():
        if not layer.weight.is_floating_point():
            raise ValueError(f"{name} has weights of {layer.weight.dtype}, to which no update can be added; leave it")
    for layer in layers.values():
        layer.unmerged = layer.weight.detach().clone()
        layer.weight.copy_(layer.weight + sum(lora.matrix() for lora in layer.working()))
    let_train(model)


@torch.no_grad()
def unmerge(model: nn.Module) -> None:
    """Take adapters out of the weights again, which have the same bits as before ``merge`` then.

    Raises:
        ValueError: if none are merged.
    """
    if not is_merged(model):
        raise ValueError("no adapters are merged")
    for layer in adapted_layers(model).values():
        if layer.unmerged is not None:
            layer.weight.copy_(layer.unmerged)
            layer.unmerged = None
    let_train(model)


def merge_and_unload(model: nn.Module) -> None:
    """Make the active adapters part of the weights for good: what remains is a model like any other.

    All its weights require gradients again.

    Raises:
        ValueError: as ``merge``.
    """
    if not is_merged(model):
        merge(model)
    for layer in adapted_layers(model).values():
        layer.unmerged = None
    for name in adapters(model):
        remove_adapter(model, name)
