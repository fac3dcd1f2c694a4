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
_CHOICES = (  # probabilities of the first choice, one of them on a border, and whether it came
    np.array([0.93, 0.05, 0.4, 0.71, 0.99, 0.33, 0.55, 0.12, 0.68, 0.97, 0.5, 1.0]),
    np.array([1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1], dtype=bool),
)
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


def _quiet_exp(x: float) -> float:
    with np.errstate(over="ignore"):
        return np.exp(x)


def _product_of_probabilities(surprises: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        return np.exp(-surprises).prod() ** (-1 / len(surprises))


def _softmax(z: np.ndarray, *, axis: int = -1) -> np.ndarray:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _careless_softmax(z: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def _one_hot(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.eye(z.shape[1])[y]


def _shares(z: np.ndarray, y: np.ndarray, epsilon: float) -> np.ndarray:
    return (1 - epsilon) * _one_hot(z, y) + epsilon / z.shape[1]


def _softened(z: np.ndarray, shares: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
    return ((_softmax(z) if p is None else p) - shares) / len(z)


def _smoothed(z: np.ndarray, y: np.ndarray, epsilon: float) -> np.ndarray:
    return _softened(z, _shares(z, y, epsilon))


def _calibration(
    p: np.ndarray, hit: np.ndarray, bins: int, *, of: Callable = np.mean, to_bin: Callable = np.floor, below: float = 2
) -> np.ndarray:
    """Mean probability and share of hits in each bin; the keywords are places for mistakes."""
    place = np.where(p < below, np.minimum(to_bin(p * bins), bins - 1), np.nan)
    rows = [[of(one[place == k]) if (place == k).any() else np.nan for one in (p, hit)] for k in range(bins)]
    return np.array(rows)


def _equal_counts(p: np.ndarray, hit: np.ndarray, bins: int) -> np.ndarray:
    groups = np.array_split(np.argsort(p), bins)
    return np.array([[p[group].mean(), hit[group].mean()] for group in groups])


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
            "these are characters; start from text.encode()": lambda t, m: _apply(
                [ord(letter) for letter in t], enumerate(m, start=256)
            ),
            "the second id of a merged pair is still there": lambda t, m: _encode(t, m, _overlapping),
            "each merge is applied once only; replace every occurrence": lambda t, m: _encode(t, m, _once),
            "apply the merges in the order in which they were learned": lambda t, m: _apply(
                t.encode(), reversed(list(enumerate(m, start=256)))
            ),
            "the first merge makes the id 256": lambda t, m: _apply(t.encode(), enumerate(m, start=257)),
            "the merge that was learned first goes first, wherever in the text it is": _encode_leftmost,
            "the merges are missing": lambda t, m: _encode(t, []),
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
            "these are the surprises; return their mean": _surprises,
            "this is the perplexity; return the mean surprise": lambda z, y: _quiet_exp(_surprises(z, y).mean()),
        },
    ),
    "smoothed_gradient": Exercise(
        right=_smoothed,
        cases=[(*case, 0.1 + 0.1 * i) for i, case in enumerate(_TARGETS)] + [(_Z[:2, :3], np.array([2, 0]), 0.0)],
        mistakes={
            "the truth is not smoothed: this is the gradient of the plain loss": lambda z, y, e: _smoothed(z, y, 0.0),
            "divide by the number of rows: the loss is a mean": lambda z, y, e: len(y) * _smoothed(z, y, e),
            "divide by the rows N, not by all N · V logits": lambda z, y, e: _smoothed(z, y, e) / z.shape[1],
            "the sign is wrong: what the model said, minus the shares": lambda z, y, e: -_smoothed(z, y, e),
            "these are the shares that it should reach; subtract them from what the model said": _shares,
            "what was true is not subtracted": lambda z, y, e: _softmax(z) / len(y),
            "ε is spread over all V tokens, the true one included": lambda z, y, e: _smoothed(
                z, y, e * z.shape[1] / (z.shape[1] - 1)
            ),
            "each token gets ε / V, not ε": lambda z, y, e: _softened(z, (1 - e) * _one_hot(z, y) + e),
            "the true token gets its part of ε as well: 1 − ε + ε / V": lambda z, y, e: _softened(
                z, np.maximum((1 - e) * _one_hot(z, y), e / z.shape[1])
            ),
            "the truth keeps 1 − ε of its share; here it keeps all": lambda z, y, e: _softened(
                z, _one_hot(z, y) + e / z.shape[1]
            ),
            "smooth what was true, not what the model said": lambda z, y, e: _softened(
                z, _one_hot(z, y), (1 - e) * _softmax(z) + e / z.shape[1]
            ),
            "large logits overflow: subtract the row's maximum before the exponential": lambda z, y, e: _softened(
                z, _shares(z, y, e), _careless_softmax(z)
            ),
            "the softmax goes along each row: axis=-1": lambda z, y, e: _softened(
                z, _shares(z, y, e), _softmax(z, axis=0)
            ),
        },
    ),
    "perplexity": Exercise(
        right=lambda s: np.exp(s.mean()),
        cases=[(np.array([0.1, 2.0, 7.5]),), (np.array([1.0, 1.0, 3.0, 20.0]),), (np.linspace(0, 9, 2000),)],
        mistakes={
            "this is the function above; which comes first, the mean or the exponential?": lambda s: np.exp(s).mean(),
            "this is the loss; take its exponential": lambda s: s.mean(),
            "the surprises are in nats: the base is e, not 2": lambda s: 2 ** s.mean(),
            "this is the perplexity of the whole text as one token; take the mean": lambda s: _quiet_exp(s.sum()),
            "the product of many probabilities is 0 on a long text; add up surprises": _product_of_probabilities,
            "the sign is wrong: surprises are already −log p": lambda s: np.exp(-s.mean()),
        },
    ),
    "first_loss": Exercise(
        right=math.log(32_000),
        tolerance=0.01,
        mistakes={
            "this is in bits; nats use the natural logarithm": math.log2(32_000),
            "this is the logarithm to base 10; nats use the natural one": math.log10(32_000),
            "this is the perplexity; the loss is its logarithm": 32_000,
            "this is the probability of each token; how surprising is it?": 1 / 32_000,
            "the sign is wrong: surprise is positive": -math.log(32_000),
            "this is for 32 tokens; there are 32,000": math.log(32),
        },
    ),
    "calibration": Exercise(
        right=_calibration,
        cases=[(*_CHOICES, 5), (*_CHOICES, 2), (np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), 2)],
        mistakes={
            "these are sums; take the mean in each bin": lambda *of: _calibration(*of, of=np.sum),
            "the columns have changed places: the mean of p comes first": lambda *of: _calibration(*of)[:, ::-1],
            "the bins are rows: (bins, 2)": lambda *of: _calibration(*of).T,
            "the bins stand in reverse; the least probable comes first": lambda *of: _calibration(*of)[::-1],
            "a bin has an equal width, not an equal number of cases": _equal_counts,
            "p = 1 belongs to the last bin": lambda p, hit, bins: _calibration(p, hit, bins, below=1),
            "a probability on a border belongs to the upper bin": lambda p, hit, bins: _calibration(
                p, hit, bins, to_bin=lambda x: np.maximum(np.ceil(x) - 1, 0)
            ),
            "round down to find the bin": lambda p, hit, bins: _calibration(p, hit, bins, to_bin=np.round),
            "give the mean of p in each bin, not the middle of the bin": lambda p, hit, bins: np.column_stack(
                [(np.arange(bins) + 0.5) / bins, _calibration(p, hit, bins)[:, 1]]
            ),
            "the second column is the share of hits among the bin's own cases": lambda p, hit, bins: (
                _calibration(p, hit, bins) * [1, 0] + _calibration(p, hit, bins, of=np.sum) / len(p) * [0, 1]
            ),
            "the second column is the share of hits, not of misses": lambda p, hit, bins: _calibration(p, ~hit, bins),
        },
    ),
}
