"""What is zero in a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from llama_minimal.pruning.layers import find_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityReport:
    """Say how many weights of which layers are zero.

    ``str(report)`` is a table, and ``report["layers.0.attention.wq"]`` the share of one layer.
    """

    zeros: Mapping[str, int]
    """Zeros of every layer."""
    sizes: Mapping[str, int]
    """Weights of every layer."""
    n_parameters: int
    """Numbers in the whole model, each tensor once."""

    def __getitem__(self, name: str) -> float:
        return self.zeros[name] / self.sizes[name]

    @property
    def sparsity(self) -> float:
        """The share of zeros in these layers."""
        return sum(self.zeros.values()) / sum(self.sizes.values())

    @property
    def share_of_model(self) -> float:
        """These zeros as a share of all numbers in the model."""
        return sum(self.zeros.values()) / self.n_parameters

    def __str__(self) -> str:
        width = max(map(len, self.sizes))
        counts = {name: f"{self.zeros[name]:>11,} of {size:>11,}" for name, size in self.sizes.items()}
        lines = [f"{name:{width}}  {count}  {self[name]:6.1%}" for name, count in counts.items()]
        total = f"{self.sparsity:.1%} of these layers, {self.share_of_model:.1%} of the model"
        return "\n".join([*lines, total])


def sparsity_report(model: nn.Module, layers: str | Iterable[str] | None = None) -> SparsityReport:
    """Count the zeros of a model.

    Args:
        layers: as for ``prune``; None means every linear layer of the blocks.

    Raises:
        ValueError: if there is no such layer.
    """
    found = find_layers(model, layers)
    weights = {name: layer.weight.detach() for name, layer in found.items()}
    return SparsityReport(
        zeros={name: int((weight == 0).sum()) for name, weight in weights.items()},
        sizes={name: weight.numel() for name, weight in weights.items()},
        n_parameters=sum(p.numel() for p in model.parameters()),
    )
