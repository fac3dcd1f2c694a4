"""Exercises of chapter 15, pruning."""

import numpy as np

from llama_minimal.course.checks import pruning_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(15)

EXERCISES = {
    "pair_cost": Exercise(
        right=of.pair_cost,
        cases=[of.pair_case(_RNG), of.pair_case(_RNG, 4, 2, 0), of.pair_case(_RNG, 6, 5, 4)],
        draw=of.drawn_pair,
        mistakes={
            "these are the two costs of removing each alone, added up; what the one moves, the other has to bear": (
                of.one_by_one
            ),
            "here the others stay as they are; they may move, and make up for the two": of.pair_by(
                lambda gram, gone: gram[np.ix_(gone, gone)]
            ),
            "the inverse is not inverted back: the cost is w times the inverse *of the part of* the inverse": (
                of.pair_by(lambda gram, gone: np.linalg.inv(gram)[np.ix_(gone, gone)])
            ),
            "this cuts the 2 × 2 part out of G and inverts that; invert G first, and cut then": of.pair_by(
                lambda gram, gone: np.linalg.inv(gram[np.ix_(gone, gone)])
            ),
            "the two off the diagonal are missing: these are Wanda's scores, squared and added": of.pair_by(
                lambda gram, gone: np.diag(np.diag(gram)[gone])
            ),
            "half of it is missing: here the cost is δᵀGδ, without a half": lambda w, gram, i, j: (
                of.pair_cost(w, gram, i, j) / 2
            ),
            "this is how far the output moves (a length); the cost is its square": lambda w, gram, i, j: float(
                np.sqrt(of.pair_cost(w, gram, i, j))
            ),
            "only the first of the two goes here": lambda w, gram, i, j: float(w[i] ** 2 / np.linalg.inv(gram)[i, i]),
        },
    ),
    "bias_score": Exercise(
        right=of.bias_score,
        cases=[of.bias_case(_RNG), of.bias_case(_RNG, 5, 2, 6), of.bias_case(_RNG, 9, 4, 3)],
        draw=lambda rng: of.bias_case(rng, *(rng.integers(2, 7, size=3).tolist())),
        mistakes={
            "this is Wanda's score: the constant takes the mean of what is lost, so only what varies counts": (
                lambda w, x: np.abs(w) * np.linalg.norm(x, axis=0)
            ),
            "this is what the constant takes; the score is what it cannot take": lambda w, x: (
                np.abs(w * x.mean(axis=0)) * np.sqrt(len(x))
            ),
            "the deviation of one token; the score adds the squares of all tokens, so √n is missing": lambda w, x: (
                np.abs(w) * x.std(axis=0)
            ),
            "this is the square of it; the score is a length": lambda w, x: of.bias_score(w, x) ** 2,
            "the variance is in it, and w without a square: take the root of the sum of squares": lambda w, x: (
                np.abs(w) * ((x - x.mean(axis=0)) ** 2).sum(axis=0)
            ),
            "the sign of the weight is in it; a length has none": lambda w, x: (
                w * np.linalg.norm(x - x.mean(axis=0), axis=0)
            ),
            "the mean is over all inputs together; each has its own": lambda w, x: (
                np.abs(w) * np.linalg.norm(x - x.mean(), axis=0)
            ),
            "the mean is over the inputs of a token; it has to be over the tokens": lambda w, x: (
                np.abs(w) * np.linalg.norm(x - x.mean(axis=1, keepdims=True), axis=0)
            ),
            "this is the spread of the inputs, and every output has its own weights": lambda w, x: (
                np.ones_like(w) * np.linalg.norm(x - x.mean(axis=0), axis=0)
            ),
        },
    ),
    "packed_product": Exercise(
        right=of.packed_product,
        cases=[of.packed_case(_RNG), of.packed_case(_RNG, 2, 3, 4), of.packed_case(_RNG, 4, 2, 1)],
        draw=lambda rng: of.packed_case(rng, *(rng.integers(1, 5, size=3).tolist())),
        mistakes={
            "a place counts within its group of four, and here it is taken for a column of x": of.packed_by(
                lambda places: places
            ),
            "each value has its own group here; two belong to each": of.packed_by(
                lambda places: 4 * np.arange(places.shape[1]) + places
            ),
            "groups are two columns wide here; they are four": of.packed_by(
                lambda places: 2 * (np.arange(places.shape[1]) // 2) + places
            ),
            "the places are not looked at: the first two of every four are taken": of.packed_by(
                lambda places: np.broadcast_to(
                    4 * (np.arange(places.shape[1]) // 2) + np.arange(places.shape[1]) % 2, places.shape
                )
            ),
            "only the first of the two values of a group is used": lambda values, places, x: of.packed_product(
                values * (np.arange(values.shape[1]) % 2 == 0), places, x
            ),
            "the result is transposed: a row is a token, a column an output": lambda values, places, x: (
                of.packed_product(values, places, x).T
            ),
            "the two of a group are exchanged": lambda values, places, x: of.packed_product(
                values.reshape(len(values), -1, 2)[..., ::-1].reshape(values.shape), places, x
            ),
        },
    ),
    "drift": Exercise(
        right=of.drift,
        cases=[of.drift_case(_RNG), of.drift_case(_RNG, 3, 1), of.drift_case(_RNG, 40, 9)],
        draw=lambda rng: of.drift_case(rng, int(rng.integers(1, 30)), int(rng.integers(1, 8))),
        mistakes={
            "the sign is turned: a step goes against the mean gradient": of.drift_by(sign=1.0),
            "the moments are not corrected (chapter 08): divide by 1 − β to the number of the step": of.drift_by(
                corrected=""
            ),
            "the correction counts from the pruning on; AdamW goes on counting all its steps": of.drift_by(
                corrected="k"
            ),
            "the first step fades the moments, too: with a gradient of 0, m becomes β₁ m before it is used": (
                of.drift_by(first=0)
            ),
            "the mean gradient does not fade here": of.drift_by(fades="v"),
            "the mean square does not fade here": of.drift_by(fades="m"),
            "neither of the moments fades here; both do, by β in each step": of.drift_by(fades=""),
            "the root of the mean square is missing": of.drift_by(root=False),
            "this is the last step alone; add up all": lambda m, v, t, steps, *rest: (
                of.drift(m, v, t, steps, *rest) - of.drift(m, v, t, steps - 1, *rest)
            ),
            "this is the first step alone; add up all": lambda m, v, t, steps, *rest: of.drift(m, v, t, 1, *rest),
            "no gradient, and yet it moves: look at what AdamW divides": lambda m, v, t, steps, *rest: 0.0,
        },
    ),
    "head_slopes": Exercise(
        right=of.slopes,
        cases=[of.slopes_case(_RNG), of.slopes_case(_RNG, 4, 2, 3), of.slopes_case(_RNG, 6, 4, 2)],
        draw=lambda rng: of.slopes_case(rng, *(rng.integers(2, 6, size=3).tolist())),
        mistakes={
            "the sign is turned: the output goes from a to 0, so it changes by −a": lambda a, d_a: -of.slopes(a, d_a),
            "the sign is lost; a head may also do harm, and then the loss falls without it": lambda a, d_a: np.abs(
                of.slopes(a, d_a)
            ),
            "the products are made positive before they are added; they may cancel": lambda a, d_a: (
                -np.abs(a * d_a).sum(axis=(0, 2))
            ),
            "the absolute value is taken of each token's sum; a change of the loss is the plain sum": lambda a, d_a: (
                np.abs((a * d_a).sum(axis=2)).sum(axis=0)
            ),
            "this is the mean over the tokens; the gradient has the mean in it already, so add up": lambda a, d_a: (
                of.slopes(a, d_a) / len(a)
            ),
            "this is the product of two lengths; a gradient at right angles to the output changes nothing": (
                lambda a, d_a: -np.linalg.norm(a, axis=(0, 2)) * np.linalg.norm(d_a, axis=(0, 2))
            ),
            "this is the slope alone; how far the output moves is missing": lambda a, d_a: -d_a.sum(axis=(0, 2)),
            "heads and tokens are exchanged: one number for each head": lambda a, d_a: -(a * d_a).sum(axis=(1, 2)),
        },
    ),
}
