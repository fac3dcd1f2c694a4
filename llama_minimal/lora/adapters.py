"""The adapters of a model: put them there, choose among them, take them away."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llama_minimal.config.checks import check_seed
from llama_minimal.lora.config import LoRAConfig
from llama_minimal.lora.layer import Adapted, LoRA, adapted_class

Named = dict[str, Tensor]


def add_adapter(model: nn.Module, name: str, config: LoRAConfig, *, seed: int = 0) -> None:
    """Put a new adapter beside the linear layers of a model, in place; it alone is active then, and alone trains.

    Nothing changes yet: B is zero. With the first adapter all weights of the model are frozen.

    Args:
        model: whole, on its device; ``parallelize`` it after.
        name: what to call the adapter.
        seed: of the random numbers in A.

    Raises:
        ValueError: if there is an adapter of that name, a target is not there or cannot be changed, the rank is larger
            than a matrix, or adapters are merged.
    """
    refuse_merged(model, f"add {name!r}")
    if not isinstance(config, LoRAConfig):
        raise ValueError(f"config={config!r} must be a LoRAConfig, such as LoRAConfig(rank=8)")
    if not (isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name)) or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"an adapter cannot be called {name!r}; give another name, of letters, digits, '_' and '-'")
    if name in adapters(model):
        raise ValueError(f"the model has an adapter {name!r} already; give another name, or remove_adapter it first")
    layers = find_targets(model, config)
    generator = torch.Generator().manual_seed(check_seed(seed))
    if not adapters(model):
        model.requires_grad_(False)
    for layer in layers.values():
        if not isinstance(layer, Adapted):
            layer.__class__ = adapted_class(type(layer))
            layer.adapters = nn.ModuleDict()
            layer.register_buffer("unmerged", None, persistent=False)
        layer.adapters[name] = LoRA(layer, config, generator).train(layer.training)
    set_active(model, name)


def find_targets(model: nn.Module, config: LoRAConfig) -> dict[str, nn.Module]:
    """Return the layers that a configuration means, by name.

    Raises:
        ValueError: as ``add_adapter``.
    """
    linears = {name: module for name, module in model.named_modules() if hasattr(module, "in_features")}
    found = {}
    for target in config.targets:
        fitting = {name: layer for name, layer in linears.items() if f".{name}".endswith(f".{target}")}
        if not fitting:
            there = ", ".join(dict.fromkeys(name.split(".")[-1] for name in linears))
            raise ValueError(f"the model has no linear layer {target!r}; there are {there}")
        found |= fitting
    for name, layer in found.items():
        _check_layer(model, name, layer, config.rank)
    return {name: layer for name, layer in linears.items() if name in found}  # in the model's order


def _check_layer(model: nn.Module, name: str, layer: nn.Module, rank: int) -> None:
    shape = (layer.out_features, layer.in_features)
    if any(layer.weight is p for other in model.modules() if other is not layer for p in other._parameters.values()):
        raise ValueError(
            f"{name} is one matrix with another layer (tie_embeddings), so that to merge an adapter would change both; "
            f"leave it out of targets"
        )
    if rank > min(shape):
        raise ValueError(f"rank={rank} is larger than {name}, a matrix of {shape}; give at most {min(shape)}")
    if type(layer.weight.data) is not Tensor:
        raise ValueError(f"{name} is spread over processes; add the adapter before the model is parallelized")


def adapted_layers(model: nn.Module) -> dict[str, Adapted]:
    """Return the layers that have adapters, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def adapters(model: nn.Module) -> dict[str, LoRAConfig]:
    """Return the adapters of a model, in the order in which they came to each layer."""
    layers = adapted_layers(model).values()
    return {name: lora.config for layer in layers for name, lora in layer.adapters.items()}


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the adapters that the model uses now."""
    return next((layer.active for layer in adapted_layers(model).values()), ())


def is_merged(model: nn.Module) -> bool:
    """Whether adapters are in the weights now."""
    return any(layer.unmerged is not None for layer in adapted_layers(model).values())


def set_active(model: nn.Module, *names: str) -> None:
    """Let a model use these adapters, whose updates add up, and no others; without a name it is the base again.

    The active ones require gradients, the others do not.

    Raises:
        ValueError: if there is no such adapter, or adapters are merged.
    """
    refuse_merged(model, "change which are active")
    for name in names:
        _check_there(model, name)
    for layer in adapted_layers(model).values():
        layer.active = tuple(dict.fromkeys(names))
    let_train(model)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Use the base model alone until the block ends."""
    before = active_adapters(model)
    set_active(model)
    try:
        yield
    finally:
        set_active(model, *before)


def let_train(model: nn.Module) -> None:
    """Let the active adapters require gradients, if they are not merged, and no others."""
    for layer in adapted_layers(model).values():
        layer.adapters.requires_grad_(False)
        if layer.unmerged is None:
            for lora in layer.working():
                lora.requires_grad_(True)


def keep_adapters(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give the adapters of a layer to the one that is to take its place; return that one."""
    if isinstance(old, Adapted):
        new.__class__ = adapted_class(type(new))
        new.adapters, new.active = old.adapters, old.active
        new.register_buffer("unmerged", None, persistent=False)
    return new


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter away; after the last one all weights of the model require gradients again.

    Raises:
        ValueError: if there is no such adapter, or adapters are merged.
    """
    _check_there(model, name)
    set_active(model, *(other for other in active_adapters(model) if other != name))
    for layer in adapted_layers(model).values():
        if name in layer.adapters:
            del layer.adapters[name]
        if not layer.adapters:
            _restore(layer)
    if not adapters(model):
        model.requires_grad_(True)


def _restore(layer: Adapted) -> None:
    layer.__class__ = type(layer).__bases__[1]
    del layer.adapters, layer.unmerged, layer.active


def _check_there(model: nn.Module, name: str) -> None:
    if name not in (there := adapters(model)):
        raise ValueError(f"the model has no adapter {name!r}; it has {', '.join(there) or 'none'}")


def refuse_merged(model: nn.Module, what: str) -> None:
    """Refuse to do something while adapters are merged.

    Raises:
        ValueError: if they are.
    """
    if is_merged(model):
        raise ValueError(f"cannot {what} while adapters are merged into the weights; unmerge them first")


def refuse_adapters(model: nn.Module, what: str) -> None:
    """Refuse to do something to a model that has adapters.

    Raises:
        ValueError: if it has.
    """
    if there := adapters(model):
        raise ValueError(f"cannot {what} of a model with adapters ({', '.join(there)}); merge_and_unload them first")


def adapter_tensors(model: nn.Module, name: str) -> Named:
    """Return the parameters of an adapter: ``layers.0.attention.wq.A`` (r, in) and ``….B`` (out, r).

    Raises:
        ValueError: if there is no such adapter.
    """
    _check_there(model, name)
    layers = {path: layer for path, layer in adapted_layers(model).items() if name in layer.adapters}
    return {f"{path}.{part}": getattr(layer.adapters[name], part) for path, layer in layers.items() for part in "AB"}


def base_tensors(model: nn.Module) -> Named:
    """Return the parameters that are no adapter's, under the names that they have without adapters."""
    learned = {p for layer in adapted_layers(model).values() for p in layer.adapters.parameters()}
    return {name: p for name, p in model.named_parameters() if p not in learned}
