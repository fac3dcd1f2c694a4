"""Exercises of chapter 08, training."""

from collections.abc import Callable, Sequence

import numpy as np

from llama_minimal.course.checks.recipe_parts import (
    adamw_but,
    entrywise,
    exactly,
    half_corrected,
    handing_on_corrected,
    newton_schulz,
    piecewise,
    polar,
    short_fall,
    swapped,
    trapezoid,
    undivided,
    with_cosine,
)
from llama_minimal.course.exercises import Exercise
from llama_minimal.reference.optim import adamw_step

_RNG = np.random.default_rng(8)


def _state(t: int) -> tuple:
    w, g, m = _RNG.normal(size=(3, 2, 3))
    return w, g, 0.1 * m, _RNG.uniform(0.1, 1, size=(2, 3)), t, 0.1, 0.9, 0.95, 1e-2, 0.5


def _shortened(gradient: np.ndarray, longest: float) -> np.ndarray:
    return gradient * min(1.0, longest / float(np.sqrt((gradient**2).sum())))


def _means(sums: Sequence[np.ndarray], counts: Sequence[int]) -> list[np.ndarray]:
    return [piece / count for piece, count in zip(sums, counts, strict=True)]


def _accumulate(sums: Sequence[np.ndarray], counts: Sequence[int], longest: float) -> np.ndarray:
    return _shortened(sum(sums) / sum(counts), longest)


def _clipped_pieces(sums: Sequence[np.ndarray], counts: Sequence[int], longest: float) -> np.ndarray:
    pieces = [_shortened(mean, longest) for mean in _means(sums, counts)]
    return sum(piece * count for piece, count in zip(pieces, counts, strict=True)) / sum(counts)


def _as_it_was(sums: Sequence[np.ndarray], counts: Sequence[int], longest: float) -> np.ndarray:
    return sum(_shortened(mean, longest) for mean in _means(sums, counts)) / len(sums)


def _always_scaled(sums: Sequence[np.ndarray], counts: Sequence[int], longest: float) -> np.ndarray:
    mean = sum(sums) / sum(counts)
    return mean * longest / np.sqrt((mean**2).sum())


def _break_even(
    n_large: float,
    tokens_large: float,
    n_small: float,
    tokens_small: float,
    *,
    training: float = 6,
    generating: float = 2,
) -> float:
    extra = training * (n_small * tokens_small - n_large * tokens_large)
    return max(0.0, extra / (generating * (n_large - n_small)))


def _mistaken(**prices: float) -> Callable[..., float]:
    return lambda *case: _break_even(*case, **prices)


