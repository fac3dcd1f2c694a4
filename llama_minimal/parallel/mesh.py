"""The processes that train together, and the few words they exchange."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from llama_minimal.devices import as_float64, default_device, find_device

__all__ = ["Mesh", "default_device", "open_mesh"]

_TIMEOUT = timedelta(hours=1)  # so that a rank whose neighbor died ends with an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Say which process of how many this is, and which device it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, *values: Tensor | float) -> list[float]:
        """Add up each value over all processes; every process gets the same sums."""
        sums = torch.stack([_on_cpu(value) for value in values])
        if self.size > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def _on_cpu(value: Tensor | float) -> Tensor:
    return as_float64(value).cpu() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


@contextmanager
def open_mesh(device: torch.device | str | None = None) -> Iterator[Mesh]:
    """Join the processes that torchrun started, NCCL between GPUs and gloo between CPUs; alone without it.

    Args:
        device: None means the best there is (``devices.default_device``).

    Raises:
        ValueError: if there is no such device, or not one for each process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Mesh(device=find_device(device))
        return
    device = _device_of_one_process(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Mesh(rank=dist.get_rank(), size=size, device=device)
        dist.barrier()  # a process that leaves early would take the connections of the others with it
    finally:
        dist.destroy_process_group()


def _device_of_one_process(device: torch.device | str | None) -> torch.device:
    """Return this process's own GPU, or the CPU: processes exchange gradients over no other device."""
    wanted = find_device(device)
    if wanted.type == "cuda":
        return find_device(f"cuda:{os.environ['LOCAL_RANK']}")
    if wanted.type != "cpu" and device is not None:
        raise ValueError(f"several processes train on CUDA devices or on the CPU, not on {wanted}; give cpu")
    return torch.device("cpu")
