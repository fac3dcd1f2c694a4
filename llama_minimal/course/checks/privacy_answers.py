"""Exercises of chapter 20 about privacy, with right answers and almost right ones."""

import numpy as np

from llama_minimal.course.exercises import Exercise

Array = np.ndarray

_RNG = np.random.default_rng(20)


def sample_case(rng: np.random.Generator, n: int = 12, place: int = 3) -> tuple:
    """Draw scores of candidates, and a secret's that is as likely as one of them; place −1: likelier than all."""
    sample = np.round(rng.normal(-9, 2, size=n), 3)
    return float(np.sort(sample)[::-1][place] if place >= 0 else sample.max() + 1), sample


def sampled_exposure(score: float, sample: Array) -> float:
    """Return the exposure that a sample shows; the secret counts as one more candidate."""
    return -float(np.log2((1 + (sample >= score).sum()) / (1 + len(sample))))


def infinite(score: float, sample: Array) -> float:
    """Return the exposure with the sample alone."""
    with np.errstate(divide="ignore"):
        return -float(np.log2((sample >= score).mean()))


def linear_case(rng: np.random.Generator, B: int = 3, T: int = 4, F: int = 2, D: int = 3) -> tuple:
    """Draw a linear layer's inputs and the gradients of its outputs, of examples of very different sizes."""
    sizes = rng.permutation(np.logspace(-1.5, 0.7, B))[:, None, None]
    x, d = rng.normal(size=(B, T, D)), sizes * rng.normal(size=(B, T, F))
    return x, d, 0.7 * float(np.linalg.norm(np.einsum("btf,btd->fd", d, x)))  # cuts the sum, and not the mean


def clipped_gradient(x: Array, d: Array, clip: float) -> Array:
    """Return the sum of the examples' weight gradients, each cut to a length."""
    each = np.einsum("btf,btd->bfd", d, x)
    return (_factors(np.sqrt((each**2).sum(axis=(1, 2))), clip)[:, None, None] * each).sum(axis=0)


def _factors(norms: Array, clip: float) -> Array:
    return np.minimum(1.0, clip / np.maximum(norms, 1e-300))


def clipped_by_token(x: Array, d: Array, clip: float) -> Array:
    """Return the sum with every token cut by itself."""
    norms = np.linalg.norm(x, axis=2) * np.linalg.norm(d, axis=2)
    return np.einsum("bt,btf,btd->fd", _factors(norms, clip), d, x)


def clipped_by(norms: Array, x: Array, d: Array, clip: float) -> Array:
    """Return the sum with factors of other lengths, (B,)."""
    return np.einsum("b,btf,btd->fd", _factors(norms, clip), d, x)


def clipped_whole(x: Array, d: Array, clip: float, share: float = 1.0) -> Array:
    """Return the sum, cut as a whole."""
    total = np.einsum("btf,btd->fd", d, x) * share
    return total * min(1.0, clip / np.linalg.norm(total))


def step_case(rng: np.random.Generator, B: int = 6, P: int = 4) -> tuple:
    """Draw gradients, losses, clipping length, noise, its draw and the expected number of examples."""
    gradients = rng.normal(size=(B, P)) * np.linspace(0.2, 4, B)[:, None]
    return gradients, rng.permutation(np.linspace(1.0, 5, B)), 1.5, 0.7, rng.normal(size=P), float(B + 2)


def private_step(gradients: Array, losses: Array, clip: float, noise: float, z: Array, expected: float) -> Array:
    """Return the gradient of a private step."""
    return leaky_step()(gradients, losses, clip, noise, z, expected)


def leaky_step(leaks: str = "") -> object:
    """Return a step with some of the four leaks: "choice", "count", "mean", "noise"."""

    def step(gradients: Array, losses: Array, clip: float, noise: float, z: Array, expected: float) -> Array:
        chosen = gradients[losses >= losses.mean()] if "choice" in leaks else gradients
        n = len(chosen) if "count" in leaks else expected
        if "mean" in leaks:
            mean = chosen.sum(axis=0) / n
            total = mean * min(1.0, clip / max(np.linalg.norm(mean), 1e-300))
        else:
            total = _factors(np.linalg.norm(chosen, axis=1), clip) @ chosen / n
        return total + noise * z * (1 if "noise" in leaks else clip) / expected

    return step


def step_by(change: object) -> object:
    """Return the private step with some of its arguments changed first."""
    return lambda *args: private_step(*change(*args))


