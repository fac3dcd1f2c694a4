"""Exercises of chapter 06, LLaMA."""

from collections.abc import Callable, Sequence

import numpy as np

from llama_minimal.course.exercises import Exercise

Layers = Sequence[Callable[[np.ndarray], np.ndarray]]

_SIZES = [  # dim, layers, heads, kv heads, ffn width, vocabulary, tied
    (4096, 32, 32, 32, 11008, 32000, False),
    (2048, 16, 32, 8, 8192, 128256, True),
    (64, 4, 4, 2, 176, 512, False),
    (12, 1, 6, 1, 16, 10, True),
    (96, 3, 12, 4, 272, 700, False),
    (40, 5, 5, 5, 48, 90, True),
]
_OF_ONE_GPU = 6 * 65.2e9 * 380  # operations per second
_UTILIZATION = _OF_ONE_GPU / 312e12


def _parameters(
    dim: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    hidden_dim: int,
    vocab_size: int,
    tied: bool,
    *,
    square: float = 2,
    kv: float = 2,
    ffn: int = 3,
    norms: int = 2,
    last: int = 1,
    ends: Callable[[bool], int] = lambda tied: 1 if tied else 2,
    kv_dim: Callable[[int, int, int], int] = lambda dim, n_heads, n_kv_heads: dim // n_heads * n_kv_heads,
) -> int:
    """Count parameters; the keywords say how many matrices and norms of each kind there are."""
    attention = square * dim**2 + kv * dim * kv_dim(dim, n_heads, n_kv_heads)
    layer = attention + ffn * dim * hidden_dim + norms * dim
    return ends(tied) * vocab_size * dim + n_layers * layer + last * dim


def _sizes(rng: np.random.Generator) -> tuple:
    kv_heads, group, head_dim, n_layers, *ends = rng.integers(1, 9, size=6).tolist()
    return kv_heads * group * head_dim, n_layers, kv_heads * group, kv_heads, *ends, bool(rng.integers(2))


def _counting(**wrong: object) -> Callable[..., int]:
    return lambda *sizes: _parameters(*sizes, **wrong)


def _streams(x: np.ndarray, layers: Layers) -> np.ndarray:
    streams = [x]
    for layer in layers:
        streams.append(streams[-1] + layer(streams[-1]))
    return np.stack(streams)


def _chained(x: np.ndarray, layers: Layers) -> np.ndarray:
    outputs = [x]
    for layer in layers:
        outputs.append(layer(outputs[-1]))
    return np.stack(outputs)


def _layer_cases() -> list[tuple]:
    x = np.random.default_rng(6).normal(size=(3, 4))
    return [(x, [np.tanh, lambda h: 2 * h + 1, np.sin]), (x[:1], [np.cos])]


def _tied(*, output: bool = True, lookup: str = "added") -> Callable[..., np.ndarray]:
    """The gradient of a tied matrix, with what is done about its use as a table."""

    def answer(tokens: np.ndarray, d_x: np.ndarray, normed: np.ndarray, d_logits: np.ndarray) -> np.ndarray:
        gradient = d_logits.T @ normed if output else np.zeros((d_logits.shape[1], d_x.shape[1]))
        if lookup == "last":
            gradient[tokens] += d_x
        elif lookup == "instead":
            gradient[tokens] = d_x
        elif lookup == "added":
            np.add.at(gradient, tokens, d_x)
        return gradient

    return answer


def _tied_cases() -> list[tuple]:
    """Return tokens, two of them equal and none the last of the vocabulary, with three gradients."""
    rng = np.random.default_rng(7)
    tokens = np.array([1, 4, 1, 0])
    return [(tokens, *(rng.normal(size=shape) for shape in ((4, 3), (4, 3), (4, 7))))]


def _norm(x: np.ndarray, eps: float, *, axis: int | None = -1) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=axis, keepdims=True) + eps)


