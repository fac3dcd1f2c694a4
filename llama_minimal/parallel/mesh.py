"""The processes that train together, and the few words they exchange."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

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
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in values])
        if self.size > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def default_device() -> torch.device:
    """Return a CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def open_mesh(device: torch.device | None = None) -> Iterator[Mesh]:
    """Join the processes that torchrun started, NCCL between GPUs and gloo between CPUs; alone without it."""
    device = device or default_device()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Mesh(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Mesh(rank=dist.get_rank(), size=size, device=device)
        dist.barrier()  # a process that leaves early would take the connections of the others with it
    finally:
        dist.destroy_process_group()
