"""Hidden states of single layers, and a projection to another width that keeps the most of them."""

# B batch, T time, D and E widths of student and teacher

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.model import Llama
from llama_minimal.observing import reading, watching


@contextmanager
def layer_states(model: Llama, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Yield a dictionary that one forward pass inside the block fills: layer → what it gives, (B, T, D)."""
    seen: dict[int, Tensor] = {}
    n_called = 0

    def note(_: nn.Module, __: Any, out: Tensor) -> None:
        nonlocal n_called
        if n_called in layers:
            seen[n_called] = out
        n_called += 1

    # By the order of the calls: a shared block is several layers.
    with watching(dict.fromkeys(model.blocks() if layers else (), note), after=True):
        yield seen


def principal_projections(
    teacher: Llama, batches: Iterable[Tensor], layers: Sequence[int], dim: int
) -> tuple[Tensor, ...]:
    """Return for each layer the (D, E) matrix P with orthonormal rows for which P t keeps the most of its states t.

    The rows are the first D eigenvectors of Σ t tᵀ, so Σ ‖t − Pᵀ P t‖² is the least possible. It stays fixed: a
    matrix that learns with the student would be a part of neither model.

    Args:
        teacher: of width E.
        batches: token ids, (B, T) each: text such as the student will read.
        layers: of the teacher, from 0.
        dim: the student's width D, at most E.

    Raises:
        ValueError: if the student is wider than the teacher.
    """
    width = teacher.config.dim
    if dim > width:
        raise ValueError(
            f"dim={dim} is more than the teacher's width of {width}, so nothing has to be left out; give a matrix of "
            f"your own, ({dim}, {width})"
        )
    moments = {layer: torch.zeros(width, width, dtype=torch.float64) for layer in layers}
    for tokens in batches:
        with reading(teacher), layer_states(teacher, layers) as seen:
            teacher.hidden_states(tokens.to(teacher.device))
        for layer, moment in moments.items():
            states = seen[layer].flatten(0, 1).cpu().double()
            moment += states.t() @ states
    return tuple(_first_directions(moments[layer], dim) for layer in layers)


def _first_directions(moment: Tensor, dim: int) -> Tensor:
    rows = torch.linalg.eigh(moment).eigenvectors.t().flip(0)[:dim]  # eigh's values rise
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return (rows * largest.sign()).float()  # of a vector and its opposite always the same one