def _without(parts: list, left_out: int, weight: np.ndarray, eps: float, output: np.ndarray) -> np.ndarray:
    return (weight * _norm(_rest(parts, left_out), eps)) @ output.T


def _rest(parts: list, left_out: int) -> np.ndarray:
    return sum(part for place, part in enumerate(parts) if place != left_out)


def _frozen(parts: list, left_out: int, weight: np.ndarray, eps: float, output: np.ndarray) -> np.ndarray:
    whole = sum(parts)
    return (weight * _rest(parts, left_out) * _norm(whole, eps) / whole) @ output.T


def _centered(parts: list, left_out: int, weight: np.ndarray, eps: float, output: np.ndarray) -> np.ndarray:
    rest = _rest(parts, left_out)
    return (weight * _norm(rest - rest.mean(axis=-1, keepdims=True), eps)) @ output.T


def _eps_outside(parts: list, left_out: int, weight: np.ndarray, eps: float, output: np.ndarray) -> np.ndarray:
    rest = _rest(parts, left_out)
    return (weight * rest / (np.sqrt((rest**2).mean(axis=-1, keepdims=True)) + eps)) @ output.T


def _part_cases() -> list[tuple]:
    rng = np.random.default_rng(8)
    parts, weight, output = rng.normal(size=(5, 3, 4)), rng.normal(size=4), rng.normal(size=(6, 4))
    return [(list(parts), place, weight, 0.1, output) for place in (1, 2, 4)]


