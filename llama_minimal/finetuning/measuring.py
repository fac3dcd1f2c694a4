"""How sure a score is: a 95 % interval of a mean, and of the difference between two on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llama_minimal.evaluation import wilson_interval

_DRAWS = 2000

Kind = Literal["baseline", "before", "tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Hold what one way to answer gave for each example of the test part, and how good each answer was."""

    name: str
    kind: Kind
    predictions: tuple[str, ...]
    scores: tuple[float, ...]  # 0 to 100, one for each prediction

    @property
    def mean(self) -> float:
        """The score."""
        return sum(self.scores) / len(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return name, kind, score and the ends of its interval, for JSON."""
        low, high = interval(self.scores)
        return {"name": self.name, "kind": self.kind, "score": self.mean, "low": low, "high": high}


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a 95 % interval of the mean of scores from 0 to 100.

    Where each score is 0 or 100, it is Wilson's, which has a width at 0 and 100, too (``wilson_interval``).

    Else the examples are drawn anew 2,000 times, and 95 % of the means of these draws are within the interval.

    Raises:
        ValueError: if there is no score.
    """
    if not len(scores):
        raise ValueError("an interval needs at least one score")
    if set(scores) <= {0.0, 100.0}:
        low, high = wilson_interval(sum(scores) / len(scores) / 100, len(scores))
        return 100 * low, 100 * high
    return _bootstrap(np.asarray(scores, dtype=np.float64))


def difference(scores: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Return how much better the first scores are on average, and a 95 % interval of it: the same examples in pairs.

    Raises:
        ValueError: if there are not as many scores as others.
    """
    if len(scores) != len(others) or not len(scores):
        raise ValueError(f"{len(scores)} scores cannot be compared with {len(others)}; give two for each example")
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    return float(differences.mean()), *_bootstrap(differences)


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).integers(len(values), size=(_DRAWS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def recommend(measured: Sequence[Measured]) -> tuple[Measured | None, str]:
    """Return what to use, and the sentences that say why: the best; of equals not the tuned model, which costs more.

    Where no score is above 0 there is nothing to use: None.

    Args:
        measured: one that is tuned, and at least one other.
    """
    tuned = next(one for one in measured if one.kind == "tuned")
    if not any(one.mean for one in measured):
        return None, (
            f"Use none of them: over {len(tuned.scores):,} test examples {tuned.name} scores 0.0, and so does all "
            f"else. Give more examples, more --minutes or another --base."
        )
    rival = max((one for one in measured if one.kind != "tuned"), key=lambda one: one.mean)
    chosen, other = (tuned, rival) if tuned.mean > rival.mean else (rival, tuned)
    gain, low, high = difference(chosen.scores, other.scores)
    verb = f"does better than {other.name}" if gain else f"does as well as {other.name}, and costs less"
    verdict = f"Use {chosen.name}. It {verb}: {chosen.mean:.1f} against {other.mean:.1f}, a difference of {gain:.1f} "
    verdict += f"(95 % interval {low:.1f} to {high:.1f})."
    if low <= 0:
        verdict += f" With {len(tuned.scores):,} test examples that may be chance."
    return chosen, verdict
