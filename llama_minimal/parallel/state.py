"""What several processes hold of a model and its optimizer, written together and read again by any other layout."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from llama_minimal.checkpoint.sharded import MODEL, index, is_sharded
from llama_minimal.model import Llama
from llama_minimal.optim import state_keys
from llama_minimal.parallel.data import let_go, local
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.stages import whole_name


def is_spread(model: Llama, mesh: Mesh) -> bool:
    """Whether no process has the whole model."""
    return mesh.size_of("pipeline") > 1 or any(isinstance(parameter, DTensor) for parameter in model.parameters())


def write_parts(folder: Path, model: Llama, optimizer: torch.optim.Optimizer, others: dict[str, Tensor]) -> None:
    """Write what the processes have; of what several have, one writes it. All processes take part.

    Args:
        others: such as the state of random generators; the training draws nothing, so any process's will do.

    Raises:
        OSError: if one of them cannot.
    """
    tensors = _tensors(model, optimizer.state, others)
    with _as_one_error(folder, OSError):
        writer = _storage("Writer")(str(folder), save_distributed=True)
        checkpoint.save(tensors, storage_writer=writer)


@torch.no_grad()
def read_parts(
    folder: Path,
    model: Llama,
    optimizer: torch.optim.Optimizer | None = None,
    others: dict[str, Tensor] | None = None,
) -> None:
    """Fill this process's part of model and optimizer, from files with whole tensors or with parts of any others.

    Raises:
        ValueError: if the files are damaged, or lack a tensor, or have another shape.
    """
    groups = optimizer.param_groups if optimizer else []
    state = {p: {key: _zeros(p, key) for key in state_keys(group)} for group in groups for p in group["params"]}
    tensors = _tensors(model, state, others or {})
    if is_sharded(folder):
        _check_whole(tensors, folder)
    else:  # whole tensors are in two files, and need nothing that tells them apart
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    _read_into(tensors, folder)
    if optimizer:
        numbered = dict(enumerate(state.values()))
        optimizer.load_state_dict(optimizer.state_dict() | {"state": numbered})


def _check_whole(tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuse a folder that lacks a file, which could leave a part of a tensor as it was."""
    found = index(folder)
    for name, tensor in tensors.items():
        if name in found and found[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"{folder}: of {name} there is {found[name].shape}, and the model has {tuple(tensor.shape)}; "
                f"a file shard-….safetensors is missing, or the model has another shape"
            )


def _tensors(
    model: Llama, state: dict[nn.Parameter, dict[str, Tensor]], others: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Name this process's tensors as in a whole model."""
    let_go(model)
    names = {parameter: whole_name(name, model.config) for name, parameter in model.named_parameters()}
    weights = {f"{MODEL}{name}": parameter.detach() for parameter, name in names.items()}
    moments = {
        f"optimizer.{names[parameter]}.{key}": value
        for parameter, values in state.items()
        for key, value in values.items()
    }
    return weights | moments | {f"trainer.{name}": value for name, value in others.items()}


def _zeros(parameter: nn.Parameter, key: str) -> Tensor:
    return torch.zeros(()) if key == "step" else torch.zeros_like(parameter)


def _read_into(tensors: dict[str, Tensor], folder: Path) -> None:
    with _as_one_error(folder, ValueError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each process reads for itself
        checkpoint.load(dict(tensors), storage_reader=_storage("Reader")(str(folder)), no_dist=True)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(local(tensor)).all()):
            raise ValueError(f"{folder}: {name} holds NaN or infinity; the snapshot is damaged")


def _storage(what: str) -> Any:
    """Return what writes or reads safetensors in parts.

    Raises:
        ImportError: if this PyTorch is too old.
    """
    name = f"HuggingFaceStorage{what}"
    if not hasattr(checkpoint, name):
        raise ImportError(
            f"to save a model that is spread over processes, PyTorch must have {name}; install a later one"
        )
    return getattr(checkpoint, name)


@contextmanager
def _as_one_error(folder: Path, kind: type[Exception]) -> Iterator[None]:
    """Raise what the first process that failed has found, on all of them."""
    try:
        yield
    except CheckpointException as failed:
        rank, (error, _) = min(failed.failures.items(), key=lambda failure: failure[0])
        if isinstance(error, OSError | KeyboardInterrupt):
            raise error from None
        what = "could not write" if kind is OSError else "could not read"
        raise kind(f"{what} {folder} (process {rank}): {str(error).partition(chr(10))[0]}") from None
    except SafetensorError as error:
        raise kind(f"{folder} is damaged: {error}") from None
