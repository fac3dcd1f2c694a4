"""Pictures of the recorded runs on fine-tuning, and the best learning rate of each arm."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llama_minimal.course.plotting import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OF_METHOD = {"head": "k", "lora": "q", "full": "v"}


class Arm(NamedTuple):
    """What one method came to, at its best learning rate."""

    right: np.ndarray
    """The share of right answers, by seed."""
    lr: float
    trained: int
    """How many weights may change."""


def best(rows: Sequence[Mapping[str, Any]], **where: float | str) -> Arm:
    """Return the results at the learning rate with the best mean, among those that were tried with the most seeds.

    Args:
        rows: of the recorded run "adapters".
        where: which of them, such as ``task="counting", method="lora", rank=8``.
    """
    mine = [row for row in rows if where.items() <= row.items()]
    of_rate = {lr: np.array([row["right"] for row in mine if row["lr"] == lr]) for lr in {row["lr"] for row in mine}}
    lr = max(of_rate, key=lambda lr: (len(of_rate[lr]), of_rate[lr].mean(), lr))
    return Arm(of_rate[lr], lr, mine[0]["trained"])


def draw_arms(axes: "Axes", arms: Mapping[tuple[str, int], Arm]) -> None:
    """Draw the share right of every method and rank against its trained weights: seeds as dots, means as bars."""
    for (method, rank), arm in arms.items():
        color = COLORS[_OF_METHOD[method]]
        axes.plot([arm.trained] * len(arm.right), arm.right, "o", color=color, ms=4, alpha=0.6)
        axes.plot(arm.trained, arm.right.mean(), "_", color=color, ms=16, mew=2)
        place = (arm.trained, arm.right.max())
        axes.annotate(f"{rank}" if rank else method, place, (0, 5), textcoords="offset points", ha="center")
    axes.set(xscale="log", xlabel="trained weights", xlim=(300, 1e7), ylim=(0, 1.12))
