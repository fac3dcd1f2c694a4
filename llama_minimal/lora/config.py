"""What an adapter is to be: which layers, which rank."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from llama_minimal.config.checks import check_integer, check_number, check_one_of, settle


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRAConfig:
    """Say which layers an adapter changes, and how much of them it can."""

    rank: int = 8
    """Width of the two matrices between: r."""
    alpha: float = 16.0
    """The update is scaled by α/r, so that another rank needs no other learning rate."""
    dropout: float = 0.0
    """Probability with which an input of the adapter is left out in training."""
    targets: tuple[str, ...] = ("wq", "wv")
    """Linear layers: wq, wk, wv, wo, w1, w2, w3 of every block, output, or a single one: layers.0.attention.wq."""
    rank_stabilized: bool = False
    """Scale by α/√r instead (rsLoRA)."""

    def __post_init__(self) -> None:
        settle(self, "rank", check_integer("rank", self.rank))
        settle(self, "alpha", check_number("alpha", self.alpha))
        settle(self, "dropout", check_number("dropout", self.dropout, at_least=0.0))
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout} would leave nothing; give a number below 1")
        if isinstance(self.targets, str) or not self.targets or not all(isinstance(t, str) for t in self.targets):
            raise ValueError(f"targets={self.targets!r} must be names of linear layers, such as ('wq', 'wv')")
        settle(self, "targets", tuple(dict.fromkeys(self.targets)))
        check_one_of("rank_stabilized", self.rank_stabilized, (True, False))

    @property
    def scale(self) -> float:
        """Return α/r, or α/√r (Kalajdzievski 2023, "A rank stabilization scaling factor for fine-tuning with LoRA")."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``LoRAConfig(**values)`` reads them back."""
        return asdict(self) | {"targets": list(self.targets)}
