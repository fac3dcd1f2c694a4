"""Layers on several devices, in one process: a model that is too large for one of them still runs.

The devices take turns: while one computes, the others wait. A pipeline ends that with micro-batches.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.checkpoint import load
from llama_minimal.checkpoint.tensors import Slots, slots_of
from llama_minimal.devices import find_device
from llama_minimal.model import Llama
from llama_minimal.parallel.stages import make_cut
from llama_minimal.quantization import refuse_quantized
from llama_minimal.tokenizer import TextCodec

Device = torch.device | str


def place_layers(model: Llama, devices: Sequence[Device], balance: Sequence[int] | None = None) -> Llama:
    """Move the layers of a model to devices, in order and in place, and hidden states between them when it runs.

    Tokens go in and logits come out on the first device. Gradients follow the same way back. To move the model once
    more, place it anew: ``model.to`` would not move what comes in.

    Args:
        devices: such as ``["cuda:0", "cuda:1"]``, or ``["cuda", "cpu"]``.
        balance: layers of each device, such as (2, 2, 2); None means about as many parameters on each.

    Returns:
        The model. The embedding is on the first device, the output on the last; on the first too if they are one
        matrix. A shared layer is where it is used first.

    Raises:
        ValueError: if there is no such device, or more of them than layers, or ``balance`` does not fit.

    Source: Shen Li, "Single-Machine Model Parallel Best Practices", a tutorial of PyTorch's.
    """
    refuse_quantized(model, "spread it over devices")
    devices = _found(devices, model.config.n_layers)
    cut = make_cut(model.config, len(devices), balance)
    is_empty = next(model.parameters()).is_meta
    first, last = devices[0], devices[-1]
    where: dict[nn.Module, torch.device] = {model.tok_embeddings: first}
    for i, layer in enumerate(model.layers.values()):
        where.setdefault(layer, devices[sum(i >= border for border in cut.borders[1:])])
    if model.norm is not None:
        where[model.norm] = last
    if not model.config.tie_embeddings:
        where[model.output] = last
    for module, device in where.items():
        _move(module, device, is_empty=is_empty)
        module.register_forward_pre_hook(partial(_bring, device), with_kwargs=True)
    if model.positions is not None:
        _move(model.positions, first, is_empty=is_empty)
    if model.config.tie_embeddings:
        model.output.weight = model.tok_embeddings.weight
        model.output.register_forward_pre_hook(partial(_bring, first), with_kwargs=True)
    model.output.register_forward_hook(lambda _module, _inputs, logits: logits.to(first))
    return model


def load_layers(
    path_or_id: str | Path,
    devices: Sequence[Device],
    *,
    balance: Sequence[int] | None = None,
    dtype: torch.dtype | str | None = None,
    max_seq_len: int | None = None,
    adapter: str | Path | None = None,
) -> tuple[Llama, TextCodec | None]:
    """Load a model onto several devices, each tensor straight to its own.

    Args:
        path_or_id, dtype, max_seq_len, adapter: as for ``checkpoint.load``.
        devices, balance: as for ``place_layers``.

    Raises:
        FileNotFoundError, ValueError: as ``checkpoint.load`` and ``place_layers``.
    """

    def place(model: Llama) -> Slots:
        return slots_of(place_layers(model, devices, balance))

    return load(path_or_id, dtype=dtype, max_seq_len=max_seq_len, adapter=adapter, place=place)


def _found(devices: Sequence[Device], n_layers: int) -> list[torch.device]:
    if isinstance(devices, str | torch.device):
        raise ValueError(f"devices={devices!r} is one device; give a list, such as ['cuda:0', 'cuda:1']")
    if not 1 <= len(devices) <= n_layers:
        raise ValueError(f"{len(devices)} devices cannot share {n_layers} layers; give 1 to {n_layers}")
    # "meta" computes shapes only, and finds what is on the wrong device.
    return [torch.device("meta") if str(name) == "meta" else find_device(name) for name in devices]


def _move(module: nn.Module, device: torch.device, *, is_empty: bool) -> None:
    if is_empty:
        module.to_empty(device=device)
    else:
        module.to(device)


def _bring(
    device: torch.device, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Bring what goes into a module to where it is."""
    return tuple(_to(device, value) for value in args), {name: _to(device, value) for name, value in kwargs.items()}


def _to(device: torch.device, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_to(device, part) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value
