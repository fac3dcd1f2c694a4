"""Answers to the exercises of chapter 15, right ones and almost right ones."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def pair_case(rng: np.random.Generator, n_in: int = 5, i: int = 1, j: int = 3) -> tuple:
    """Draw a row of weights, the Gram matrix of inputs that go together, and two places."""
    x = rng.normal(size=(4 * n_in, n_in)) @ rng.normal(size=(n_in, n_in))
    return rng.normal(size=n_in), x.T @ x / len(x), i, j


def drawn_pair(rng: np.random.Generator) -> tuple:
    """Draw a case with any two places."""
    n_in = int(rng.integers(3, 7))
    i, j = rng.permutation(n_in)[:2].tolist()
    return pair_case(rng, n_in, i, j)


def pair_cost(w: Array, gram: Array, i: int, j: int) -> float:
    """Return how far an output moves at least when two of its weights become 0 and the others make up for it."""
    gone = [i, j]
    inverse = np.linalg.inv(gram)[np.ix_(gone, gone)]
    return float(w[gone] @ np.linalg.solve(inverse, w[gone]))


def pair_by(matrix: Callable[[Array, list[int]], Array]) -> Callable[..., float]:
    """Return an answer that puts another matrix between the two weights."""
    return lambda w, gram, i, j: float(w[[i, j]] @ matrix(gram, [i, j]) @ w[[i, j]])


def one_by_one(w: Array, gram: Array, i: int, j: int) -> float:
    """Return the sum of the costs of each alone."""
    diagonal = np.diag(np.linalg.inv(gram))
    return float(w[i] ** 2 / diagonal[i] + w[j] ** 2 / diagonal[j])


def bias_case(rng: np.random.Generator, n: int = 7, n_out: int = 3, n_in: int = 4) -> tuple:
    """Draw weights, and inputs whose means are not zero."""
    return rng.normal(size=(n_out, n_in)), rng.normal(size=(n, n_in)) + 3 * rng.normal(size=n_in)


def bias_score(w: Array, x: Array) -> Array:
    """Return how far an output moves without a weight when a constant may be added to it."""
    return np.abs(w) * np.linalg.norm(x - x.mean(axis=0), axis=0)


def packed_case(rng: np.random.Generator, n: int = 3, n_out: int = 4, groups: int = 2) -> tuple:
    """Draw what is kept of a 2:4 matrix, where in its group it stood, and inputs."""
    places = np.stack([np.sort(rng.permutation(4)[:2]) for _ in range(n_out * groups)]).reshape(n_out, 2 * groups)
    return rng.normal(size=(n_out, 2 * groups)), places, rng.normal(size=(n, 4 * groups))


def packed_product(values: Array, places: Array, x: Array) -> Array:
    """Return x·Wᵀ from the two kept values of every four and their places."""
    columns = 4 * (np.arange(values.shape[1]) // 2) + places
    return (x[:, columns] * values).sum(axis=-1)


def packed_by(columns: Callable[[Array], Array]) -> Callable[..., Array]:
    """Return an answer that looks the inputs up elsewhere."""
    return lambda values, places, x: (x[:, columns(places) % x.shape[1]] * values).sum(axis=-1)


def drift_case(rng: np.random.Generator, t: int = 10, steps: int = 4) -> tuple:
    """Draw AdamW's two moments after t steps, how many steps follow, and its settings."""
    return float(rng.normal()), float(rng.uniform(0.1, 2)), t, steps, 0.01, 0.9, 0.95


def drift(m: float, v: float, t: int, steps: int, lr: float, beta1: float, beta2: float) -> float:
    """Return where a weight of 0 is after steps without a gradient."""
    return drift_by()(m, v, t, steps, lr, beta1, beta2)


def drift_by(
    *, first: int = 1, corrected: str = "t", fades: str = "mv", root: bool = True, sign: float = -1.0
) -> Callable[..., float]:
    """Return an answer that has a part of AdamW otherwise.

    Args:
        first: number of the first step.
        corrected: "t" counts all steps for the correction of the moments, "k" the new ones, "" none.
        fades: which moments fade.
    """

    def answer(m: float, v: float, t: int, steps: int, lr: float, beta1: float, beta2: float) -> float:
        w = 0.0
        for k in range(first, first + steps):
            count = {"t": t + k, "k": k, "": np.inf}[corrected] or 1
            mean = m * (beta1**k if "m" in fades else 1) / (1 - beta1**count)
            square = v * (beta2**k if "v" in fades else 1) / (1 - beta2**count)
            w += sign * lr * mean / (np.sqrt(square) if root else square)
        return float(w)

    return answer


def slopes_case(rng: np.random.Generator, n: int = 5, heads: int = 3, width: int = 2) -> tuple:
    """Draw the outputs of heads, and the gradient of the loss for them."""
    return rng.normal(size=(n, heads, width)), rng.normal(size=(n, heads, width))


def slopes(a: Array, d_a: Array) -> Array:
    """Return by how much the loss changes without each head, to first order."""
    return -(a * d_a).sum(axis=(0, 2))
