"""What a user chooses for distillation, checked once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from llama_minimal.config.checks import check_integer, check_number, check_one_of, settle

DivergenceName = Literal["forward", "reverse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Say what a student learns from its teacher.

    Of each token: (1 − weight)·next-token loss + weight·T²·divergence + hidden_weight·Σ over pairs of layers, the mean
    squared difference of their hidden states.

    Raises:
        ValueError: if a value is not allowed, or ``layers`` and ``hidden_weight`` do not go together.
    """

    temperature: float = 1.0
    """T, by which logits of both are divided; more shows more of what the teacher thinks of unlikely tokens."""
    divergence: DivergenceName = "forward"
    """KL(teacher ‖ student), or the reverse."""
    weight: float = 0.5
    """From 0, the text alone, to 1, the teacher alone."""
    hidden_weight: float = 0.0
    """Of the hidden states."""
    layers: tuple[tuple[int, int], ...] = ()
    """Pairs (layer of the student, layer of the teacher), from 0, whose outputs are to agree."""

    def __post_init__(self) -> None:
        settle(self, "temperature", check_number("temperature", self.temperature))
        check_one_of("divergence", self.divergence, get_args(DivergenceName))
        for name in ("weight", "hidden_weight"):
            settle(self, name, check_number(name, getattr(self, name), at_least=0.0))
        if self.weight > 1:
            raise ValueError(f"weight={self.weight} must be from 0, the text alone, to 1, the teacher alone")
        settle(self, "layers", _checked_pairs(self.layers))
        if bool(self.layers) != (self.hidden_weight > 0):
            raise ValueError(
                f"layers={self.layers} and hidden_weight={self.hidden_weight} go together: "
                f"give both, such as layers=((0, 1),) and hidden_weight=1.0, or neither"
            )


def _checked_pairs(layers: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple((ours, theirs) for ours, theirs in layers)
    except (TypeError, ValueError):
        raise ValueError(f"layers={layers!r} must be pairs (student's layer, teacher's layer), as ((0, 1),)") from None
    return tuple(
        (check_integer("layers", ours, at_least=0), check_integer("layers", t, at_least=0)) for ours, t in pairs
    )
