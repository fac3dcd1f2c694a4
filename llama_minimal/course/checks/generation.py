"""Exercises of chapter 07, generation."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.attention import softmax

_P = np.array([0.15, 0.5, 0.03, 0.25, 0.07])
_WITHOUT, _WITH = sum(range(1000, 2000)), 1000 + 999


def _keep(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept, p, 0) / p[kept].sum() if kept.any() else 0 * p


def _nucleus(
    p: np.ndarray, top_p: float, *, down: int = -1, own: float = 1.0, reaches: Callable = operator.lt
) -> np.ndarray:
    """Which tokens top-p keeps, or a version that sorts upward, counts a token's own share, or keeps one too many."""
    order = np.argsort(down * p, kind="stable")
    kept = np.zeros(len(p), dtype=bool)
    kept[order[reaches(np.cumsum(p[order]) - own * p[order], top_p)]] = True
    return kept


def _top_p(p: np.ndarray, top_p: float, **changes: Any) -> np.ndarray:
    return _keep(p, _nucleus(p, top_p, **changes))


def _naive_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        e = np.exp(logits / temperature)
        return e / e.sum()


def _penalized(logits: np.ndarray, seen: list[int], penalty: float, *, negative: float = 1.0) -> np.ndarray:
    """Positive logits are divided; negative ones get the factor penalty ** negative."""
    out = logits.copy()
    old = out[seen]
    out[seen] = np.where(old > 0, old / penalty, old * penalty**negative)
    return out


_HALVES = np.array([0.25, 0.5, 0.125, 0.125])  # sums without rounding
_SEEN = [(np.array([2.0, -1, 0.5, -3]), [0, 1, 3], 1.3), (np.array([-2.0, 4]), [0], 2.0)]

EXERCISES = {
    "temperature": Exercise(
        right=lambda logits, temperature: softmax(logits / temperature),
        cases=[(np.log(_P), 0.5), (np.log(_P), 2.0), (np.array([1000.0, 999.0]), 1.0)],
        mistakes={
            "it multiplies by the temperature; divide, so that a low one sharpens": lambda logits, temperature: softmax(
                logits * temperature
            ),
            "the probabilities are divided; divide the logits, before the softmax": lambda logits, temperature: (
                softmax(logits) / temperature
            ),
            "large logits overflow to nan: subtract the maximum first": _naive_softmax,
            "these no longer sum to one: the powers have to be divided by their sum": lambda logits, temperature: (
                softmax(logits) ** (1 / temperature)
            ),
            "the temperature has no effect": lambda logits, temperature: softmax(logits),
        },
    ),
    "top_p": Exercise(
        right=_top_p,
        cases=[(_P, 0.7), (_P, 0.8), (_P, 0.05), (_HALVES, 0.75)],
        mistakes={
            "it stops one token early: the token that reaches top_p belongs to the set": lambda p, top_p: _top_p(
                p, top_p, own=0.0
            ),
            "p is not sorted here: sort it downward before you sum": lambda p, top_p: _keep(
                p, np.cumsum(p) - p < top_p
            ),
            "the tokens have changed places: bring them back to the order of p": lambda p, top_p: (
                -np.sort(-_top_p(p, top_p))
            ),
            "it keeps the least likely tokens; sort downward": lambda p, top_p: _top_p(p, top_p, down=1),
            "it keeps one token too many when the sum hits top_p exactly": lambda p, top_p: _top_p(
                p, top_p, reaches=operator.le
            ),
            "what is left does not sum to one": lambda p, top_p: np.where(_nucleus(p, top_p), p, 0),
            "it keeps tokens that are at least top_p likely; top_p is about their sum": lambda p, top_p: _keep(
                p, p >= top_p
            ),
        },
    ),
    "dart": Exercise(
        right=lambda p, u: int(np.searchsorted(np.cumsum(p), u, side="right")),
        cases=[(_P, 0.0), (_P, 0.2), (_P, 0.66), (_P, 0.99), (np.array([0, 0.25, 0.5, 0.25]), 0.0), (_HALVES, 0.25)],
        mistakes={
            "it always takes the most likely token": lambda p, u: int(p.argmax()),
            "it may hit a token of probability 0: the piece must end *beyond* u": lambda p, u: int(
                np.searchsorted(np.cumsum(p), u)
            ),
            "it is one too far": lambda p, u: int(np.searchsorted(np.cumsum(p), u, side="right")) + 1,
            "it compares u with each probability; compare it with their running sum": lambda p, u: int(
                np.argmax(p > u)
            ),
        },
    ),
    "penalty": Exercise(
        right=_penalized,
        cases=_SEEN,
        mistakes={
            "this is the function above: a negative logit goes up": lambda logits, seen, penalty: _penalized(
                logits, seen, penalty, negative=-1.0
            ),
            "all logits are multiplied: a positive one goes up": lambda logits, seen, penalty: np.where(
                np.isin(np.arange(len(logits)), seen), logits * penalty, logits
            ),
            "negative logits stay as they are": lambda logits, seen, penalty: _penalized(
                logits, seen, penalty, negative=0.0
            ),
            "tokens that were not seen are penalized, too": lambda logits, seen, penalty: _penalized(
                logits, list(range(len(logits))), penalty
            ),
            "the penalty is subtracted; it divides or multiplies": lambda logits, seen, penalty: np.where(
                np.isin(np.arange(len(logits)), seen), logits - penalty, logits
            ),
        },
    ),
    "ratio": Exercise(
        right=round(_WITHOUT / _WITH, 1),
        tolerance=1e-9,
        mistakes={
            "this is right; now round it to one decimal": _WITHOUT / _WITH,
            "this is right, and rounded too far: one decimal": round(_WITHOUT / _WITH),
            "the last token that is written need not be read: 1,999 tokens with a cache": round(_WITHOUT / 2000, 1),
            "the last step without a cache processes 1,999 tokens": round(sum(range(1000, 2001)) / _WITH, 1),
            "this counts the tokens without a cache": _WITHOUT,
            "this forgets that the prompt is processed in every step": round(sum(range(1, 1001)) / 1000, 1),
        },
    ),
}
