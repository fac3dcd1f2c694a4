"""A linear layer with adapters: what it was, and low-rank updates beside it."""

# r rank

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.lora.config import LoRAConfig


def lora_update(x: Tensor, a: Tensor, b: Tensor, scale: float, keep: Tensor | None = None) -> Tensor:
    """Return what an adapter adds to the output of a linear layer: scale · (keep ⊙ x) aᵀ bᵀ.

    Args:
        x: (..., in).
        a: (r, in).
        b: (out, r).
        scale: α/r.
        keep: (..., in), what dropout leaves: 0, or 1/(1−p) with probability 1−p. None leaves all.

    Returns:
        (..., out).

    Source: Hu et al. 2021, "LoRA", §4.1.
    """
    return scale * F.linear(F.linear(x if keep is None else keep * x, a), b)


class LoRA(nn.Module):
    """Hold what one adapter knows of one layer: A, random at first, and B, zero at first (Hu et al. 2021, §4.1)."""

    def __init__(self, layer: nn.Module, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        weight = layer.weight  # codes, if it is quantized: then its grids tell in what the layer computes
        kind = weight.dtype if weight.is_floating_point() else getattr(layer, "grid_dtype", torch.float32)
        like = {"device": weight.device, "dtype": kind}
        # As wide as ``nn.Linear`` draws its weights. Drawn on the CPU, the numbers are the same for every device.
        bound = layer.in_features**-0.5
        a = torch.empty(config.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.A = nn.Parameter(a.to(**like))
        self.B = nn.Parameter(torch.zeros(layer.out_features, config.rank, **like))

    def forward(self, x: Tensor) -> Tensor:
        keep = None
        if self.training and self.config.dropout:
            keep = F.dropout(torch.ones_like(x), self.config.dropout)
        return lora_update(x, self.A, self.B, self.config.scale, keep)

    def matrix(self) -> Tensor:
        """Return the update as one matrix, (out, in): scale · B A, in float32 at least."""
        dtype = torch.promote_types(self.A.dtype, torch.float32)
        return self.config.scale * (self.B.to(dtype) @ self.A.to(dtype))


class Adapted:
    """Be the linear layer of before, whatever its class, and add to it the updates of all active adapters.

    The class of a layer changes, the layer itself stays: its weight keeps its name, and who holds the layer holds it
    still. (A hook would do as well, but code compiled before it came would go on without it.)
    """

    adapters: nn.ModuleDict
    active: tuple[str, ...]  # of the whole model; some may not be in this layer
    unmerged: Tensor | None  # the weight before adapters were merged into it

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of x, (..., out), and the sum of the active updates."""
        out = super().forward(x)
        if self.unmerged is None:
            for lora in self.working():
                out = out + lora(x)
        return out

    def working(self) -> list[LoRA]:
        """Return the active adapters' parts that this layer has."""
        return [self.adapters[name] for name in self.active if name in self.adapters]


@functools.cache
def adapted_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of layers of this kind that have adapters; its bases are ``Adapted`` and the kind."""
    return type(f"Adapted{kind.__name__}", (Adapted, kind), {})
