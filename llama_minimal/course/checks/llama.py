"""Exercises of chapter 06, LLaMA."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise

_SIZES = [(4096, 32, 11008, 32000), (64, 4, 176, 512), (8, 1, 16, 10)]
_DAYS = 6 * 6.7e9 * 1e12 / (1000 * 150e12) / 86_400


def _parameters(dim: int, n_layers: int, hidden_dim: int, vocab_size: int) -> int:
    return 2 * vocab_size * dim + n_layers * (4 * dim**2 + 3 * dim * hidden_dim + 2 * dim) + dim


def _block_cases() -> list[tuple]:
    """Return a stream, and four functions that are easy to tell apart."""
    x = np.random.default_rng(6).normal(size=(2, 3, 4))
    return [(x, np.tanh, np.sin, lambda h: 2 * h + 1, lambda h: 3 - h)]


def _tied(*, output: bool = True, lookup: bool = True, lost: bool = False) -> Callable[..., np.ndarray]:
    """The gradient of a tied matrix, or of one of its two uses; ``lost``: of a repeated token only the last counts."""

    def answer(tokens: np.ndarray, d_x: np.ndarray, normed: np.ndarray, d_logits: np.ndarray) -> np.ndarray:
        gradient = d_logits.T @ normed if output else np.zeros((d_logits.shape[1], d_x.shape[1]))
        if lost:
            gradient[tokens] += d_x
        elif lookup:
            np.add.at(gradient, tokens, d_x)
        return gradient

    return answer


_RNG = np.random.default_rng(7)
_TIED = [(np.array([1, 4, 1, 0]), *(_RNG.normal(size=shape) for shape in ((4, 3), (4, 3), (4, 5))))]

EXERCISES = {
    "parameters": Exercise(
        right=_parameters,
        cases=_SIZES,
        mistakes={
            "the final norm is missing": lambda dim, n_layers, hidden_dim, vocab_size: (
                _parameters(dim, n_layers, hidden_dim, vocab_size) - dim
            ),
            "all norms are missing": lambda dim, n_layers, hidden_dim, vocab_size: (
                _parameters(dim, n_layers, hidden_dim, vocab_size) - dim * (2 * n_layers + 1)
            ),
            "attention has four matrices: wq, wk, wv and wo": lambda dim, n_layers, hidden_dim, vocab_size: (
                _parameters(dim, n_layers, hidden_dim, vocab_size) - n_layers * dim**2
            ),
            "each layer has two norms": lambda dim, n_layers, hidden_dim, vocab_size: (
                _parameters(dim, n_layers, hidden_dim, vocab_size) - n_layers * dim
            ),
            "the feed-forward layer has three matrices, not two": lambda dim, n_layers, hidden_dim, vocab_size: (
                _parameters(dim, n_layers, hidden_dim, vocab_size) - n_layers * dim * hidden_dim
            ),
            "the output matrix is counted once with the embeddings; untied, there are two": (
                lambda dim, n_layers, hidden_dim, vocab_size: (
                    _parameters(dim, n_layers, hidden_dim, vocab_size) - dim * vocab_size
                )
            ),
        },
    ),
    "block": Exercise(
        right=lambda x, norm1, norm2, attend, think: (h := x + attend(norm1(x))) + think(norm2(h)),
        cases=_block_cases(),
        mistakes={
            "the sum starts from x again: what attention added is lost": lambda x, norm1, norm2, attend, think: (
                x + think(norm2(x + attend(norm1(x))))
            ),
            "the feed-forward layer reads the stream from before attention": lambda x, norm1, norm2, attend, think: (
                x + attend(norm1(x)) + think(norm2(x))
            ),
            "norm2 reads what attention added, and not the stream": lambda x, norm1, norm2, attend, think: (
                x + (h := attend(norm1(x))) + think(norm2(h))
            ),
            "the output of attention is added twice": lambda x, norm1, norm2, attend, think: (
                (h := x + attend(norm1(x))) + attend(norm1(x)) + think(norm2(h))
            ),
            "what is added to has been normalized": lambda x, norm1, norm2, attend, think: (
                (h := norm1(x) + attend(norm1(x))) + think(norm2(h))
            ),
        },
    ),
    "days": Exercise(
        right=round(_DAYS, 1),
        mistakes={
            "this counts 2N, the forward pass alone; training takes 6N": round(_DAYS / 3, 1),
            "this is in hours": round(_DAYS * 24, 1),
            "this is in seconds; a day has 86,400": round(_DAYS * 86_400, 1),
            "this is for one GPU; there are 1,000": round(_DAYS * 1000, 1),
            "this is right; now round to one decimal": _DAYS,
        },
        tolerance=1e-9,
    ),
    "tied_gradient": Exercise(
        right=_tied(),
        cases=_TIED,
        mistakes={
            "the part from the lookup is missing": _tied(lookup=False),
            "the part from the output is missing": _tied(output=False),
            "a token that occurs twice gets one gradient only: use np.add.at": _tied(lost=True),
        },
    ),
}
