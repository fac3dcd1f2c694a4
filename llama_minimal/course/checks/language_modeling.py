"""Exercises of chapter 01, language modeling."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.tokenizer.bpe import Pair, merge_pair

Merge = Callable[[Sequence[int], Pair, int], list[int]]

_Z = np.random.default_rng(1).normal(size=(4, 6))
_APART = np.array([[0.0, 1, 2, 3, 4, 5], [-3000, -3001, -3002, -3003, -3004, -3005]])  # a maximum for each row
_TARGETS = [
    (_Z, np.array([0, 5, 2, 2])),
    (1000 * _Z, np.array([1, 1, 3, 0])),
    (_APART, np.array([0, 3])),
]
_MERGES = [(104, 101), (116, 256), (32, 257), (97, 97)]  # he, the, " the", aa


def _apply(ids: Sequence[int], numbered: Iterable[tuple[int, Pair]], merge: Merge = merge_pair) -> tuple[int, ...]:
    """Apply merges, each with the id that it makes, one after the other."""
    for new, pair in numbered:
        ids = merge(ids, pair, new)
    return tuple(ids)


def _encode(text: str, merges: Sequence[Pair], merge: Merge = merge_pair) -> tuple[int, ...]:
    return _apply(text.encode(), enumerate(merges, start=256), merge)


def _overlapping(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    return [new if tuple(ids[i : i + 2]) == pair else ids[i] for i in range(len(ids))]


def _once(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    place = next((i for i in range(len(ids) - 1) if tuple(ids[i : i + 2]) == pair), None)
    return list(ids) if place is None else [*ids[:place], new, *ids[place + 2 :]]


def _encode_leftmost(text: str, merges: Sequence[Pair]) -> tuple[int, ...]:
    ids, new_id = list(text.encode()), {pair: 256 + i for i, pair in enumerate(merges)}
    while places := [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) in new_id]:
        ids[places[0] : places[0] + 2] = [new_id[ids[places[0]], ids[places[0] + 1]]]
    return tuple(ids)


def _surprises(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    top = z.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=-1))
    return log_sum - z[np.arange(len(y)), y]


def _overflows(z: np.ndarray, y: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        return -np.log(p[np.arange(len(y)), y]).mean()


def _underflows(z: np.ndarray, y: np.ndarray, *, floor: float = 0.0) -> float:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    with np.errstate(all="ignore"):
        return -np.log((e / e.sum(axis=-1, keepdims=True))[np.arange(len(y)), y] + floor).mean()


def _one_maximum(z: np.ndarray, y: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        log_sum = z.max() + np.log(np.exp(z - z.max()).sum(axis=-1))
    return (log_sum - z[np.arange(len(y)), y]).mean()


EXERCISES = {
    "encode": Exercise(
        right=_encode,
        cases=[
            ("the hen then", _MERGES),
            ("see the heath, the aaaaa", _MERGES),
            ("naïve", [(195, 175)]),
            ("abc", [(98, 99), (97, 98)]),
            ("", _MERGES),
        ],
        mistakes={
            "these are characters; start from text.encode()": lambda text, merges: _apply(
                [ord(letter) for letter in text], enumerate(merges, start=256)
            ),
            "the second id of a merged pair is still there": lambda text, merges: _encode(text, merges, _overlapping),
            "each merge is applied once only; replace every occurrence": lambda text, merges: _encode(
                text, merges, _once
            ),
            "apply the merges in the order in which they were learned": lambda text, merges: _apply(
                text.encode(), reversed(list(enumerate(merges, start=256)))
            ),
            "the first merge makes the id 256": lambda text, merges: _apply(
                text.encode(), enumerate(merges, start=257)
            ),
            "the merge that was learned first goes first, wherever in the text it is": _encode_leftmost,
            "the merges are missing": lambda text, merges: _encode(text, []),
        },
    ),
    "cross_entropy": Exercise(
        right=lambda z, y: _surprises(z, y).mean(),
        cases=_TARGETS,
        mistakes={
            "it sums the surprises; take their mean": lambda z, y: _surprises(z, y).sum(),
            "large logits overflow: subtract the row's maximum before the exponential": _overflows,
            "a probability becomes 0 and its logarithm infinite: write log Σ exp − z_y instead": _underflows,
            "a small number hides that a probability became 0: write log Σ exp − z_y instead": lambda z, y: _underflows(
                z, y, floor=1e-12
            ),
            "each row has its own maximum; this one is the whole array's": _one_maximum,
            "the maximum was subtracted, and not added back": lambda z, y: (_surprises(z, y) - z.max(axis=-1)).mean(),
            "it is in bits; use the natural logarithm": lambda z, y: _surprises(z, y).mean() / math.log(2),
            "the sign is wrong: surprise is positive": lambda z, y: -_surprises(z, y).mean(),
        },
    ),
    "bits_per_byte": Exercise(
        right=lambda loss, n_tokens, n_bytes: loss * n_tokens / math.log(2) / n_bytes,
        cases=[(2.0, 100, 350), (0.7, 10, 38)],
        mistakes={
            "these are nats per byte; divide by log 2": lambda loss, n_tokens, n_bytes: loss * n_tokens / n_bytes,
            "these are bits per token; bring in the bytes": lambda loss, n_tokens, n_bytes: loss / math.log(2),
            "multiply the loss by the number of tokens": lambda loss, n_tokens, n_bytes: loss / math.log(2) / n_bytes,
            "divide by log 2: a bit is less than a nat": lambda loss, n_tokens, n_bytes: (
                loss * n_tokens * math.log(2) / n_bytes
            ),
            "a byte is one byte here; do not count its 8 bits": lambda loss, n_tokens, n_bytes: (
                loss * n_tokens / math.log(2) / (8 * n_bytes)
            ),
            "tokens and bytes have changed places": lambda loss, n_tokens, n_bytes: (
                loss * n_bytes / math.log(2) / n_tokens
            ),
        },
    ),
    "perplexity": Exercise(
        right=lambda surprises: np.exp(surprises.mean()),
        cases=[(np.array([0.1, 2.0, 7.5]),), (np.array([1.0, 1.0, 3.0, 20.0]),)],
        mistakes={
            "this is the function above; which comes first, the mean or the exponential?": lambda surprises: np.exp(
                surprises
            ).mean(),
            "this is the loss; take its exponential": lambda surprises: surprises.mean(),
            "the surprises are in nats: the base is e, not 2": lambda surprises: 2 ** surprises.mean(),
            "this is the perplexity of the whole text as one token; take the mean": lambda surprises: np.exp(
                surprises.sum()
            ),
        },
    ),
    "first_loss": Exercise(
        right=math.log(32_000),
        tolerance=0.01,
        mistakes={
            "this is in bits; nats use the natural logarithm": math.log2(32_000),
            "this is the logarithm to base 10; nats use the natural one": math.log10(32_000),
            "this is the perplexity; the loss is its logarithm": 32_000,
            "the sign is wrong: surprise is positive": -math.log(32_000),
        },
    ),
}
