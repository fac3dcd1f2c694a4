"""Fits for iso-FLOP curves: the best size for each budget, and how it grows with the budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Lowest(NamedTuple):
    """The lowest point of a curve: where it is, how low, and how strongly the curve bends there."""

    size: float
    loss: float
    bend: float
    """a in loss = a · (log N − log N_opt)² + …"""


class PowerLaw(NamedTuple):
    """y = coefficient · x ** exponent."""

    coefficient: float
    exponent: float

    def __call__(self, x: float) -> float:
        """Return y at x."""
        return self.coefficient * x**self.exponent


def lowest_point(sizes: Sequence[float], losses: Sequence[float]) -> Lowest:
    """Fit a parabola in log N to the losses of one budget, by least squares, and return its lowest point.

    loss ≈ a · (log N − log N_opt)² + loss_opt

    Args:
        sizes: N, the parameters, of every run; sizes may repeat.
        losses: in the same order.

    Raises:
        ValueError: if there are fewer than three sizes, or the parabola has no lowest point inside their range: the
            budget then needs other sizes.

    Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models" (approach 2, IsoFLOP profiles).
    """
    if len(sizes) != len(losses) or len(set(sizes)) < 3:
        raise ValueError(
            f"a parabola needs three sizes or more, each with a loss; given {len(set(sizes))} sizes in "
            f"{len(sizes)} runs and {len(losses)} losses"
        )
    logs = np.log(np.asarray(sizes, dtype=float))
    middle = logs.mean()  # far from 0, where powers of log N would nearly be multiples of each other
    a, b, c = np.polyfit(logs - middle, np.asarray(losses, dtype=float), 2)
    if a <= 0 or not logs.min() <= (lowest := middle - b / (2 * a)) <= logs.max():
        raise ValueError(
            f"the losses have no lowest point between N = {min(sizes):,.0f} and {max(sizes):,.0f}; "
            f"give {'smaller' if b > 0 else 'larger'} sizes, too"
        )
    return Lowest(size=float(np.exp(lowest)), loss=float(c - b * b / (4 * a)), bend=float(a))


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit y = coefficient · x ** exponent: a straight line through the logarithms, by least squares.

    Raises:
        ValueError: if there are fewer than two different x, or a number is not positive.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or len(np.unique(x)) < 2 or not (x > 0).all() or not (y > 0).all():
        raise ValueError(f"a power law needs two different x or more, and positive numbers; given x={x}, y={y}")
    exponent, log_coefficient = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(log_coefficient)), float(exponent))


def best_sizes(rows: Iterable[Mapping[str, float]]) -> dict[float, Lowest]:
    """Return the lowest point of each budget's curve, through the median loss of each size's seeds.

    The median, because now and then a run learns nothing for a long while, and is far off by chance.

    Args:
        rows: as ``recorded("isoflop")`` gives them, with ``budget``, ``parameters`` and ``loss``.
    """
    curves: dict[float, dict[float, list[float]]] = {}
    for row in rows:
        curves.setdefault(row["budget"], {}).setdefault(row["parameters"], []).append(row["loss"])
    medians = {
        budget: {size: float(np.median(losses)) for size, losses in curve.items()} for budget, curve in curves.items()
    }
    return {budget: lowest_point(list(curve), list(curve.values())) for budget, curve in sorted(medians.items())}
