"""Exercises of chapter 02, attention."""

from collections.abc import Callable
from functools import partial

import numpy as np

from llama_minimal.course.checks.softmax_parts import merge, merged_outputs, part
from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.attention import causal_mask, softmax

Attend = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_RNG = np.random.default_rng(2)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape)


_MATRICES = [(_normal(3, 4),), (_normal(2, 5, 5),)]
_LARGE = [(1000.0 * _normal(2, 4),)]
_APART = [(np.array([[0.0, 1], [2000, 2001]]),)]  # a maximum for each row


def _softmax_over(axis: int | None) -> Callable[[np.ndarray], np.ndarray]:
    def wrong(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    return wrong


def _one_maximum(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    with np.errstate(invalid="ignore"):
        return e / e.sum(axis=-1, keepdims=True)


def _overflows(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x)
        return e / e.sum(axis=-1, keepdims=True)


def _masked_late(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    return (weights * causal_mask(q.shape[-2], k.shape[-2])) @ v


def _causal(
    *, power: float = -0.5, forbidden: float = -np.inf, mask_of: Callable[[int, int], np.ndarray] = causal_mask
) -> Attend:
    """Causal attention, or a version with another power of Dh, another forbidden score or another mask."""

    def answer(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** power
        with np.errstate(invalid="ignore"):
            return softmax(np.where(mask_of(q.shape[-2], k.shape[-2]), scores, forbidden)) @ v

    return answer


def _strict(n_queries: int, n_keys: int) -> np.ndarray:
    return np.tri(n_queries, n_keys, n_keys - n_queries - 1, dtype=bool)


def _transposed(n_queries: int, n_keys: int) -> np.ndarray:
    return ~_strict(n_queries, n_keys)


_PARTS = [
    (part(_RNG, 3, 5), part(_RNG, 3, 5)),
    (part(_RNG, 4, 2, high=2.0, blind=(1,)), part(_RNG, 4, 6, blind=(0, 3))),
    (part(_RNG, 2, 3, high=-900.0), part(_RNG, 2, 3, high=900.0)),  # e¹⁸⁰⁰ is infinite
]


_SINKS = [
    (_normal(3, 4), 0.5, _normal(3, 4)),
    (_normal(2, 5), -1.0, _normal(2, 5)),
    (3000.0 + _normal(2, 3), 3000.5, _normal(2, 3)),
]


def _sink_gradient(
    z: np.ndarray, s: float, d_weights: np.ndarray, *, of_sink: float = 1.0, others: bool = True, shift: bool = True
) -> np.ndarray:
    """Return the gradient; or scale that of s, leave out the other keys, or let large scores overflow."""
    z = np.append(z, np.full((len(z), 1), s), axis=-1)  # (T, S + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = softmax(z) if shift else np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    d_weights = np.append(d_weights, np.zeros((len(z), 1)), axis=-1)
    mean = (weights * d_weights).sum(axis=-1, keepdims=True)
    gradient = weights * (d_weights - mean) if others else weights * (1 - weights) * d_weights
    gradient[:, -1] *= of_sink
    return gradient


def _sink_ignored(z: np.ndarray, s: float, d_weights: np.ndarray) -> np.ndarray:
    weights = softmax(z)
    gradient = weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True))
    return np.append(gradient, np.zeros((len(z), 1)), axis=-1)


_HIDDEN = np.where(np.tri(4, dtype=bool), _normal(4, 4), -np.inf)
_ROWS = [(_normal(3, 8),), (1000.0 * _normal(2, 5),), (_HIDDEN,)]


def _entropy(z: np.ndarray, *, careless: bool = False) -> np.ndarray:
    p = softmax(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -(p * np.log(p if careless else np.where(p > 0, p, 1.0))).sum(axis=-1)


def _maps(n: int) -> np.ndarray:
    return softmax(np.where(np.tri(n, dtype=bool), _normal(2, 3, n, n), -np.inf))


_READINGS = [(_maps(len(ids)), np.array(ids)) for ids in ([5, 1, 2, 5, 1, 2, 5], [7, 7, 7, 3, 7], [4, 9, 4, 4, 8, 9])]


def _induction(
    maps: np.ndarray,
    ids: np.ndarray,
    *,
    column: int = 1,
    row: int = 0,
    of: slice = slice(None),
    over: Callable = np.sum,
) -> np.ndarray:
    """Mean weight on the tokens after earlier occurrences; or of another column, row, occurrence or mean."""
    ids = list(np.asarray(ids))
    found = []
    for t in range(len(ids) - row):
        earlier = [s + column for s in range(t) if ids[s] == ids[t]][of]
        if earlier:
            found.append(over(maps[:, :, t + row, earlier], axis=-1))
    return np.sum(found, axis=0) / len(found)


EXERCISES = {
    "softmax": Exercise(
        right=softmax,
        cases=_MATRICES + _LARGE + _APART,
        mistakes={
            "the columns sum to one; each row should: use axis=-1": _softmax_over(-2),
            "the whole array sums to one; each row should: use axis=-1": _softmax_over(None),
            "each row has its own maximum; this one is the whole array's": _one_maximum,
            "large scores overflow to nan: subtract the row's maximum first": _overflows,
        },
    ),
    "causal_attention": Exercise(
        right=_causal(),
        cases=[(_normal(2, T, 4), _normal(2, S, 4), _normal(2, S, 4)) for T, S in ((3, 3), (2, 5))],
        mistakes={
            "the scores are not divided by √Dh": _causal(power=0),
            "the scores are divided by Dh, not by its root": _causal(power=-1),
            "nothing is masked: every token sees the whole text": _causal(
                mask_of=lambda n, m: np.ones((n, m), dtype=bool)
            ),
            "a forbidden score is 0 here, and e⁰ = 1 is a share: make it −∞": _causal(forbidden=0.0),
            "the triangle sits at the top left; the queries are the last tokens": _causal(
                mask_of=lambda n, m: np.tri(n, m, dtype=bool)
            ),
            "the mask is transposed: tokens see the future and not the past": _causal(mask_of=_transposed),
            "a token does not see itself": _causal(mask_of=_strict),
            "a token does not see itself, and the first, which then sees nothing, looks at all": _causal(
                mask_of=_strict, forbidden=-1e9
            ),
            "the mask is upside down: where it is True, the score stays": _causal(
                mask_of=lambda n, m: ~causal_mask(n, m)
            ),
            "the mask comes after the softmax, so the rows no longer sum to one": _masked_late,
        },
    ),
    "merge": Exercise(
        right=merge,
        cases=_PARTS,
        mistakes={
            "sums measured from two maxima are added: bring both to the larger": partial(merge, powers=(0, 0)),
            "only the first part is brought to the larger maximum": partial(merge, powers=(1, 0)),
            "only the second part is brought to the larger maximum": partial(merge, powers=(0, 1)),
            "upside down: what was measured from a smaller maximum must shrink": partial(merge, powers=(-1, -1)),
            "the values are not divided by the sum at the end": partial(merge, divide=False),
            "this is the mean of the two outputs; the part with the higher scores deserves more": merged_outputs,
        },
    ),
    "sink_gradient": Exercise(
        right=_sink_gradient,
        cases=_SINKS,
        mistakes={
            "s takes no part: these are the gradients of a softmax over the scores alone": _sink_ignored,
            "the last column is 0, but raising s takes weight from every key": partial(_sink_gradient, of_sink=0.0),
            "the last column has the wrong sign: at its weight the gradient is 0, minus the row's mean": partial(
                _sink_gradient, of_sink=-1.0
            ),
            "a score changes all the weights: subtract the row's mean": partial(_sink_gradient, others=False),
            "large scores overflow to nan: subtract the row's maximum, s included": partial(
                _sink_gradient, shift=False
            ),
            "these are the gradients of the weights; go on through the softmax to the scores": lambda z, s, d_weights: (
                np.append(d_weights, np.zeros((len(z), 1)), axis=-1)
            ),
        },
    ),
    "tokens_looked_at": Exercise(
        right=lambda z: np.exp(_entropy(z)),
        cases=_ROWS,
        mistakes={
            "a weight of zero gives 0 · log 0, which is nan": lambda z: np.exp(_entropy(z, careless=True)),
            "this is the exponent; the number of tokens is e to that power": _entropy,
            "the sign is lost: the logarithms of shares are negative": lambda z: np.exp(-_entropy(z)),
            "logarithms to the base 2, and powers of e: take one base for both": lambda z: np.exp(
                _entropy(z) / np.log(2)
            ),
            "logarithms to the base e, and powers of 2: take one base for both": lambda z: 2 ** _entropy(z),
            "this is 1 / Σ A², another measure": lambda z: 1 / (softmax(z) ** 2).sum(axis=-1),
            "this is one number, the mean; return one for each row": lambda z: np.exp(_entropy(z)).mean(),
        },
    ),
    "induction": Exercise(
        right=_induction,
        cases=_READINGS,
        mistakes={
            "these are the earlier occurrences; take the tokens right after them": partial(_induction, column=0),
            "only the latest occurrence counts here; add up all of them": partial(_induction, of=slice(-1, None)),
            "only the first occurrence counts here; add up all of them": partial(_induction, of=slice(1)),
            "the weights of several occurrences are averaged; add them up": partial(_induction, over=np.mean),
            "this is the next row: the repeated token itself asks": partial(_induction, row=1),
            "divided by all tokens; the mean is over those that occurred before": lambda maps, ids: (
                _induction(maps, ids) * sum(t in list(ids[:i]) for i, t in enumerate(ids)) / len(ids)
            ),
        },
    ),
}
