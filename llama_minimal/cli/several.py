"""A model that several processes or devices share, for commands that only read it; one process speaks for all."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from llama_minimal.cli.console import check_counts

_SILENT = 10  # seconds; torchrun ends the silent processes as soon as the speaking one has ended


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


@contextmanager
def said_once() -> Iterator[None]:
    """Let only the first of the processes that torchrun started say what all of them find wrong."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except (ValueError, OSError, ImportError) as error:
        _end_silently(error)


def _end_silently(error: BaseException | None) -> None:
    time.sleep(_SILENT)  # to end first would end the one that speaks
    raise SystemExit(2) from error


@contextmanager
def ending_together(mesh: Any) -> Iterator[None]:
    """Do what concerns each process alone; if one fails, all end, and the first that did says why.

    Args:
        mesh: None for a single process.
    """
    error = None
    try:
        yield
    except (ValueError, OSError, ImportError) as found:
        if mesh is None:
            raise
        error = found
    if mesh is None:
        return
    failed = mesh.sum(*(float(error is not None and mesh.rank == rank) for rank in range(mesh.size)))
    if any(failed):
        if mesh.rank == failed.index(1.0):
            raise error
        _end_silently(error)


@contextmanager
def loaded(folder: str, flags: Any, processes: ProcessFlags, *, command: str) -> Iterator[tuple[Any, Any, Any]]:
    """Load a model as its flags say; yield it, its tokenizer and the mesh, which is None for a single process."""
    from llama_minimal.cli.write import dtype_of, load_for_writing, need_tokenizer

    with said_once():
        n = processes.check(command)
        if n > 1 and (flags.devices or flags.compile or flags.adapter):
            raise ValueError(
                "--devices, --compile and --adapter are for one process; leave them out, or --tensor and --pipeline"
            )
    if n == 1:
        yield *load_for_writing(folder, flags), None
        return
    from llama_minimal.parallel.inference import load_distributed
    from llama_minimal.parallel.mesh import open_mesh

    with open_mesh(flags.device, tensor=processes.tensor, pipeline=processes.pipeline) as mesh:
        with ending_together(mesh):
            model, tokenizer = load_distributed(folder, mesh, dtype=dtype_of(flags))
            need_tokenizer(folder, tokenizer)
        yield model, tokenizer, mesh
