"""Exercises of chapter 02, attention."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.attention import attention, causal_mask, softmax

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


Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def _part(rows: int, keys: int, *, high: float = 0.0, blind: tuple[int, ...] = ()) -> Triple:
    """What a part of the keys leaves behind: maximum, sum and mixed values; nothing where a row is blind."""
    z = high + _normal(rows, keys)
    z[list(blind)] = -np.inf
    m = z.max(axis=-1, keepdims=True)
    e = np.where(np.isinf(z), 0.0, np.exp(z - np.where(np.isinf(m), 0.0, m)))
    return m, e.sum(axis=-1, keepdims=True), e @ _normal(keys, 4)


_PARTS = [
    (_part(3, 5), _part(3, 5)),
    (_part(4, 2, high=2.0, blind=(1,)), _part(4, 6, blind=(0, 3))),
    (_part(2, 3, high=-900.0), _part(2, 3, high=900.0)),  # e¹⁸⁰⁰ is infinite
]


def _merge(first: Triple, second: Triple, *, shrink: str = "both") -> Triple:
    """Merge two parts, or make a mistake with the factors: shrink only the "first", "none", or "grow"."""
    m = np.maximum(first[0], second[0])
    with np.errstate(over="ignore", invalid="ignore"):
        sign = -1 if shrink == "grow" else 1
        factors = [np.exp(sign * (part[0] - m)) for part in (first, second)]
        factors[0] = np.ones_like(m) if shrink == "none" else factors[0]
        factors[1] = np.ones_like(m) if shrink in ("none", "first") else factors[1]
        total, out = (factors[0] * a + factors[1] * b for a, b in zip(first[1:], second[1:], strict=True))
    return m, total, out


def _merged_divided(first: Triple, second: Triple) -> Triple:
    m, total, out = _merge(first, second)
    return m, total, out / total


def _merged_logarithm(first: Triple, second: Triple) -> Triple:
    m, total, out = _merge(first, second)
    return m + np.log(total), total, out


_SINKS = [
    (_normal(3, 4), 0.5, _normal(3, 4)),
    (_normal(2, 5), -1.0, _normal(2, 5)),
    (3000.0 + _normal(2, 3), 3000.5, _normal(2, 3)),
]


def _sink_gradient(z: np.ndarray, s: float, d_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = softmax(np.append(z, np.full((len(z), 1), s), axis=-1))  # (T, S + 1)
    mean = (weights[:, :-1] * d_weights).sum(axis=-1, keepdims=True)
    return weights[:, :-1] * (d_weights - mean), -(weights[:, -1:] * mean).sum()


def _sink_altered(of_s: Callable[[np.ndarray, float], object]) -> Callable:
    """Return the right d_z, and something else made of the right parts of d_s, (T,), and of d_s."""

    def wrong(z: np.ndarray, s: float, d_weights: np.ndarray) -> tuple:
        d_z, d_s = _sink_gradient(z, s, d_weights)
        each = [_sink_gradient(z[t : t + 1], s, d_weights[t : t + 1])[1] for t in range(len(z))]
        return d_z, of_s(np.array(each), d_s)

    return wrong


def _sink_ignored(z: np.ndarray, s: float, d_weights: np.ndarray) -> tuple[np.ndarray, float]:
    weights = softmax(z)
    return weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True)), 0.0


def _sink_elementwise(z: np.ndarray, s: float, d_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = softmax(np.append(z, np.full((len(z), 1), s), axis=-1))[:, :-1]
    return weights * (1 - weights) * d_weights, _sink_gradient(z, s, d_weights)[1]


def _sink_overflows(z: np.ndarray, s: float, d_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.exp(s) + np.exp(z).sum(axis=-1, keepdims=True)
        weights = np.exp(z) / total
        mean = (weights * d_weights).sum(axis=-1, keepdims=True)
        return weights * (d_weights - mean), -(np.exp(s) / total * mean).sum()


_HIDDEN = np.where(np.tri(4, dtype=bool), _normal(4, 4), -np.inf)
_ROWS = [(_normal(3, 8),), (1000.0 * _normal(2, 5),), (_HIDDEN,)]


def _entropy(z: np.ndarray, axis: int = -1) -> np.ndarray:
    p = softmax(z) if axis == -1 else softmax(z.T).T
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=axis)


def _careless_entropy(z: np.ndarray) -> np.ndarray:
    p = softmax(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.exp(-(p * np.log(p)).sum(axis=-1))


def _maps(n: int) -> np.ndarray:
    return softmax(np.where(np.tri(n, dtype=bool), _normal(2, 3, n, n), -np.inf))


_READINGS = [(_maps(len(ids)), np.array(ids)) for ids in ([5, 1, 2, 5, 1, 2, 5], [7, 7, 7, 3, 7], [4, 9, 4, 4, 8, 9])]


def _induction(
    maps: np.ndarray,
    ids: np.ndarray,
    *,
    column: int = 1,
    row: int = 0,
    which: slice = slice(None),
    over: Callable = np.sum,
    everywhere: bool = False,
) -> np.ndarray:
    """Mean weight on the tokens after earlier occurrences; or of another column, row, occurrence or mean."""
    ids = list(np.asarray(ids))
    found = []
    for t in range(len(ids) - row):
        earlier = [s + column for s in range(t) if ids[s] == ids[t]][which]
        if earlier:
            found.append(over(maps[:, :, t + row, [max(s, 0) for s in earlier]], axis=-1))
    return np.sum(found, axis=0) / (len(ids) if everywhere else len(found))


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
            "the mask comes after the softmax, so the rows no longer sum to one": _masked_late,
        },
    ),
    "merge": Exercise(
        right=_merge,
        cases=_PARTS,
        mistakes={
            "sums measured from two different maxima are added: bring both to the common maximum first": lambda a, b: (
                _merge(a, b, shrink="none")
            ),
            "only the first part is corrected; the second may have the smaller maximum": lambda a, b: _merge(
                a, b, shrink="first"
            ),
            "the factor is upside down: a part with a smaller maximum must shrink, so it is e^(its m − the new m)": (
                lambda a, b: _merge(a, b, shrink="grow")
            ),
            "the values are divided by the sum already; a triple that can be merged again is not": _merged_divided,
            "m is not the maximum but the logarithm of the sum; then ℓ would have to be 1": _merged_logarithm,
        },
    ),
    "sink_gradient": Exercise(
        right=_sink_gradient,
        cases=_SINKS,
        mistakes={
            "s takes no part: these are the gradients of a softmax over the scores alone": _sink_ignored,
            "d_z is right, and d_s is zero: raising s takes weight from every key of the row": _sink_altered(
                lambda each, d_s: 0.0
            ),
            "d_z is right, and d_s has the wrong sign: the gradient at the new weight is 0, minus the row's mean": (
                _sink_altered(lambda each, d_s: -d_s)
            ),
            "d_z is right, and d_s has one number for each row: all rows share one s, so add them up": _sink_altered(
                lambda each, d_s: each
            ),
            "d_z is right, and d_s is the mean over the rows; it should be their sum": _sink_altered(
                lambda each, d_s: each.mean()
            ),
            "d_z lacks the other keys: a score changes the weights of all of them, not its own alone": (
                _sink_elementwise
            ),
            "large scores overflow to nan: subtract the row's maximum first, from s as well": _sink_overflows,
        },
    ),
    "tokens_looked_at": Exercise(
        right=lambda z: np.exp(_entropy(z)),
        cases=_ROWS,
        mistakes={
            "a weight of zero gives 0 · log 0, which is nan; it should count nothing": _careless_entropy,
            "this is the exponent; the number of tokens is e to that power": _entropy,
            "the sign is lost: the logarithms of shares are negative": lambda z: np.exp(-_entropy(z)),
            "e and 2 are mixed: the logarithm and the power need the same base": lambda z: np.exp(
                _entropy(z) / np.log(2)
            ),
            "2 and e are mixed: the logarithm and the power need the same base": lambda z: 2 ** _entropy(z),
            "this is 1 / Σ A², another measure; here it is e to the power of −Σ A log A": lambda z: (
                1 / (softmax(z) ** 2).sum(axis=-1)
            ),
            "this is one number, the mean; return one for each row": lambda z: np.exp(_entropy(z)).mean(),
        },
    ),
    "induction": Exercise(
        right=_induction,
        cases=_READINGS,
        mistakes={
            "these are the earlier occurrences themselves; take the tokens right after them": lambda maps, ids: (
                _induction(maps, ids, column=0)
            ),
            "these are the tokens before the earlier occurrences; take those right after them": lambda maps, ids: (
                _induction(maps, ids, column=-1)
            ),
            "only the latest earlier occurrence counts here; add up all of them": lambda maps, ids: _induction(
                maps, ids, which=slice(-1, None)
            ),
            "only the first earlier occurrence counts here; add up all of them": lambda maps, ids: _induction(
                maps, ids, which=slice(1)
            ),
            "the weights of several occurrences are averaged; add them up": lambda maps, ids: _induction(
                maps, ids, over=np.mean
            ),
            "the sum is divided by all tokens; divide by those that have occurred before": lambda maps, ids: _induction(
                maps, ids, everywhere=True
            ),
            "this is the row of the token after the repeated one; the repeated one itself asks": lambda maps, ids: (
                _induction(maps, ids, row=1)
            ),
        },
    ),
}
