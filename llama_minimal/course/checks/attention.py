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
_HEADS = [
    (_normal(2, H, 3, 8), _normal(2, K, 3, 8), _normal(2, K, 3, 8))  #
    for H, K in ((4, 2), (6, 2), (3, 1))
]


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


def _grouped(share: Callable[[np.ndarray, int], np.ndarray]) -> Attend:
    def answer(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        groups = q.shape[1] // k.shape[1]
        return attention(q, share(k, groups), share(v, groups))

    return answer


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


_WINDOWS = [(5, 2), (4, 1), (3, 3), (6, 10)]


def _window(n: int, width: int, *, first: int = 0, reach: int = 0, both: bool = False) -> np.ndarray:
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    return np.abs(distance) < width if both else (distance >= first) & (distance < width + reach)


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
    "share_heads": Exercise(
        right=_grouped(lambda kv, groups: np.repeat(kv, groups, axis=1)),
        cases=_HEADS,
        mistakes={
            "the kv heads are tiled (0 1 0 1), so query head 1 reads kv head 1; LLaMA repeats them (0 0 1 1)": _grouped(
                lambda kv, groups: np.tile(kv, (1, groups, 1, 1))
            ),
            "all query heads read kv head 0": _grouped(
                lambda kv, groups: np.repeat(kv[:, :1], groups * kv.shape[1], axis=1)
            ),
            "the scores are not divided by √Dh": lambda q, k, v: _grouped(lambda kv, n: np.repeat(kv, n, axis=1))(
                q * np.sqrt(q.shape[-1]), k, v
            ),
        },
    ),
    "sliding_window": Exercise(
        right=_window,
        cases=_WINDOWS,
        mistakes={
            "the window is one token too wide: a token and width − 1 before it": lambda n, width: _window(
                n, width, reach=1
            ),
            "the window is one token too narrow: a token and width − 1 before it": lambda n, width: _window(
                n, width, reach=-1
            ),
            "a token does not see itself": lambda n, width: _window(n, width, first=1),
            "the window looks into the future, too": lambda n, width: _window(n, width, both=True),
            "every token sees the whole future: the distance must be 0 or more": lambda n, width: _window(
                n, width, first=-n
            ),
            "it is transposed: rows are queries, columns are keys": lambda n, width: _window(n, width).T,
            "nothing is cut off: this is the causal mask": lambda n, width: _window(n, n),
        },
    ),
    "kv_bytes": Exercise(
        right=2 * 80 * 8 * 128 * 4096 * 2,
        tolerance=1e-10,
        mistakes={
            "this is half of it: either the values are missing, or the 2 bytes of a bf16": 80 * 8 * 128 * 4096 * 2,
            "this is a quarter of it: keys and values, of 2 bytes a number": 80 * 8 * 128 * 4096,
            "this is one layer; there are 80": 2 * 8 * 128 * 4096 * 2,
            "this is right to three digits; give it to the byte": 1.34e9,
            "this is for 64 kv heads; grouped queries need 8": 2 * 80 * 64 * 128 * 4096 * 2,
        },
    ),
}
