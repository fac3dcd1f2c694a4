"""Answers to the exercises of chapter 11, right ones and almost right ones."""

from collections.abc import Callable, Sequence

import numpy as np

from llama_minimal.reference import rms_norm_vjp
from llama_minimal.reference.parallel import order, simulate

Pair = tuple[np.ndarray, np.ndarray]
Numbers = Sequence[float]

_EPS = 1e-5


def row_case(rng: np.random.Generator, ranks: int = 2, tokens: int = 5) -> tuple:
    """Draw gradients at the output, parts of x and parts of the weights, each (P, …)."""
    d_out = rng.normal(size=(tokens, 4))
    return np.stack([d_out] * ranks), rng.normal(size=(ranks, tokens, 3)), rng.normal(size=(ranks, 4, 3))


def row_backward(d_outs: np.ndarray, xs: np.ndarray, ws: np.ndarray) -> Pair:
    """Return the gradients of a row-parallel layer."""
    d_ws = [d_out.T @ x for d_out, x in zip(d_outs, xs, strict=True)]
    return np.stack([d_out @ w for d_out, w in zip(d_outs, ws, strict=True)]), np.stack(d_ws)


def everywhere(parts: np.ndarray) -> np.ndarray:
    """All-reduce: every rank gets the sum."""
    return np.stack([parts.sum(axis=0)] * len(parts))


def row_then(change: Callable[[np.ndarray, np.ndarray], Pair]) -> Callable[..., Pair]:
    """Return an answer that changes the right one."""
    return lambda *case: change(*row_backward(*case))


def events(ahead: Callable[[int, int], int], *, last_first: bool = False) -> Callable[[int, int], np.ndarray]:
    """Orders in which a stage does so many forwards first, and then a backward and a forward in turn."""

    def answer(stages: int, micro_batches: int) -> np.ndarray:
        rows = []
        for stage in range(stages):
            forwards = list(range(1, micro_batches + 1))
            backwards = [-m for m in (reversed(forwards) if last_first else forwards)]
            n = min(max(ahead(stages, stage), 0), micro_batches)
            row = forwards[:n]
            for i, backward in enumerate(backwards):
                row += [backward, *forwards[n + i : n + i + 1]]
            rows.append(row)
        return np.array(rows)

    return answer


def one_f_one_b(stages: int, micro_batches: int) -> np.ndarray:
    """Return the order of 1F1B, forwards as m + 1, backwards as −(m + 1)."""
    signs = {"F": 1, "B": -1}
    return np.array([[signs[kind] * (m + 1) for kind, m in row] for row in order("1f1b", stages, micro_batches)])


def block_case(rng: np.random.Generator, ranks: int = 2) -> tuple:
    """Draw d_out, x, the weight of the norm, w1s and w2s."""
    sizes = ((5, 4), (5, 4), (4,), (ranks, 3, 4), (ranks, 4, 3))  # d_out, x, the norm's weight, w1s, w2s
    return tuple(rng.normal(size=size) for size in sizes)


def into_norm(
    d_out: np.ndarray, x: np.ndarray, weight: np.ndarray, w1s: np.ndarray, w2s: np.ndarray, *, bent: bool = True
) -> np.ndarray:
    """Each rank's part of the gradient behind the norm, (P, N, D)."""
    normed, _ = rms_norm_vjp(x, weight, _EPS)
    masks = [(normed @ w1.T > 0) if bent else 1 for w1 in w1s]
    return np.stack([(d_out @ w2 * mask) @ w1 for w1, w2, mask in zip(w1s, w2s, masks, strict=True)])


def block(total: Callable[[np.ndarray], np.ndarray], *, bent: bool = True) -> Callable[..., Pair]:
    """Return the gradients at x and of the weight of the norm, from what ``total`` makes of the ranks' parts."""

    def answer(d_out: np.ndarray, x: np.ndarray, weight: np.ndarray, w1s: np.ndarray, w2s: np.ndarray) -> Pair:
        d_normed = total(into_norm(d_out, x, weight, w1s, w2s, bent=bent))
        return rms_norm_vjp(x, weight, _EPS)[1](d_normed)

    return answer


def half_summed(*, at_x: int | None = None, of_weight: int | None = None) -> Callable[..., Pair]:
    """Return gradients of which one is a single rank's part, and the other the sum."""

    def answer(*inputs: np.ndarray) -> Pair:
        ranks = (at_x, of_weight)
        each = [block(lambda parts, r=r: parts.sum(axis=0) if r is None else parts[r])(*inputs) for r in ranks]
        return each[0][0], each[1][1]

    return answer


