"""Exercises of chapter 07, generation."""

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.attention import softmax

_P = np.array([0.15, 0.5, 0.03, 0.25, 0.07])
_WITHOUT, _WITH = sum(range(1000, 2000)), 1000 + 999


def _top_p(p: np.ndarray, top_p: float, *, one_less: bool = False, again: bool = True) -> np.ndarray:
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - (0 if one_less else p[order])
    keep = np.zeros(len(p), dtype=bool)
    keep[order[before < top_p]] = True
    left = np.where(keep, p, 0)
    return left / left.sum() if again and left.sum() > 0 else left


EXERCISES = {
    "temperature": Exercise(
        right=lambda logits, temperature: softmax(logits / temperature),
        cases=[(np.log(_P), 0.5), (np.log(_P), 2.0)],
        mistakes={
            "it multiplies by the temperature; divide, so that a low one sharpens": lambda logits, temperature: softmax(
                logits * temperature
            ),
            "the probabilities are divided; divide the logits, before the softmax": lambda logits, temperature: (
                softmax(logits) / temperature
            ),
            "the temperature has no effect": lambda logits, temperature: softmax(logits),
        },
    ),
    "top_p": Exercise(
        right=_top_p,
        cases=[(_P, 0.7), (_P, 0.8), (_P, 0.05)],
        mistakes={
            "it stops one token early: the token that reaches top_p belongs to the set": lambda p, top_p: _top_p(
                p, top_p, one_less=True
            ),
            "what is left does not sum to one": lambda p, top_p: _top_p(p, top_p, again=False),
            "it keeps tokens that are at least top_p likely; top_p is about their sum": lambda p, top_p: (
                np.where(p >= top_p, p, 0) / max(p[p >= top_p].sum(), 1e-9)
            ),
        },
    ),
    "dart": Exercise(
        right=lambda p, u: int(np.searchsorted(np.cumsum(p), u, side="right")),
        cases=[(_P, 0.0), (_P, 0.2), (_P, 0.66), (_P, 0.99)],
        mistakes={
            "it always takes the most likely token": lambda p, u: int(p.argmax()),
            "it is one too far": lambda p, u: int(np.searchsorted(np.cumsum(p), u, side="right")) + 1,
            "it compares u with each probability; compare it with their running sum": lambda p, u: int(
                np.argmax(p > u)
            ),
        },
    ),
    "ratio": Exercise(
        right=round(_WITHOUT / _WITH),
        mistakes={
            "this counts the tokens without a cache": _WITHOUT,
            "this forgets that the prompt is processed in every step": round(sum(range(1, 1001)) / 1000),
        },
    ),
}
