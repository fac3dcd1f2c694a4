"""Exercises of chapter 01, language modeling."""

import math

import numpy as np

from llama_minimal.course.exercises import Exercise

_Z = np.random.default_rng(1).normal(size=(4, 6))
_TARGETS = [(_Z, np.array([0, 5, 2, 2])), (1000 * _Z, np.array([1, 1, 3, 0]))]


def _merge(ids: list[int], left: int, right: int, new: int, *, overlapping: bool = False) -> tuple[int, ...]:
    out, i = [], 0
    while i < len(ids):
        found = list(ids[i : i + 2]) == [left, right]
        out.append(new if found else ids[i])
        i += 2 if found and not overlapping else 1
    return tuple(out)


def _surprises(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    top = z.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=-1))
    return log_sum - z[np.arange(len(y)), y]


def _overflows(z: np.ndarray, y: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        return -np.log(p[np.arange(len(y)), y]).mean()


EXERCISES = {
    "merge": Exercise(
        right=_merge,
        cases=[([1, 2, 3, 1, 2], 1, 2, 9), ([1, 1, 1, 1, 1], 1, 1, 9), ([4, 5], 5, 4, 9), ([], 1, 2, 9)],
        mistakes={
            "the second id of a merged pair is still there": lambda ids, left, right, new: _merge(
                ids, left, right, new, overlapping=True
            ),
            "it merges the first pair only": lambda ids, left, right, new: next(
                ((*ids[:i], new, *ids[i + 2 :]) for i in range(len(ids) - 1) if ids[i] == left and ids[i + 1] == right),
                tuple(ids),
            ),
        },
    ),
    "cross_entropy": Exercise(
        right=lambda z, y: _surprises(z, y).mean(),
        cases=_TARGETS,
        mistakes={
            "it sums the surprises; take their mean": lambda z, y: _surprises(z, y).sum(),
            "large logits overflow: subtract the row's maximum before the exponential": _overflows,
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
            "tokens and bytes have changed places": lambda loss, n_tokens, n_bytes: (
                loss * n_bytes / math.log(2) / n_tokens
            ),
        },
    ),
    "first_loss": Exercise(
        right=math.log(32_000),
        tolerance=0.01,
        mistakes={
            "this is in bits; nats use the natural logarithm": math.log2(32_000),
            "this is the perplexity; the loss is its logarithm": 32_000,
            "the sign is wrong: surprise is positive": -math.log(32_000),
        },
    ),
}
