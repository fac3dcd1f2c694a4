"""Answers to the exercises of chapter 22 on clocks and chunks, right ones and almost right ones."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise

Array = np.ndarray
_RNG = np.random.default_rng(22)


def clocks(n: float, b: float, batch: int, context: int, kv_bytes: float, rate: float, flops: float) -> float:
    """Return the seconds of a step: the slower of reading weights and caches, and of computing."""
    return max((b * n + batch * context * kv_bytes) / rate, 2 * n * batch / flops)


def clocks_case(rng: np.random.Generator) -> tuple:
    """Draw a model, a batch and a machine: one of the two clocks is the slower, either as often."""
    batch = int(rng.integers(2, 400))
    return float(rng.uniform(1e9, 7e10)), 2.0, batch, int(rng.integers(200, 4000)), 1e5, 2e12, 3e14


def z_loss(x: Array, w: Array, targets: Array, coefficient: float, rows: int) -> tuple[Array, Array]:
    """Return dx and dw of the sum of −log p(y) + c·(log Z)², of ``rows`` tokens at a time."""
    return z_loss_by()(x, w, targets, coefficient, rows)


def z_loss_by(
    *, slope: Callable[[Array], Array] = lambda log_z: 2 * log_z, whole: Callable[[Array], Array] = lambda p: p
) -> Callable[..., tuple[Array, Array]]:
    """Return an answer whose penalty has another slope, or goes another way into the logits."""

    def answer(x: Array, w: Array, targets: Array, coefficient: float, rows: int) -> tuple[Array, Array]:
        dx, dw = np.empty_like(x), np.zeros_like(w)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            z = x[part] @ w.T
            log_z = np.log(np.exp(z).sum(axis=-1, keepdims=True))
            p = np.exp(z - log_z)
            d = p - np.eye(len(w))[targets[part]] + coefficient * slope(log_z) * whole(p)
            dx[part], dw = d @ w, dw + d.T @ x[part]
        return dx, dw

    return answer


def last_chunk(x: Array, w: Array, targets: Array, coefficient: float, rows: int) -> tuple[Array, Array]:
    """Keep only what the last chunk says of w."""
    start = (len(x) - 1) // rows * rows
    dx, _ = z_loss(x, w, targets, coefficient, rows)
    return dx, z_loss(x[start:], w, targets[start:], coefficient, rows)[1]


def z_loss_case(rng: np.random.Generator, n: int = 7, n_words: int = 5, rows: int = 3) -> tuple:
    """Draw hidden states, an output layer, targets, a coefficient and the size of a chunk."""
    return rng.normal(size=(n, 4)), rng.normal(size=(n_words, 4)), rng.integers(n_words, size=n), 0.3, rows


def mean_of(pair: tuple[Array, Array], n: int) -> tuple[Array, Array]:
    """Divide both by the number of tokens."""
    return pair[0] / n, pair[1] / n


EXERCISES_SCALING = {
    "step_seconds": Exercise(
        right=clocks,
        cases=[
            (7e9, 2.0, 1, 1000, 5e5, 2e12, 3e14),
            (7e9, 0.5, 64, 2000, 5e5, 2e12, 3e14),
            (7e10, 2.0, 2048, 100, 3e5, 3e12, 1e15),  # half its arithmetic still outlasts the reading
            (1e9, 2.0, 32, 50, 4e6, 2e12, 3e14),  # the cache of the newest token alone can be seen
        ],
        tolerance=1e-9,
        draw=clocks_case,
        mistakes={
            "the two clocks run at the same time: the slower one counts, not the sum": lambda n, b, B, t, kv, r, f: (
                (b * n + B * t * kv) / r + 2 * n * B / f
            ),
            "the faster clock is taken; a step is not done before the slower one": lambda n, b, B, t, kv, r, f: min(
                (b * n + B * t * kv) / r, 2 * n * B / f
            ),
            "each text has a cache of its own: batch times": lambda n, b, B, t, kv, r, f: max(
                (b * n + t * kv) / r, 2 * n * B / f
            ),
            "the cache of every token before is read, not only the newest one's": lambda n, b, B, t, kv, r, f: max(
                (b * n + B * kv) / r, 2 * n * B / f
            ),
            "the caches are missing": lambda n, b, B, t, kv, r, f: max(b * n / r, 2 * n * B / f),
            "the weights are read once for all texts, not once for each": lambda n, b, B, t, kv, r, f: max(
                B * (b * n + t * kv) / r, 2 * n * B / f
            ),
            "a multiplication and its addition are two operations": lambda n, b, B, t, kv, r, f: max(
                (b * n + B * t * kv) / r, n * B / f
            ),
            "each text is computed: the arithmetic grows with the batch": lambda n, b, B, t, kv, r, f: max(
                (b * n + B * t * kv) / r, 2 * n / f
            ),
            "these are tokens per second; asked are the seconds of a step": lambda n, b, B, t, kv, r, f: (
                B / clocks(n, b, B, t, kv, r, f)
            ),
            "the bytes are divided by 8: b is given in bytes, not in bits": lambda n, b, B, t, kv, r, f: max(
                (b * n / 8 + B * t * kv) / r, 2 * n * B / f
            ),
        },
    ),
    "z_loss": Exercise(
        right=z_loss,
        cases=[z_loss_case(_RNG), z_loss_case(_RNG, 6, 9, 2), z_loss_case(_RNG, 5, 4, 8)],
        draw=lambda rng: z_loss_case(rng, int(rng.integers(3, 9)), int(rng.integers(2, 7)), int(rng.integers(1, 5))),
        mistakes={
            "the gradient of a square is twice what is squared": z_loss_by(slope=lambda log_z: log_z),
            "this is the gradient of c·log Z, without a square": z_loss_by(slope=np.ones_like),
            "the square is kept, and it should be gone: the slope of u² is 2u": z_loss_by(slope=np.square),
            "log Z changes with every logit, by its probability; here it changes by 1 with each": z_loss_by(
                whole=np.ones_like
            ),
            "the penalty is not in it: this is the gradient of the loss alone": z_loss_by(slope=np.zeros_like),
            "the sign of the penalty is turned: a large log Z is to become smaller": z_loss_by(
                slope=lambda log_z: -2 * log_z
            ),
            "dw is that of the last chunk; add up all": last_chunk,
            "both are divided by the number of tokens; asked is the gradient of the sum": lambda x, w, *rest: mean_of(
                z_loss(x, w, *rest), len(x)
            ),
            "dx and dw have changed places": lambda *case: z_loss(*case)[::-1],
            "the target's 1 is not taken away: d is p minus one-hot, and the penalty's part": lambda x, w, y, c, rows: (
                tuple(
                    a + b
                    for a, b in zip(
                        z_loss(x, w, y, c, rows),
                        (w[y], np.eye(len(w))[y].T @ x),
                        strict=True,
                    )
                )
            ),
        },
    ),
}
