"""A model that several processes or devices share, for commands that only read it; one process speaks for all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from llama_minimal.cli.console import check_counts

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """How several processes share the model: torchrun --nproc-per-node 2 -m llama_minimal … --tensor 2"""

    tensor: int = 1
    """Processes that split each matrix among them."""
    pipeline: int = 1
    """Processes that split the layers among them."""

    def __post_init__(self) -> None:
        check_counts(self, "tensor", "pipeline")

    def check(self, command: str) -> int:
        """Return how many processes there are.

        Raises:
            ValueError: if the flags ask for another number; the message says how to start them.
        """
        n, wanted = int(os.environ.get("WORLD_SIZE", "1")), self.tensor * self.pipeline
        if n == wanted:
            return n
        flags = f"--tensor {self.tensor} --pipeline {self.pipeline}" if wanted > 1 else f"--tensor {n}"
        raise ValueError(
            f"--tensor {self.tensor} × --pipeline {self.pipeline} is the work of {wanted} process(es), and there are "
            f"{n}; start it so: torchrun --nproc-per-node {max(wanted, 2)} -m llama_minimal {command} … {flags}"
        )


def together(mesh: Any, work: Callable[[], T]) -> T:
    """Do what concerns each process alone; if one of them cannot, all raise its error.

    Args:
        mesh: None for a single process.
    """
    return work() if mesh is None else mesh.every(work)


@contextmanager
def loaded(folder: str, flags: Any, processes: ProcessFlags, *, command: str) -> Iterator[tuple[Any, Any, Any]]:
    """Load a model as its flags say; yield it, its tokenizer and the mesh, which is None for a single process."""
    from llama_minimal.cli.write import check_can_write, dtype_of, load_for_writing

    n = processes.check(command)
    if n > 1 and (flags.devices or flags.compile or flags.adapter or flags.offload is not None):
        raise ValueError(
            "--devices, --compile, --adapter and --offload are for one process; leave them out, or --tensor and "
            "--pipeline"
        )
    if n == 1:
        yield *load_for_writing(folder, flags), None
        return
    from llama_minimal.parallel.inference import load_distributed
    from llama_minimal.parallel.mesh import open_mesh

    with open_mesh(flags.device, tensor=processes.tensor, pipeline=processes.pipeline) as mesh:
        how = {"dtype": dtype_of(flags), "quantize": flags.quantize}
        model, tokenizer = together(mesh, lambda: load_distributed(folder, mesh, **how))
        check_can_write(folder, model, tokenizer)
        yield model, tokenizer, mesh