EXERCISES = {
    "adamw": Exercise(
        right=lambda w, g, m, v, t, lr, beta1, beta2, eps, weight_decay: adamw_step(
            w, g, m, v, t, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
        ),
        cases=[_state(3), _state(1)],
        mistakes={
            "the bias correction is missing": adamw_but(correct=lambda beta, t: 1.0),
            "the bias correction takes the step before; t counts from 1": adamw_but(
                correct=lambda beta, t: 1 - beta ** max(t - 1, 1)
            ),
            "the bias correction is 1 - beta, whatever the step; the share is 1 - betaᵗ": adamw_but(
                correct=lambda beta, t: 1 - beta
            ),
            "this is Adam with L2: the decay goes through the means; it belongs beside them": adamw_but(fading="L2"),
            "t counts from 1 already: the correction takes t, not t + 1": adamw_but(
                correct=lambda beta, t: 1 - beta ** (t + 1)
            ),
            "v is corrected and m is not": half_corrected,
            "the weight fades after its step; the decay takes w as it was before": adamw_but(fading="after"),
            "the decay is missing": adamw_but(fading="none"),
            "the decay is not scaled by the learning rate": adamw_but(fading="unscaled"),
            "epsilon is inside of the root": adamw_but(under=lambda v, eps: np.sqrt(v + eps)),
            "epsilon is missing": adamw_but(under=lambda v, eps: np.sqrt(v)),
            "the root is missing: this divides by the mean square": adamw_but(under=lambda v, eps: v + eps),
            "the step goes uphill": adamw_but(sign=1),
            "beta is the share of the old mean, and 1 - beta that of the gradient": swapped,
            "hand on the means themselves: the next step corrects them anew": handing_on_corrected,
        },
    ),
    "first_steps": Exercise(
        right=lambda t, beta1, beta2: (1 - beta1**t) / np.sqrt(1 - beta2**t),
        cases=[(1, 0.9, 0.95), (1, 0.9, 0.999), (10, 0.9, 0.999), (4, 0.0, 0.99)],
        mistakes={
            "the root is missing: v is a mean of squares": lambda t, beta1, beta2: (1 - beta1**t) / (1 - beta2**t),
            "this is the first step, whichever is asked for": lambda t, beta1, beta2: (1 - beta1) / np.sqrt(1 - beta2),
            "this is what the step must be divided by; how long is it without?": lambda t, beta1, beta2: (
                np.sqrt(1 - beta2**t) / (1 - beta1**t)
            ),
            "t counts from 1: this is the step after": lambda t, beta1, beta2: (
                (1 - beta1 ** (t + 1)) / np.sqrt(1 - beta2 ** (t + 1))
            ),
            "betaᵗ is what has not been reached yet; the share reached is 1 - betaᵗ": lambda t, beta1, beta2: (
                beta1**t / np.sqrt(beta2**t)
            ),
            "beta1 belongs to m, which is above; beta2 to v, below": lambda t, beta1, beta2: (
                (1 - beta2**t) / np.sqrt(1 - beta1**t)
            ),
            "the mean is divided by the root of v, not multiplied by it": lambda t, beta1, beta2: (
                (1 - beta1**t) * np.sqrt(1 - beta2**t)
            ),
            "the corrected step is 1 always; without correction it is not": lambda t, beta1, beta2: 1.0,
            "the root goes over both means; m is no mean of squares": lambda t, beta1, beta2: np.sqrt(
                (1 - beta1**t) / (1 - beta2**t)
            ),
        },
    ),
    "trapezoid": Exercise(
        right=trapezoid,
        cases=[(step, 0.5, 20, 4, 5) for step in (0, 1, 3, 4, 9, 14, 15, 17, 18, 19)],
        mistakes={
            "step 0 has no rate: the rise begins with lr / warmup": lambda *case: trapezoid(*case, first=0),
            "the fall ends one step too late: step steps - 1 has the rate 0": lambda *case: trapezoid(*case, left=0),
            "the fall ends one step too early": lambda *case: trapezoid(*case, left=2),
            "the fall is a step too short: the first of the last decay steps lies below the peak": short_fall,
            "this falls to a tenth of the peak, as the cosine did; here to 0": lambda *case: trapezoid(*case, last=0.1),
            "step 0 has no rate, and step steps - 1 has one: both lines are a step late": lambda *case: trapezoid(
                *case, first=0, left=0
            ),
            "the stable part is missing: the fall begins right after the rise": piecewise,
            "the fall is half a cosine; here it is a line": with_cosine,
            "the fall is missing": lambda step, lr, steps, warmup, decay: lr * min(1.0, (step + 1) / warmup),
            "the rise is missing": lambda step, lr, steps, warmup, decay: lr * min(1.0, (steps - 1 - step) / decay),
            "this is a share of the peak; multiply by lr": lambda step, lr, *rest: trapezoid(step, 1.0, *rest),
        },
    ),
    "accumulate": Exercise(
        right=_accumulate,
        cases=[
            ([_RNG.normal(size=(2, 3)), 40 * _RNG.normal(size=(2, 3)), 9 * _RNG.normal(size=(2, 3))], [1, 50, 5], 0.2),
            ([_RNG.normal(size=4), 5 * _RNG.normal(size=4)], [3, 40], 100.0),
        ],
        mistakes={
            "this is the accumulation above, with both of its faults": _as_it_was,
            "this is a mean of means: a target counts more if its piece has few": lambda sums, counts, longest: (
                _shortened(sum(_means(sums, counts)) / len(sums), longest)
            ),
            "each piece is clipped by itself, which turns their sum; clip the sum, once": _clipped_pieces,
            "clipped before it was divided: the length to clip is that of the mean": lambda sums, counts, longest: (
                _shortened(sum(sums), longest) / sum(counts)
            ),
            "a sum holds each target once already; its number is no weight": lambda sums, counts, longest: _shortened(
                sum(s * n for s, n in zip(sums, counts, strict=True)) / sum(counts), longest
            ),
            "it is not divided by the number of targets": lambda sums, counts, longest: _shortened(sum(sums), longest),
            "the length is the root of the sum of the squares": lambda sums, counts, longest: (
                sum(sums) / sum(counts) * min(1.0, longest / float(((sum(sums) / sum(counts)) ** 2).sum()))
            ),
            "it is not clipped": lambda sums, counts, longest: sum(sums) / sum(counts),
            "a gradient that is short enough stays as it is; only longer ones are scaled": _always_scaled,
            "each entry is cut by itself, which turns the gradient; scale all by one number": (
                lambda sums, counts, longest: np.clip(sum(sums) / sum(counts), -longest, longest)
            ),
            "divided by the number of pieces; divide by the number of targets": lambda sums, counts, longest: (
                _shortened(sum(sums) / len(sums), longest)
            ),
        },
    ),
    "polar": Exercise(
        right=polar,
        cases=[
            (0.4 * _RNG.normal(size=(3, 5)), 3),
            (0.4 * _RNG.normal(size=(5, 3)), 6),
            (0.01 * _RNG.normal(size=(4, 4)), 2),
        ],
        mistakes={
            "this is Jordan's polynomial; the exercise asks for a cubic": lambda G, rounds: polar(
                G, rounds, 3.4445, -4.7750, 2.0315
            ),
            "the division by the length is missing": undivided,
            "the powers are of the entries; X @ X.T @ X cubes the strengths": entrywise,
            "this is the goal itself; so many rounds only come near it": exactly,
            "a + b is 1, but the slope at 1 is a + 3b, and should be 0": lambda G, rounds: polar(G, rounds, 2.0, -1.0),
            "1 stays 1, but with the slope -3: a + 3b should be 0": lambda G, rounds: polar(G, rounds, 3.0, -2.0),
            "a and b are exchanged": lambda G, rounds: polar(G, rounds, -0.5, 1.5),
            "one round too many": lambda G, rounds: polar(G, rounds + 1),
            "the sign of the cube is turned": lambda G, rounds: polar(G, rounds, 1.5, 0.5),
            "one round is missing": lambda G, rounds: polar(G, rounds - 1),
            "this divides by the largest strength; divide by the length": lambda G, rounds: newton_schulz(
                G / np.linalg.norm(G, 2), rounds
            ),
        },
    ),
    "break_even": Exercise(
        right=_break_even,
        cases=[(10e9, 2e11, 6.7e9, 1e12), (70e9, 1.4e12, 35e9, 4e12), (2e9, 4e10, 1e9, 6e10), (1e9, 2e10, 5e8, 6e10)],
        mistakes={
            "the prices are swapped: training takes 6N for each token, generating 2N": _mistaken(
                training=2, generating=6
            ),
            "both are charged alike; training takes three times as much for each token": _mistaken(
                training=6, generating=6
            ),
            "this divides by the small model's price; what counts is by how much a token is cheaper": lambda *case: max(
                0.0, 6 * (case[2] * case[3] - case[0] * case[1]) / (2 * case[2])
            ),
            "this leaves out the large model's training": lambda *case: (
                6 * case[2] * case[3] / (2 * (case[0] - case[2]))
            ),
            "where the small one is cheaper from the start, the answer is 0": lambda *case: (
                6 * (case[2] * case[3] - case[0] * case[1]) / (2 * (case[0] - case[2]))
            ),
            "this is the difference of the bills for training, in operations; divide by what a token saves": (
                lambda *case: max(0.0, 6 * (case[2] * case[3] - case[0] * case[1]))
            ),
            "this counts training as 6 for each token, whatever the size: multiply by N": lambda *case: max(
                0.0, 6 * (case[3] - case[1]) / (2 * (case[0] - case[2]))
            ),
        },
    ),
}