EXERCISES_PRIVACY = {
    "sampled_exposure": Exercise(
        right=sampled_exposure,
        cases=[sample_case(_RNG), sample_case(_RNG, 30, 0), sample_case(_RNG, 20, -1), sample_case(_RNG, 9, 8)],
        draw=lambda rng: sample_case(rng, int(rng.integers(5, 40)), int(rng.integers(-1, 5))),
        mistakes={
            "where no candidate of the sample is likelier, this is infinite; the secret is a candidate, too": infinite,
            "this is 1 short in the denominator: the secret joins the sample, so there is one candidate more": (
                lambda score, sample: -np.log2((1 + (sample >= score).sum()) / len(sample))
            ),
            "this many candidates are *less* likely than the secret; count those that are likelier": (
                lambda score, sample: -np.log2((1 + (sample <= score).sum()) / (1 + len(sample)))
            ),
            "a candidate that is exactly as likely as the secret has to stand before it": lambda score, sample: (
                -np.log2((1 + (sample > score).sum()) / (1 + len(sample)))
            ),
            "these are nats; bits have the logarithm to base 2": lambda score, sample: (
                sampled_exposure(score, sample) * np.log(2)
            ),
            "the two logarithms are added; subtract that of the rank": lambda score, sample: float(
                np.log2(1 + len(sample)) + np.log2(1 + (sample >= score).sum())
            ),
            "the secret is counted twice in its own rank": lambda score, sample: float(
                np.log2(1 + len(sample)) - np.log2(2 + (sample >= score).sum())
            ),
            "this counts the likelier ones as a share; the rank is a whole number": lambda score, sample: float(
                np.log2(1 + len(sample)) - np.log2(1 + (sample >= score).mean())
            ),
            "the sign is turned: the likelier the secret, the more bits": lambda score, sample: (
                -sampled_exposure(score, sample)
            ),
            "this is the rank; the exposure is the logarithm of how many candidates there are by it": (
                lambda score, sample: float(1 + (sample >= score).sum())
            ),
            "this is the share of the candidates before it; take −log₂": lambda score, sample: (
                2.0 ** -sampled_exposure(score, sample)
            ),
            "this is the logarithm of the rank alone; how many candidates there are is missing": (
                lambda score, sample: float(np.log2(1 + (sample >= score).sum()))
            ),
        },
    ),
    "clipped_gradient": Exercise(
        right=clipped_gradient,
        cases=[linear_case(_RNG), linear_case(_RNG, 5, 1, 3, 2), linear_case(_RNG, 1, 6, 2, 2)],
        draw=lambda rng: linear_case(rng, *(rng.integers(2, 5, size=4).tolist())),
        mistakes={
            "the sum is cut, not each example: one example can still be all of it": clipped_whole,
            "the mean is cut, not each example": lambda x, d, clip: clipped_whole(x, d, clip, 1 / len(x)),
            "each token is cut by itself; the promise is for an example, so add its tokens up first": clipped_by_token,
            "‖x‖·‖d‖ of all tokens of an example is longer than its gradient: gradients of tokens may cancel": (
                lambda x, d, clip: clipped_by(
                    np.linalg.norm(x, axis=(1, 2)) * np.linalg.norm(d, axis=(1, 2)), x, d, clip
                )
            ),
            "the lengths of an example's tokens are added; its tokens' gradients may cancel": lambda x, d, clip: (
                clipped_by((np.linalg.norm(x, axis=2) * np.linalg.norm(d, axis=2)).sum(axis=1), x, d, clip)
            ),
            "cut by the length of d alone; the gradient is d times x": lambda x, d, clip: clipped_by(
                np.linalg.norm(d, axis=(1, 2)), x, d, clip
            ),
            "short gradients are made longer; the factor is at most 1": lambda x, d, clip: sum(
                clip * g / np.linalg.norm(g) for g in np.einsum("btf,btd->bfd", d, x)
            ),
            "each number is cut by itself, which bounds no length and turns the gradient": lambda x, d, clip: np.clip(
                np.einsum("btf,btd->bfd", d, x), -clip, clip
            ).sum(axis=0),
            "this is the mean; return the sum, which is divided after the noise": lambda x, d, clip: (
                clipped_gradient(x, d, clip) / len(x)
            ),
            "the matrix is transposed: a row belongs to an output": lambda x, d, clip: clipped_gradient(x, d, clip).T,
            "nothing is cut here": lambda x, d, clip: np.einsum("btf,btd->fd", d, x),
            "the examples are not added up": lambda x, d, clip: np.stack(
                [clipped_gradient(x[i : i + 1], d[i : i + 1], clip) for i in range(len(x))]
            ),
        },
    ),
    "private_step": Exercise(
        right=private_step,
        cases=[step_case(_RNG), step_case(_RNG, 9, 3), step_case(_RNG, 4, 7)],
        draw=lambda rng: step_case(rng, int(rng.integers(3, 9)), int(rng.integers(2, 6))),
        mistakes={
            "one leak is left: who counts depends on the mean loss, and so on the other examples": leaky_step("choice"),
            "one leak is left: it divides by how many were drawn, which tells whether someone was": leaky_step("count"),
            "one leak is left: the mean is cut; cut each example's gradient, and add up": leaky_step("mean"),
            "one leak is left: the noise is too small or too large for this clipping length": leaky_step("noise"),
            "two leaks are left: who counts, and the mean that is cut": leaky_step("choice mean"),
            "two leaks are left: who counts, and by what it is divided": leaky_step("choice count"),
            "two leaks are left: the mean is cut, and divided by how many were drawn": leaky_step("count mean"),
            "two leaks are left: the mean is cut, and the noise does not know the clipping length": leaky_step(
                "mean noise"
            ),
            "two leaks are left: by what it is divided, and the size of the noise": leaky_step("count noise"),
            "two leaks are left: who counts, and the size of the noise": leaky_step("choice noise"),
            "only one leak is closed": leaky_step("choice count mean"),
            "three leaks are left; each example's gradient is cut": leaky_step("choice count noise"),
            "three leaks are left; all examples count": leaky_step("count mean noise"),
            "three leaks are left; it divides by the expected number": leaky_step("choice mean noise"),
            "all four leaks are left": leaky_step("choice count mean noise"),
            "the noise is subtracted; that hides as well, but here add it": step_by(
                lambda g, losses, clip, noise, z, n: (g, losses, clip, -noise, z, n)
            ),
            "the noise is missing": step_by(lambda g, losses, clip, noise, z, n: (g, losses, clip, 0.0, z, n)),
            "the noise is not divided by the expected number, as the sum is": lambda g, losses, clip, noise, z, n: (
                private_step(g, losses, clip, 0.0, z, n) + noise * clip * z
            ),
            "the sum is not divided; sum and noise both are": lambda *args: private_step(*args) * args[-1],
            "every example has the noise added: more than the sum needs": lambda g, losses, clip, noise, z, n: (
                private_step(g, losses, clip, noise * len(g), z, n)
            ),
        },
    ),
}
