"""The processes that work together, arranged by what they share, and the few words they exchange."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from llama_minimal.devices import as_float64, default_device, find_device
from llama_minimal.parallel.board import Board, ending_with_the_others, launcher_store

__all__ = ["Mesh", "default_device", "open_mesh"]

DIMENSIONS = ("pipeline", "data", "tensor")
"""The last varies fastest: neighbors, which are often on one machine, exchange most within a layer."""

T = TypeVar("T")
# What all do takes each about as long. Where one works alone, such as encoding a corpus, the others wait by a Board.
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Say which process of how many this is, what it shares with which others, and where it computes.

    The processes form a box with three named dimensions. Along ``data``, each has other sequences; along ``tensor``,
    another part of every matrix; along ``pipeline``, other layers.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    torch_mesh: DeviceMesh | None = None
    """PyTorch's mesh of the same dimensions; None for a single process."""
    board: Board | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def size_of(self, dimension: str) -> int:
        """Return how many processes there are along ``data``, ``tensor`` or ``pipeline``."""
        return 1 if self.torch_mesh is None else self.torch_mesh.size(DIMENSIONS.index(dimension))

    def rank_of(self, dimension: str) -> int:
        """Return this process's place along ``data``, ``tensor`` or ``pipeline``, from 0."""
        return 0 if self.torch_mesh is None else self.torch_mesh.get_local_rank(dimension)

    def group(self, dimension: str) -> dist.ProcessGroup:
        """Return the processes that differ from this one in their place along one dimension only."""
        return self.torch_mesh[dimension].get_group()

    def sum(self, *values: Tensor | float) -> list[float]:
        """Add up each value over all processes; every process gets the same sums."""
        sums = torch.stack([_on_cpu(value) for value in values])
        if self.size > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        return sums.tolist()

    def sum_of_data(self, *values: Tensor | float) -> list[float]:
        """Add up what processes found in their own sequences; those that split the same matrices count once."""
        return self.sum(*(value if self.rank_of("tensor") == 0 else 0.0 for value in values))

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process do something alone, as long as it takes; all return its result, or raise its error."""
        return self.board.first(work) if self.board else work()

    def every(self, work: Callable[[], T]) -> T:
        """Let every process do something; if one of them cannot, all raise its error.

        Raises:
            ValueError, OSError, ImportError: what ``work`` raised.
        """
        result, error = None, None
        try:
            result = work()
        except (ValueError, OSError, ImportError) as found:
            error = found
        errors = [error]
        if self.size > 1:
            errors = [None] * self.size
            dist.all_gather_object(errors, error)
        if first := next((error for error in errors if error is not None), None):
            raise error or first
        return result


def _on_cpu(value: Tensor | float) -> Tensor:
    return as_float64(value).cpu() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


@contextmanager
def open_mesh(device: torch.device | str | None = None, *, tensor: int = 1, pipeline: int = 1) -> Iterator[Mesh]:
    """Join the processes that torchrun started, NCCL between GPUs and gloo between CPUs; alone without it.

    Args:
        device: None means the best there is (``devices.default_device``).
        tensor: processes that split each matrix among them.
        pipeline: processes that split the layers among them. What is left over divides the sequences.

    Raises:
        ValueError: if there is no such device, or not one for each process, or the processes do not form such a box.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    data = _data_size(size, tensor=tensor, pipeline=pipeline)
    if size == 1:
        yield Mesh(device=find_device(device))
        return
    device = _device_of_one_process(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with ending_with_the_others():
        if opened := not dist.is_initialized():
            _join("nccl" if device.type == "cuda" else "gloo")
        try:
            torch_mesh = init_device_mesh(device.type, (pipeline, data, tensor), mesh_dim_names=DIMENSIONS)
            board = Board(dist.distributed_c10d._get_default_store(), dist.get_rank())
            yield Mesh(rank=dist.get_rank(), size=size, device=device, torch_mesh=torch_mesh, board=board)
            dist.barrier()  # a process that leaves early would take the connections of the others with it
        finally:
            if opened:
                dist.destroy_process_group()


def _join(backend: str) -> None:
    # After a restart, torchrun 2.13 still shows the addresses of the processes that are gone, and gloo waits for them.
    store = launcher_store(_TIMEOUT) if os.environ.get("GROUP_WORLD_SIZE") == "1" else None
    options = {}
    if store:
        attempt = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        options = {"store": attempt, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group(backend, timeout=_TIMEOUT, **options)


def _data_size(size: int, *, tensor: int, pipeline: int) -> int:
    for name, value in (("tensor", tensor), ("pipeline", pipeline)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1; 1 splits nothing")
    if size % (tensor * pipeline):
        raise ValueError(
            f"{size} process(es) cannot be arranged as tensor={tensor} × pipeline={pipeline} × data; start a multiple "
            f"of {tensor * pipeline}: torchrun --nproc-per-node {tensor * pipeline} …"
        )
    return size // (tensor * pipeline)


def _device_of_one_process(device: torch.device | str | None) -> torch.device:
    """Return this process's own GPU, or the CPU: processes exchange gradients over no other device."""
    wanted = find_device(device)
    if wanted.type == "cuda":
        return find_device(f"cuda:{os.environ['LOCAL_RANK']}")
    if wanted.type != "cpu" and device is not None:
        raise ValueError(f"several processes train on CUDA devices or on the CPU, not on {wanted}; give cpu")
    return torch.device("cpu")
