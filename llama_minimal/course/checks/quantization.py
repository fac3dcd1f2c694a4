"""Exercises of chapter 14, quantization."""

import numpy as np

from llama_minimal.course.checks import quantization_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(14)

EXERCISES = {
    "expected_error": Exercise(
        right=of.expected_error,
        cases=[of.error_case(_RNG), of.error_case(_RNG, 2, 3, 7), of.error_case(_RNG, 5, 1, 3)],
        draw=lambda rng: of.error_case(rng, *(rng.integers(2, 7, size=3).tolist())),
        mistakes={
            "this is the error of a weight; each is multiplied by its input, so the square of that is missing": (
                lambda step, x: np.broadcast_to(step.T**2 / 12, (len(x), len(step)))
            ),
            "the inputs are added before they are squared; errors of different weights do not go together": (
                lambda step, x: x.sum(axis=-1, keepdims=True) ** 2 * step.T**2 / 12
            ),
            "this is the mean over the inputs; an output adds all of them up": lambda step, x: (
                of.expected_error(step, x) / x.shape[1]
            ),
            "the length of the input stands here; variances add up, and so do squares": lambda step, x: (
                np.linalg.norm(x, axis=-1, keepdims=True) * step.T**2 / 12
            ),
            "the step is not squared": lambda step, x: of.expected_error(step, x) / step.T,
            "this is the root of it; asked is the mean of the square": lambda step, x: np.sqrt(
                of.expected_error(step, x)
            ),
            "the twelfth is missing": lambda step, x: of.expected_error(step, x) * 12,
            "this is the largest error there can be, half a step of each weight, squared; the mean is a third of it": (
                lambda step, x: of.expected_error(step, x) * 3
            ),
            "a row is a token, a column an output; this is transposed": lambda step, x: of.expected_error(step, x).T,
        },
    ),
    "best_share": Exercise(
        right=of.best_share,
        cases=[of.clip_case(_RNG), of.clip_case(_RNG, 4, 60, 2), of.clip_case(_RNG, 5, 30, 4)],
        draw=lambda rng: of.clip_case(rng, int(rng.integers(3, 7)), int(rng.integers(30, 70)), int(rng.integers(2, 5))),
        mistakes={
            "what lies beyond the end of the grid is not clamped to it, so a smaller step looks better": of.clip_by(
                clamp=False
            ),
            "errors are measured by their size here, not by their square": of.clip_by(size=np.abs),
            "errors of both signs cancel here; square them first": of.clip_by(size=lambda e: e),
            "one share is chosen for the whole matrix; each row has its own": of.clip_by(together=True),
            "this is the worst share of each row": of.clip_by(worst=True),
            "the grid has a code too many at each end: the largest is 2^(bits−1) − 1": of.clip_by(levels=0),
            "what is inside of the grid is not rounded here, only what is beyond it is cut": of.clip_by(on_grid=False),
            "this is the number of the best share; asked is the share itself": lambda w, bits, shares: np.searchsorted(
                shares, of.best_share(w, bits, shares)
            ),
        },
    ),
    "pack3": Exercise(
        right=of.pack3,
        cases=[of.pack_case(_RNG), of.pack_case(_RNG, 3, 8), of.pack_case(_RNG, 1, 24)],
        draw=lambda rng: of.pack_case(rng, int(rng.integers(1, 4)), 8 * int(rng.integers(1, 4))),
        mistakes={
            "the first code has the highest bits here; it has the lowest three": of.packed_by(first_high=True),
            "the bytes come in the wrong order: the lowest first": of.packed_by(bytes_turned=True),
            "both are turned around: the first code has the lowest bits, and the lowest byte comes first": of.packed_by(
                first_high=True, bytes_turned=True
            ),
            "each code has a byte of its own; they do not get any smaller by that": lambda codes: codes.copy(),
            "two codes go into a byte, and a quarter of its bits is never used: let codes cross from byte to byte": (
                lambda codes: codes[..., ::2] | (codes[..., 1::2] << 3)
            ),
            "codes move on by four bits here, and those of three are wanted": of.packed_by(bits=4),
            "codes move on by two bits here, so that they run into one another": of.packed_by(bits=2),
            "the rows have run together; each keeps its own bytes": of.packed_by(rows=False),
        },
    ),
    "correction": Exercise(
        right=of.correction,
        cases=[of.correction_case(_RNG), of.correction_case(_RNG, 2, 4, 9), of.correction_case(_RNG, 5, 3, 30)],
        draw=lambda rng: of.correction_case(rng, *(rng.integers(2, 9, size=3).tolist())),
        mistakes={
            "the product of the two zero points is added; it has been taken away twice, so it is given back once": (
                of.corrected_by(1, 1, 1)
            ),
            "the product of the two zero points is missing: it has been taken away twice": of.corrected_by(1, 1, 0),
            "the zero point of x is missing; its sum over the codes of w belongs to it": of.corrected_by(0, 1, -1),
            "the zero point of w is missing; its sum over the codes of x belongs to it": of.corrected_by(1, 0, -1),
            "the sum over the codes of w has the wrong sign": of.corrected_by(-1, 1, -1),
            "the sum over the codes of x has the wrong sign": of.corrected_by(1, -1, -1),
            "only the zero point of x is in it": of.corrected_by(1, 0, 0),
            "only the zero point of w is in it": of.corrected_by(0, 1, 0),
            "the product of the zero points is there once; it comes with every number of the row": of.corrected_by(
                1, 1, -1, per=1
            ),
            "the products of zero points are made in bytes, which begin anew at 256: go to a wider type first": (
                of.correction_in_bytes
            ),
            "this is the right product itself; asked is what the product of the codes has too much": (
                lambda x, zero_x, w, zero_w: (
                    (x.astype(int) - zero_x.astype(int)) @ (w.astype(int) - zero_w.astype(int)).T
                )
            ),
            "means stand here instead of sums; a product adds up": lambda x, zero_x, w, zero_w: (
                of.correction(x, zero_x, w, zero_w) / x.shape[1]
            ),
            "the two sums are exchanged: the zero point of x meets the sum of w, and the other way round": (
                lambda x, zero_x, w, zero_w: (
                    (x.astype(int).sum(axis=1, keepdims=True) - x.shape[1] * zero_w.astype(int).T) * zero_x
                    + zero_w.astype(int).T * w.astype(int).sum(axis=1)
                )
            ),
        },
    ),
    "balance": Exercise(
        right=of.balance,
        cases=[of.balance_case(_RNG), of.balance_case(_RNG, 8, 3, 4), of.balance_case(_RNG, 4, 6, 7)],
        draw=lambda rng: of.balance_case(rng, *(rng.integers(2, 9, size=3).tolist())),
        mistakes={
            "this is its inverse: inputs are divided by s, so it is large where they are": lambda x, w: (
                1 / of.balance(x, w)
            ),
            "the root is missing: s moves both sides, so it has to go only half of the way": lambda x, w: (
                of.balance(x, w) ** 2
            ),
            "this is the root of the product; the larger the weights are already, the smaller s has to be": (
                lambda x, w: np.sqrt(np.abs(x).max(axis=0) * np.abs(w).max(axis=0))
            ),
            "this makes all inputs equally large, and leaves the weights out of account": lambda x, w: np.abs(x).max(
                axis=0
            ),
            "means stand here; a grid goes as far as the largest": lambda x, w: np.sqrt(
                np.abs(x).mean(axis=0) / np.abs(w).mean(axis=0)
            ),
            "the largest is taken with its sign; a negative number may be larger in size": lambda x, w: np.sqrt(
                np.abs(x.max(axis=0) / w.max(axis=0))
            ),
            "here all columns share the largest number of the whole matrix; each has its own": lambda x, w: np.sqrt(
                np.abs(x).max() / np.abs(w).max(axis=0)
            ),
            "here all columns share the largest weight of the matrix; each has its own": lambda x, w: np.sqrt(
                np.abs(x).max(axis=0) / np.abs(w).max()
            ),
        },
    ),
}
