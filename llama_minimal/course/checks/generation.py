"""Exercises of chapter 07, generation."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llama_minimal.config import preset
from llama_minimal.cost import memory
from llama_minimal.course.checks.cached_layer import CachedLayer, decode, decode_alone
from llama_minimal.course.exercises import Exercise

_P = np.array([0.15, 0.5, 0.03, 0.25, 0.07])
_LLAMA = memory(preset("llama2-70b"), precision="bf16")
_TEXTS = _LLAMA.weights / _LLAMA.kv_cache


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


def _penalized(logits: np.ndarray, seen: list[int], penalty: float, *, negative: float = 1.0) -> np.ndarray:
    """Positive logits are divided; negative ones get the factor penalty ** negative."""
    out = logits.copy()
    old = out[seen]
    out[seen] = np.where(old > 0, old / penalty, old * penalty**negative)
    return out


_HALVES = np.array([0.25, 0.5, 0.125, 0.125])  # sums without rounding
_TIES = np.array([0.125, 0.25, 0.25, 0.25, 0.125])
_SEEN = [(np.array([2.0, -1, 0.5, -3]), [0, 1, 3, 0, 1], 1.3), (np.array([-2.0, 4]), [0], 2.0)]


def _penalized_each_time(logits: np.ndarray, seen: list[int], penalty: float) -> np.ndarray:
    for token in seen:
        logits = _penalized(logits, [token], penalty)
    return logits


def _reusable(old: Sequence[int], new: Sequence[int], *, reread: int = 1) -> int:
    """How many slots stay: the common beginning, but for the last ``reread`` tokens of the new text."""
    same = [a == b for a, b in zip(old, new, strict=False)]
    return min([*same, False].index(False), len(new) - reread)


def _prompts(seed: int, lengths: Sequence[int], n: int) -> tuple:
    rng = np.random.default_rng(seed)
    layer = CachedLayer(rng.normal(size=(4, 6, 4)))
    return layer, rng.normal(size=(len(lengths), max(lengths), 6)), np.array(lengths), n


EXERCISES = {
    "cache": Exercise(
        right=decode_alone,
        cases=[_prompts(0, [5, 2, 4], 3), _prompts(1, [3], 2), _prompts(2, [2, 4], 5)],
        mistakes={
            "the padding is seen: row b's new tokens go into the slots from lengths[b] on": (
                lambda *case: decode(*case, slip="padding seen")
            ),
            "new tokens get the same position in every row; row b's prompt ends at lengths[b]": lambda *case: decode(
                *case, slip="same position"
            ),
            "the first output is read at the last column, in short rows padding; read row b at lengths[b] − 1": (
                lambda *case: decode(*case, slip="last column")
            ),
            "empty slots are seen: a query may look at the slots up to its own position": lambda *case: decode(
                *case, slip="all seen"
            ),
            "a new token does not see itself: write its key and value first, then look": lambda *case: decode(
                *case, slip="blind"
            ),
            "new tokens stand one position too far: the first after the prompt is at lengths[b]": lambda *case: decode(
                *case, slip="too far"
            ),
            "new tokens stand one position too early: the first after the prompt is at lengths[b]": lambda *case: (
                decode(*case, slip="too early")
            ),
            "the scores are not divided by the root of the head width": lambda *case: decode(*case, slip="unscaled"),
        },
    ),
    "reuse": Exercise(
        right=_reusable,
        cases=[
            ([1, 5, 9, 2], [1, 5, 7, 2, 3]),
            ([1, 5], [1, 5, 8]),
            ([1, 5, 8], [1, 5, 8]),
            ([1, 5, 8, 9], [1, 5]),
            ([3], [4, 3]),
            ([7, 7, 7, 7], [7, 7, 7]),
        ],
        mistakes={
            "the last token of the new text has to be read again: without it there are no logits": lambda old, new: (
                _reusable(old, new, reread=0)
            ),
            "equal tokens after the first difference do not count: they have seen another past": lambda old, new: min(
                sum(a == b for a, b in zip(old, new, strict=False)), len(new) - 1
            ),
            "it counts tokens that occur in both texts; they must be the same, one by one, from the start": (
                lambda old, new: min(len(set(old) & set(new)), len(new) - 1)
            ),
            "it gives up one slot too many: only where all of the new text is known, its last token is read again": (
                lambda old, new: max(_reusable(old, new, reread=0) - 1, 0)
            ),
            "it keeps every slot; those after the first difference are wrong now": lambda old, new: min(
                len(old), len(new) - 1
            ),
            "it keeps none; the slots before the first difference are still right": lambda old, new: 0,
        },
    ),
    "top_p": Exercise(
        right=_top_p,
        cases=[(_P, 0.7), (_P, 0.8), (_P, 0.05), (_HALVES, 0.75), (_TIES, 0.5)],
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
            "of equally likely tokens it keeps all, or none; the set is the smallest, so only the first of them": (
                lambda p, top_p: _keep(p, p >= p[_nucleus(p, top_p)].min())
            ),
            "of equally likely tokens it keeps the last; sort −p, stably, so that the first comes first": (
                lambda p, top_p: _top_p(p[::-1], top_p)[::-1]
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
            "a token that is in the text twice is penalized twice; once is enough": _penalized_each_time,
            "exchanged: positive logits are divided, negative multiplied": lambda logits, seen, penalty: _penalized(
                logits, seen, 1 / penalty
            ),
            "the penalty is subtracted; it divides or multiplies": lambda logits, seen, penalty: np.where(
                np.isin(np.arange(len(logits)), seen), logits - penalty, logits
            ),
        },
    ),
    "balance": Exercise(
        right=round(_TEXTS),
        mistakes={
            "this is right; now round it to a whole number": _TEXTS,
            "cut off instead of rounded, or the embeddings are left out": int(_TEXTS),
            "these are 64 kv heads; LLaMA-2 70B has 8": round(_TEXTS / 8),
            "twice too many: keys and values both count, for 4,096 tokens, with 2 bytes a number": round(2 * _TEXTS),
            "half of it: a weight has 2 bytes, too": round(_TEXTS / 2),
            "this is for one layer; every layer has a cache": round(_TEXTS * 80),
            "the other way round: divide the weights by one text's cache": 1 / _TEXTS,
        },
    ),
}