def span(forward: Numbers, backward: Numbers, micro_batches: int) -> float:
    """Return how long GPipe takes."""
    rest = micro_batches - 1
    return sum(forward) + rest * max(forward) + sum(backward) + rest * max(backward)


def span_of_1f1b(forward: Numbers, backward: Numbers, micro_batches: int) -> float:
    """Return how long 1F1B takes."""
    return simulate(order("1f1b", len(forward), micro_batches), list(forward), list(backward)).span


def span_case(rng: np.random.Generator) -> tuple:
    """Draw the costs of some stages."""
    stages = int(rng.integers(2, 6))
    forward, backward = rng.integers(1, 9, size=(2, stages)).astype(float).tolist()
    return forward, backward, int(rng.integers(2, 9))


def both(forward: Numbers, backward: Numbers) -> list[float]:
    """Add up the costs of forward and backward."""
    return [f + b for f, b in zip(forward, backward, strict=True)]


def logits(rng: np.random.Generator, ranks: int = 3) -> tuple:
    """Draw logits in parts, with two ties."""
    parts = rng.normal(size=(ranks, 6, 4))
    parts[-1, 0, 2] = 9.0
    parts[0, 1, 3] = 8.0
    parts[0, 2, 2] = parts[-1, 2, 1] = 7.0  # a tie between ranks
    parts[1, 3, [1, 3]] = 6.0  # and one within a rank
    return (parts,)


def greedy(parts: np.ndarray) -> np.ndarray:
    """Return the token with the largest logit."""
    return np.concatenate(list(parts), axis=-1).argmax(axis=-1)


def winner(parts: np.ndarray) -> np.ndarray:
    """Return the rank with the largest logit."""
    return parts.max(axis=-1).argmax(axis=0)  # (N,)


def local(parts: np.ndarray) -> np.ndarray:
    """Return the place of the largest logit in its rank."""
    return np.take_along_axis(parts.argmax(axis=-1), winner(parts)[None], axis=0)[0]


def last_of_equals(parts: np.ndarray) -> np.ndarray:
    """Return the last of the tokens with the largest logit."""
    whole = np.concatenate(list(parts), axis=-1)
    return whole.shape[-1] - 1 - whole[:, ::-1].argmax(axis=-1)


def last_rank_of_equals(parts: np.ndarray) -> np.ndarray:
    """Return the first token of the last rank with the largest logit."""
    rank = len(parts) - 1 - parts[::-1].max(axis=-1).argmax(axis=0)
    return rank * parts.shape[-1] + np.take_along_axis(parts.argmax(axis=-1), rank[None], axis=0)[0]


def last_place_of_equals(parts: np.ndarray) -> np.ndarray:
    """Return the last token of the first rank with the largest logit."""
    rank, width = winner(parts), parts.shape[-1]
    place = width - 1 - parts[..., ::-1].argmax(axis=-1)
    return rank * width + np.take_along_axis(place, rank[None], axis=0)[0]


def neighbors(
    rank: int, pipeline: int, data: int, tensor: int, *, order: str = "pdt", step: int = 1, mode: str = "wrap"
) -> list[int]:
    """Return the next rank along each dimension, where the first letter of ``order`` varies slowest."""
    sizes = {"p": pipeline, "d": data, "t": tensor}
    shape = [sizes[name] for name in order]
    place = np.unravel_index(rank, shape)
    found = {}
    for axis, name in enumerate(order):
        moved = [int(i) + step * (other == axis) for other, i in enumerate(place)]
        found[name] = int(np.ravel_multi_index(moved, shape, mode=mode))
    return [found["p"], found["d"], found["t"]]


def without_a_ring(rank: int, pipeline: int, data: int, tensor: int) -> list[int]:
    """Add the strides, and never come round."""
    return [rank + data * tensor, rank + tensor, rank + 1]


def around_all(rank: int, pipeline: int, data: int, tensor: int) -> list[int]:
    """Come round at the last of all ranks, and not at the end of the dimension."""
    return [other % (pipeline * data * tensor) for other in without_a_ring(rank, pipeline, data, tensor)]


def mesh_case(rng: np.random.Generator) -> tuple:
    """Draw a rank and a mesh."""
    sizes = rng.permutation([2, 3, 4]).tolist()
    return int(rng.integers(0, 24)), *sizes
