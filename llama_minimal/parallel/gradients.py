"""One norm for gradients that are spread over processes: every entry counts once, whoever holds it."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llama_minimal.parallel.data import local
from llama_minimal.parallel.mesh import Mesh


def add_up_partial_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of norms over processes that each normalized a part of the sequence.

    PyTorch 2.13 leaves them as sums yet to be made (``Partial``), whose local part is not the whole.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if isinstance(gradient, DTensor) and gradient.placements != parameter.placements:
            parameter.grad = gradient.redistribute(placements=parameter.placements)


@torch.no_grad()
def clip_spread_gradients(
    parameters: list[nn.Parameter], max_norm: float, mesh: Mesh, *, n_stages: dict[nn.Parameter, int]
) -> float:
    """Do what ``optim.clip_gradients`` does, over all dimensions of a mesh; return the norm before.

    ‖g‖² = Σ over processes of Σ g² / copies, where ``copies`` is the number of processes with the same entry of g.

    Args:
        n_stages: of a parameter that several stages of a pipeline have: how many.
    """
    gradients = [(p, p.grad) for p in parameters if p.grad is not None]
    squares = torch.zeros((), dtype=torch.float64, device=mesh.device)
    for parameter, gradient in gradients:
        copies = _copies(gradient, mesh) * n_stages.get(parameter, 1)
        squares += local(gradient).double().pow(2).sum() / copies
    (total,) = mesh.sum(squares)
    norm = math.sqrt(total)
    scale = min(1.0, max_norm / (norm + 1e-6))  # as in PyTorch; a norm that is no number scales nothing
    if scale < 1:
        torch._foreach_mul_([local(gradient) for _, gradient in gradients], scale)
    return norm


def _copies(gradient: torch.Tensor, mesh: Mesh) -> int:
    """Return how many processes along ``data`` and ``tensor`` hold the same entries of a gradient."""
    split = set()
    if isinstance(gradient, DTensor):
        names, placements = gradient.device_mesh.mesh_dim_names, gradient.placements
        split = {name for name, placement in zip(names, placements, strict=True) if not placement.is_replicate()}
    return math.prod(mesh.size_of(name) for name in ("data", "tensor") if name not in split)