EXERCISES = {
    "parameters": Exercise(
        right=_parameters,
        cases=_SIZES,
        draw=_sizes,
        mistakes={
            "the final norm is missing": _counting(last=0),
            "all norms are missing": _counting(norms=0, last=0),
            "each layer has two norms": _counting(norms=1),
            "the norms of the layers are missing": _counting(norms=0),
            "attention has four matrices: wq, wk, wv and wo": _counting(square=1),
            "wk and wv are two matrices; one of them is missing": _counting(kv=1),
            "wk and wv are smaller than wq where kv heads are fewer": _counting(kv_dim=lambda dim, *_: dim),
            "a kv head is as wide as any head: dim // n_heads": _counting(
                kv_dim=lambda dim, _, kv_heads: dim // kv_heads
            ),
            "wk and wv have n_kv_heads · head_dim rows, not n_kv_heads": _counting(
                kv_dim=lambda _, __, kv_heads: kv_heads
            ),
            "wq and wo are always square": _counting(square=0, kv=4),
            "the feed-forward layer has three matrices, not two": _counting(ffn=2),
            "tied, there is one matrix for both ends; this counts two": _counting(ends=lambda tied: 2),
            "untied, there are two matrices for the ends; this counts one": _counting(ends=lambda tied: 1),
            "tied and untied have changed places": _counting(ends=lambda tied: 2 if tied else 1),
            "the two ends are missing: vocab_size · dim each": _counting(ends=lambda tied: 0),
        },
    ),
    "streams": Exercise(
        right=_streams,
        cases=_layer_cases(),
        mistakes={
            "all streams are the same: x += … changes the array that the list already holds": lambda x, layers: (
                np.stack([_streams(x, layers)[-1]] * (len(layers) + 1))
            ),
            "these are what the layers add; add it to the stream": lambda x, layers: np.stack(
                [x, *(layer(stream) for layer, stream in zip(layers, _streams(x, layers), strict=False))]
            ),
            "each layer reads the stream before it, not x": lambda x, layers: np.cumsum(
                [x, *(layer(x) for layer in layers)], axis=0
            ),
            "each layer adds to the stream before it, not to x": lambda x, layers: np.stack(
                [x, *(x + layer(stream) for layer, stream in zip(layers, _streams(x, layers), strict=False))]
            ),
            "the layers read each other's output without the stream": _chained,
            "the first stream is x as it was given": lambda x, layers: _streams(x, layers)[1:],
            "the last stream is missing": lambda x, layers: _streams(x, layers)[:-1],
            "this is the last stream alone; return all of them": lambda x, layers: _streams(x, layers)[-1],
            "the streams stand in reverse; the first is x": lambda x, layers: _streams(x, layers)[::-1],
        },
    ),
    "utilization": Exercise(
        right=_UTILIZATION,
        tolerance=0.01,
        mistakes={
            "this counts 2N, the forward pass alone; training takes 6N": _UTILIZATION / 3,
            "this counts 4N, the backward pass alone; training takes 6N": _UTILIZATION * 2 / 3,
            "this counts N; training takes 6N": _UTILIZATION / 6,
            "this is in percent; give a number between 0 and 1": 100 * _UTILIZATION,
            "this is upside down: what is done, over what could be done": 1 / _UTILIZATION,
            "these are operations per second; divide by what the GPU could do": _OF_ONE_GPU,
            "these are 10¹² operations per second; divide by what the GPU could do": _OF_ONE_GPU / 1e12,
            "380 tokens per second are one GPU's, and so are the operations": 2048 * _UTILIZATION,
            "divided by all GPUs; 380 tokens per second are one GPU's": _UTILIZATION / 2048,
        },
    ),
    "tied_gradient": Exercise(
        right=_tied(),
        cases=_tied_cases(),
        mistakes={
            "the part from the lookup is missing": _tied(lookup="missing"),
            "the part from the output is missing": _tied(output=False),
            "a token that occurs twice gets one gradient only: use np.add.at": _tied(lookup="last"),
            "rows that were looked up have lost their part from the output: add, do not assign": _tied(
                lookup="instead"
            ),
            "both: the part from the output is missing, and a repeated token counts once": _tied(
                output=False, lookup="last"
            ),
            "the axes are swapped: d_logits.T @ normed": lambda tokens, d_x, normed, d_logits: (
                _tied()(tokens, d_x, normed, d_logits).T
            ),
            "two uses add up; do not average them": lambda *of: _tied()(*of) / 2,
            "a row for each token of the vocabulary, not only up to the largest that occurs": lambda tokens, *of: (
                _tied()(tokens, *of)[: tokens.max() + 1]
            ),
        },
    ),
    "logits_without": Exercise(
        right=_without,
        cases=_part_cases(),
        mistakes={
            "nothing is left out": lambda parts, left_out, *of: _without(parts, len(parts), *of),
            "this part alone is kept; leave it out and keep the others": lambda parts, left_out, *of: _without(
                [parts[left_out]], 1, *of
            ),
            "later parts are left out as well": lambda parts, left_out, *of: _without(parts[:left_out], left_out, *of),
            "the norm divides by the size of what is left, not of the whole stream": _frozen,
            "the last norm is missing": lambda parts, left_out, weight, eps, output: _rest(parts, left_out) @ output.T,
            "the norm's weight is missing": lambda parts, left_out, weight, eps, output: _without(
                parts, left_out, np.ones_like(weight), eps, output
            ),
            "eps is missing": lambda parts, left_out, weight, eps, output: _without(
                parts, left_out, weight, 0.0, output
            ),
            "eps stands under the root": _eps_outside,
            "divide by the root of the mean square, not of the sum": lambda parts, left_out, weight, eps, output: (
                _without(parts, left_out, weight / weight.size**0.5, eps / weight.size, output)
            ),
            "each token has its own root mean square": lambda parts, left_out, weight, eps, output: (
                (weight * _norm(_rest(parts, left_out), eps, axis=None)) @ output.T
            ),
            "RMSNorm does not subtract the mean": _centered,
            "the logits of the part were subtracted; but the norm is not linear": lambda parts, left_out, *of: (
                _without(parts, len(parts), *of) - _without([parts[left_out]], 1, *of)
            ),
            "these are streams; multiply by output.T": lambda parts, left_out, weight, eps, output: (
                weight * _norm(_rest(parts, left_out), eps)
            ),
        },
    ),
}
