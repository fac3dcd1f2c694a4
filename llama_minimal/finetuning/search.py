"""A short honest search: which ways to tune are tried, for how many steps, and which of them go on.

The test part is no part of it. Every arm is judged by its lowest loss on the validation part; after each round the
better half goes on with twice the steps, and the last one is trained for twice as many again (successive halving:
Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llama_minimal.finetuning.methods import Method
from llama_minimal.settings import TuneMethod

# Peak learning rates at width 256; see ``arms``.
_RATES: dict[str, tuple[float, ...]] = {"full": (1e-3, 3e-4), "lora": (2e-3, 5e-3), "head": (1e-2, 3e-3)}
_WIDTH = 256
_RANK = 8
_FEWEST_STEPS = 4  # of an arm in its first round


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Say one way to tune."""

    method: Method
    lr: float
    rank: int | None = None  # of LoRA

    @property
    def name(self) -> str:
        """What to call it in a table."""
        what = {"full": "all weights", "lora": f"LoRA of rank {self.rank}", "head": "the output layer alone"}
        return f"{what[self.method]}, learning rate {self.lr:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``Arm(**values)`` reads them back."""
        return asdict(self)

    @property
    def flags(self) -> str:
        """The flags of ``llama-minimal finetune`` that ask for this arm and no other."""
        rank = f" --rank {self.rank}" if self.method == "lora" else ""
        return f"--method {self.method} --lr {self.lr!r}{rank}"


def arms(
    kind: str, *, dim: int, method: TuneMethod = "auto", rank: int | None = None, lr: float | None = None
) -> list[Arm]:
    """Return the arms to try; what is given is not searched.

    A method has two learning rates, which are those of a model of width 256 times 256 / width: wide models want smaller
    steps. With labels the output layer is new, and it alone is tried, too; there only adapters get both rates.

    Args:
        kind: labels, pairs or chat.
        dim: width of the model.

    """
    if method == "auto" and rank is not None:
        method = "lora"
    usual: tuple[Method, ...] = ("lora", "full", "head") if kind == "labels" else ("lora", "full")
    found = []
    for name in usual if method == "auto" else (method,):
        rates = [_rounded(rate * _WIDTH / dim) for rate in _RATES[name]] if lr is None else [lr]
        if kind == "labels" and method == "auto" and name != "lora":
            rates = rates[:1]
        found += [Arm(method=name, lr=rate, rank=(rank or _RANK) if name == "lora" else None) for rate in rates]
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.1g}")


def n_rounds(n_arms: int) -> int:
    """Return how many rounds of halving leave one of so many arms."""
    return math.ceil(math.log2(n_arms))


def affordable_steps(
    n_arms: int,
    *,
    seconds: float,
    per_step: float,
    per_validation: float,
    validations: tuple[int, int],
    at_most: int,
) -> int:
    """Return for how many steps the last training can be, so that it and the search end in time.

    Round i of R gives n_i arms steps / 2^(R − i) each, counted from 0:

    seconds = steps · (1 + Σ n_i / 2^(R − i)) · per_step + (v · Σ n_i + w) · per_validation

    Args:
        seconds: that may be spent.
        per_step, per_validation: seconds.
        validations: of a training of the search, v, and of the last one, w.
        at_most: more would not help.
    """
    rounds = n_rounds(n_arms)
    whole = _FEWEST_STEPS * 2**rounds
    planned = schedule(n_arms, steps=whole)
    searched, last = validations
    n_validations = searched * sum(count for count, _ in planned) + last
    work = 1 + sum(count * steps / whole for count, steps in planned)
    left = seconds - n_validations * per_validation
    return int(max(min(at_most, left / per_step / work), whole))


def schedule(n_arms: int, *, steps: int) -> list[tuple[int, int]]:
    """Return for each round how many arms take part, and for how many steps each."""
    found, left = [], n_arms
    for i in range(n_rounds(n_arms), 0, -1):
        found.append((left, max(_FEWEST_STEPS, steps // 2**i)))
        left = math.ceil(left / 2)
    return found


def search(candidates: Iterable[Arm], *, steps: int, loss: Callable[[Arm, int], float]) -> Arm:
    """Return the arm that is left when each round the better half goes on.

    Args:
        candidates: in the order that decides between equals.
        steps: of the training that the winner gets afterwards.
        loss: trains an arm for so many steps and returns its lowest validation loss.
    """
    left = list(candidates)
    for _, n_steps in schedule(len(left), steps=steps):
        losses: Mapping[Arm, float] = {arm: loss(arm, n_steps) for arm in left}
        left = sorted(left, key=lambda arm: losses[arm] if math.isfinite(losses[arm]) else math.inf)
        left = left[: math.ceil(len(left) / 2)]
    return left[0]
