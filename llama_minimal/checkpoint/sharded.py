"""Weights that several processes wrote: safetensors files, each with a part of some tensors, and where it belongs.

The files are those of PyTorch's ``HuggingFaceStorageWriter``: the header of each says at which index of the whole
tensor its part begins. Here they are put together, one tensor at a time.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama_minimal.checkpoint.reading import checked
from llama_minimal.checkpoint.tensors import Checkpoint, Named
from llama_minimal.config import LlamaConfig, read_json
from llama_minimal.run_folder import STATE

MODEL = "model."  # what the names of weights begin with; the optimizer's tensors are there, too
PARTS = "shard-*.safetensors"
SHARDS = "shards"  # under this name a snapshot's state lists its files
_OFFSETS = "DCP_SHARDING_INFO"


@dataclass(slots=True)
class Whole:
    """Say where the parts of a tensor are."""

    shape: tuple[int, ...] = ()
    parts: list[tuple[Path, tuple[slice, ...]]] = field(default_factory=list)

    def add(self, path: Path, offsets: list[int], sizes: list[int]) -> None:
        """Add a part that begins at some index."""
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        self.shape = tuple(map(max, self.shape or ends, ends))
        self.parts.append((path, tuple(map(slice, offsets, ends))))

    @property
    def is_complete(self) -> bool:
        """Whether the parts are as large as the tensor; they never overlap."""
        return math.prod(self.shape) == sum(math.prod(s.stop - s.start for s in place) for _, place in self.parts)


def is_sharded(folder: Path) -> bool:
    """Say whether several processes wrote the weights in a folder."""
    return any(folder.glob(PARTS))


def shards(folder: Path) -> list[str]:
    """Return the names of the files in a folder that hold parts."""
    return sorted(path.name for path in folder.glob(PARTS))


def index(folder: Path) -> dict[str, Whole]:
    """Return where each tensor in a folder is.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    # Without its last part a tensor looks like a whole one that is smaller.
    state = folder / STATE
    written = read_json(state).get(SHARDS, []) if state.exists() else []
    if gone := sorted(set(written).difference(shards(folder))):
        raise ValueError(
            f"{folder} lacks {', '.join(gone)}; put that back, or delete this folder to go on from the snapshot before"
        )
    found: dict[str, Whole] = {}
    for path in sorted(folder.glob(PARTS)):
        with _opened(path) as (file, offsets):
            for name in file.keys():  # noqa: SIM118 - a file has keys, and is no dictionary
                found.setdefault(name, Whole()).add(path, offsets[name], file.get_slice(name).get_shape())
    if lacking := [name for name, whole in found.items() if not whole.is_complete]:
        raise ValueError(f"{folder} lacks a part of {lacking[0]} and {len(lacking) - 1} more; a file is missing")
    return found


def open_sharded(folder: Path, config: LlamaConfig) -> Checkpoint:
    """Open a snapshot that several processes wrote."""
    found = {name: whole for name, whole in index(folder).items() if name.startswith(MODEL)}
    if not found:
        raise ValueError(f"{folder} holds no tensors of a LLaMA")
    name, whole = next(iter(found.items()))
    path, _ = whole.parts[0]
    with _opened(path) as (file, _):
        dtype = file.get_tensor(name).dtype
    return Checkpoint(config, dtype, lambda: _tensors(found))


def _tensors(found: dict[str, Whole]) -> Named:
    with ExitStack() as stack:
        paths = {path for whole in found.values() for path, _ in whole.parts}
        files = {path: stack.enter_context(_opened(path))[0] for path in paths}
        for name, whole in found.items():
            parts = ((place, checked(files[path].get_tensor(name), name, path)) for path, place in whole.parts)
            yield name.removeprefix(MODEL), _put_together(whole.shape, parts)


def _put_together(shape: tuple[int, ...], parts: Iterable[tuple[tuple[slice, ...], Tensor]]) -> Tensor:
    tensor = None
    for place, part in parts:
        if part.shape == shape:
            return part
        if tensor is None:
            tensor = torch.empty(shape, dtype=part.dtype)
        tensor[place] = part
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, list[int]]]]:
    """Open a file of parts for its tensors and their offsets."""
    try:
        file = safe_open(path, framework="pt")
        info = json.loads(file.metadata()[_OFFSETS])
        offsets = {name: values["saved_offsets"] for name, values in info.items()}
    except (KeyError, TypeError, ValueError, FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    with file:
        yield file, offsets
