"""Tensors between disk and model, one at a time and strictly checked."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.lora import LoRAConfig
from llama_minimal.model import Llama
from llama_minimal.quantization import Quantization, quantized_tensors
from llama_minimal.vocabulary import Vocabulary

Where = tuple[slice, ...]
Named = Iterator[tuple[str, Tensor]]


class Stored(Protocol):
    """Describe a tensor of a file: its shape is known, and indexing it by slices reads what they cover."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""

    def __getitem__(self, where: Where) -> Tensor:
        """Read a part; ``()`` is all of it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Say where a tensor of a checkpoint goes: into which memory, and which part of the tensor."""

    memory: Tensor
    shape: tuple[int, ...]
    """Of the whole tensor."""
    where: Where = ()
    """What of it goes there; ``()`` is all."""


Slots = dict[str, Slot | None]  # by the names of a whole model; None is what another process has


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Describe weights on disk: the model's shape, their dtype, and a way to go through them."""

    config: LlamaConfig
    dtype: torch.dtype
    tensors: Callable[[], Iterator[tuple[str, Stored]]]
    """Yields (name in our state dict, tensor); what is read of a tensor is held by the reader alone."""
    adapters: dict[str, LoRAConfig] = field(default_factory=dict)
    """Those whose tensors are among the model's."""
    active: tuple[str, ...] = ()
    quantization: Quantization | None = None
    vocabulary: Vocabulary | None = None
    """Of a model that reads features beside text."""


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """Describe an adapter on disk."""

    config: LoRAConfig
    tensors: dict[str, Tensor]
    """``layers.0.attention.wq.A`` (r, in), ``….B`` (out, r)."""
    metadata: dict[str, str]
    """What else stands in the file of the tensors."""


def slots_of(model: Llama) -> Slots:
    """Return the places of a whole model's tensors, quantized ones included."""
    # A tensor that has several names (tied embeddings, shared layers) is listed once, under the first.
    return {name: Slot(parameter, tuple(parameter.shape)) for name, parameter in tensors_of(model).items()}


def tensors_of(model: Llama) -> dict[str, Tensor]:
    """Return parameters, and the codes and grids of quantized layers."""
    return dict(model.named_parameters()) | quantized_tensors(model)


@torch.no_grad()
def fill(slots: Llama | Slots, tensors: Iterable[tuple[str, Stored]], source: Path) -> None:
    """Copy named tensors into a model's parameters.

    Args:
        slots: a whole model, or where its tensors are to go.

    Raises:
        ValueError: if a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    missing = slots_of(slots) if isinstance(slots, Llama) else dict(slots)
    unknown = []
    for name, tensor in tensors:
        if name not in missing:
            unknown.append(name)
            continue
        if (slot := missing.pop(name)) is None:
            continue
        if slot.shape != tuple(tensor.shape):
            raise ValueError(f"{source}: {name} has shape {tuple(tensor.shape)}, but the config asks for {slot.shape}")
        part = tensor[slot.where]
        is_number = part.is_floating_point() and slot.memory.is_floating_point()
        if not is_number and part.dtype != slot.memory.dtype:  # codes stand for other numbers in another format
            raise ValueError(f"{source}: {name} is of {part.dtype}, but the config asks for {slot.memory.dtype}")
        slot.memory.copy_(part.to(slot.memory.dtype))  # Apple's devices cannot read float64
        check_finite(part, name, source)  # now that it is in the processor's cache
        del part  # before the next one is read
    if missing or unknown:
        parts = [f"{what} {_shorten(names)}" for what, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise ValueError(f"{source} {' and '.join(parts)}; do its config and its weights belong together?")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in the message of whatever is wrong with its values.

    Raises:
        ValueError: in place of every error that values of the wrong kind can lead to.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def write_safetensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one file, and texts beside them.

    Raises:
        OSError: if the disk is full or the folder not writable.
    """
    path.touch()
    mode = path.stat().st_mode  # what the user's umask gives; the library would give the owner's rights alone
    try:
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(whole, path, metadata={"format": "pt"} | (metadata or {}))
        path.chmod(mode)
    except SafetensorError as error:  # the library's name for a full disk, too
        raise OSError(f"could not write {path.name}: {error}") from None


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of one file into memory.

    Raises:
        ValueError: if the file is missing, truncated or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def check_finite(tensor: Tensor, name: str, source: Path) -> Tensor:
    """Return the tensor.

    Raises:
        ValueError: if it holds NaN or infinity.
    """
    # Minimum and maximum carry NaN along and need no memory, unlike isfinite().all().
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError(f"{source}: {name} holds NaN or infinity; the checkpoint is damaged, get it again")
    return tensor


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
