"""Exact search for nearest neighbors, and files that keep what is searched."""

# N entries, Q queries, D width, n neighbors

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llama_minimal.config.checks import check_integer
from llama_minimal.files import replace_file

_CHUNK = 1 << 16  # entries that are compared at once


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the n nearest keys of each query by ‖q − k‖², nearest first: squared distances and places, each (Q, n).

    Every key is compared; of N below n, N are returned. What is compared is ‖k‖² − 2 q·k, one product of matrices; the
    distances of those found are then computed from the differences, which large numbers do not spoil.

    Args:
        queries: (Q, D).
        keys: (N, D).

    Raises:
        ValueError: if there are no keys, or they have another width.

    Example:
        >>> nearest(torch.tensor([[2.0]]), torch.tensor([[9.0], [1.0], [4.0]]), 2)[1].tolist()
        [[1, 2]]
    """
    n = check_integer("n", n)
    if not len(keys):
        raise ValueError("the memory is empty; add something first")
    if queries.size(-1) != keys.size(-1):
        raise ValueError(f"queries of width {queries.size(-1)} cannot be compared with keys of width {keys.size(-1)}")
    queries = queries.to(keys)
    places, scores = [], []
    for begin in range(0, len(keys), _CHUNK):
        part = keys[begin : begin + _CHUNK]
        best = (part.square().sum(-1) - 2 * queries @ part.T).topk(min(n, len(part)), largest=False)
        scores.append(best.values)
        places.append(best.indices + begin)
    best = torch.cat(scores, 1).topk(min(n, len(keys)), largest=False).indices
    places = torch.cat(places, 1).gather(1, best)  # (Q, n)
    distances = (queries[:, None] - keys[places]).square().sum(-1)
    order = distances.argsort(dim=-1, stable=True)
    return distances.gather(1, order), places.gather(1, order)


def write_memory(path: Path, kind: str, **tensors: Tensor) -> None:
    """Keep tensors in one safetensors file, whole or not at all."""
    content = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    replace_file(path, save(content, metadata={"memory": kind}))


def read_memory(path: Path, kind: str, *names: str) -> list[Tensor]:
    """Return the tensors that ``write_memory`` kept.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds something else.
    """
    try:
        found = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); is it damaged?") from None
    if set(found) != set(names):
        raise ValueError(f"{path} holds {sorted(found)}, and a memory of {kind} has {sorted(names)}")
    return [found[name] for name in names]
