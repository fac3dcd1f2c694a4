"""Exercises of chapter 11, model parallelism."""

import numpy as np

from llama_minimal.course.checks import parallel_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(11)

EXERCISES = {
    "row_backward": Exercise(
        right=of.row_backward,
        cases=[of.row_case(_RNG), of.row_case(_RNG, ranks=3, tokens=2)],
        draw=of.row_case,
        mistakes={
            "the gradients at x are added up, as in the column's backward; here each rank keeps its part": of.row_then(
                lambda d_xs, d_ws: (of.everywhere(d_xs), d_ws)
            ),
            "the gradients at the output are added up; every rank has the whole gradient already": lambda d, xs, ws: (
                of.row_backward(of.everywhere(d), xs, ws)
            ),
            "the gradient at the output is divided among the ranks; each summand gets all of it": lambda d, xs, ws: (
                of.row_backward(d / len(d), xs, ws)
            ),
            "the weights' gradients are added up; each rank has other weights": of.row_then(
                lambda d_xs, d_ws: (d_xs, of.everywhere(d_ws))
            ),
            "the weights' gradients are transposed: dW has the shape of W": of.row_then(
                lambda d_xs, d_ws: (d_xs, d_ws.swapaxes(1, 2))
            ),
            "every rank uses rank 0's x": lambda d, xs, ws: of.row_backward(d, np.stack([xs[0]] * len(xs)), ws),
            "every rank uses rank 0's weights": lambda d, xs, ws: of.row_backward(d, xs, np.stack([ws[0]] * len(ws))),
        },
    ),
    "one_f_one_b": Exercise(
        right=of.one_f_one_b,
        cases=[(4, 8), (3, 3), (2, 5), (4, 2), (1, 3), (5, 7)],
        draw=lambda rng: tuple(rng.integers(2, 9, size=2).tolist()),
        mistakes={
            "this is GPipe: all forwards, then all backwards": of.events(lambda stages, stage: 10**6),
            "every stage starts with P forwards; stage s needs P − s": of.events(lambda stages, stage: stages),
            "the stages are in reverse: the last one starts with one forward, the first with P": of.events(
                lambda stages, stage: stage + 1
            ),
            "one forward too few before the first backward: stage s starts with P − s": of.events(
                lambda stages, stage: stages - stage - 1
            ),
            "one forward too few before the first backward, except on the last two stages": of.events(
                lambda stages, stage: max(1, stages - stage - 1)
            ),
            "one forward too many before the first backward: stage s starts with P − s": of.events(
                lambda stages, stage: stages - stage + 1
            ),
            "every stage starts with one forward: the first stages then wait for each backward": of.events(
                lambda stages, stage: 1
            ),
            "the backwards run from the last micro-batch to the first; the first arrives first": of.events(
                lambda stages, stage: stages - stage, last_first=True
            ),
            "the micro-batches are counted from 0, and −0 is 0: write m + 1 and −(m + 1)": lambda p, m: (
                of.one_f_one_b(p, m) - np.sign(of.one_f_one_b(p, m))
            ),
        },
    ),
    "missing_sum": Exercise(
        right=of.block(lambda parts: parts.sum(axis=0)),
        cases=[of.block_case(_RNG), of.block_case(_RNG, ranks=3)],
        draw=of.block_case,
        mistakes={
            "this is rank 0's part alone: the ranks' gradients behind the norm must be added up": of.block(
                lambda parts: parts[0]
            ),
            "this is the last rank's part alone: add up all": of.block(lambda parts: parts[-1]),
            "this is the ranks' mean; their features all look at the same x, so it is a sum": of.block(
                lambda parts: parts.mean(axis=0)
            ),
            "the sum is P times too large: one all-reduce too many": of.block(
                lambda parts: len(parts) * parts.sum(axis=0)
            ),
            "the ReLU's slope is missing": of.block(lambda parts: parts.sum(axis=0), bent=False),
            "the weight's gradient is right; the one at x is still rank 0's part": of.half_summed(at_x=0),
            "the weight's gradient is right; the one at x is still the last rank's part": of.half_summed(at_x=-1),
            "the gradient at x is right; the weight's is still rank 0's part": of.half_summed(of_weight=0),
            "the gradient at x is right; the weight's is still the last rank's part": of.half_summed(of_weight=-1),
            "this stops behind the norm: go back through it, too": lambda d_out, x, weight, w1s, w2s: (
                of.into_norm(d_out, x, weight, w1s, w2s).sum(axis=0),
                of.block(lambda parts: parts.sum(axis=0))(d_out, x, weight, w1s, w2s)[1],
            ),
        },
    ),
    "span": Exercise(
        right=of.span,
        cases=[
            ([1.0, 1, 1, 1], [2.0, 2, 2, 2], 8),
            ([1.0, 3, 1], [2.0, 6, 2], 5),
            ([2.0, 1, 1], [1.0, 1, 4], 6),
            ([1.0, 2], [4.0, 2], 1),
        ],
        draw=of.span_case,
        mistakes={
            "the stages work at the same time: only the slowest does M times its work alone": lambda f, b, m: (
                m * (sum(f) + sum(b))
            ),
            "every stage is taken to be as slow as the slowest": lambda f, b, m: (m + len(f) - 1) * (max(f) + max(b)),
            "the slowest stage does M − 1 more micro-batches while the others wait, not M": lambda f, b, m: (
                sum(f) + m * max(f) + sum(b) + m * max(b)
            ),
            "the slowest forward and backward may be on different stages: take two maxima": lambda f, b, m: (
                sum(f) + sum(b) + (m - 1) * max(of.both(f, b))
            ),
            "this is the formula for equal stages, with the costs of the first": lambda f, b, m: (
                (m + len(f) - 1) * (f[0] + b[0])
            ),
            "the pace is the slowest stage's, not the first forward's and the last backward's": lambda f, b, m: (
                sum(f) + sum(b) + (m - 1) * (f[0] + b[-1])
            ),
            "only the first takes the sum of all stages; the others follow at the slowest pace": lambda f, b, m: (
                (m - 1) * (sum(f) + sum(b)) + max(f) + max(b)
            ),
            "this is without the backwards": lambda f, b, m: sum(f) + (m - 1) * max(f),
            "this is one micro-batch alone; M − 1 others follow": lambda f, b, m: sum(f) + sum(b),
            "the first micro-batch's way through all stages is missing": lambda f, b, m: (m - 1) * (max(f) + max(b)),
            "this is without filling and draining": lambda f, b, m: m * (max(f) + max(b)),
            "this is 1F1B's; here GPipe does all forwards first": of.span_of_1f1b,
        },
    ),
    "greedy": Exercise(
        right=of.greedy,
        cases=[of.logits(_RNG), of.logits(_RNG, ranks=2)],
        draw=of.logits,
        mistakes={
            "these are places within a rank: rank r's first token is r · V/P": of.local,
            "these are the ranks where the largest logits are": of.winner,
            "these are the largest logits, and not the tokens that have them": lambda parts: parts.max(axis=(0, 2)),
            "a rank counts by its number of tokens, and not by its V/P columns": lambda parts: (
                of.local(parts) + of.winner(parts) * parts.shape[1]
            ),
            "a rank counts by the number of ranks, and not by its V/P columns": lambda parts: (
                of.local(parts) + of.winner(parts) * parts.shape[0]
            ),
            "of equal logits the token with the lowest number wins, as with argmax": of.last_of_equals,
            "of equal logits on two ranks the lower rank's wins: its tokens have lower numbers": of.last_rank_of_equals,
            "of equal logits within a rank the first wins, as with argmax": of.last_place_of_equals,
            "reshape alone does not put a text's parts side by side: they are (P, texts, V/P)": lambda parts: (
                parts.reshape(parts.shape[1], -1).argmax(axis=-1)
            ),
            "these are rank 0's tokens alone": lambda parts: parts[0].argmax(axis=-1),
            "these are the smallest logits' tokens": lambda parts: of.greedy(-parts),
        },
    ),
    "neighbors": Exercise(
        right=of.neighbors,
        cases=[(5, 2, 2, 2), (0, 2, 3, 4), (17, 2, 3, 4), (23, 4, 3, 2), (6, 1, 2, 4)],
        draw=of.mesh_case,
        mistakes={
            "tensor varies slowest here; ranks that differ in tensor are neighbors": lambda *case: of.neighbors(
                *case, order="tdp"
            ),
            "data varies fastest here; ranks that differ in tensor are neighbors": lambda *case: of.neighbors(
                *case, order="ptd"
            ),
            "data and pipeline are exchanged: pipeline varies slowest": lambda *case: of.neighbors(*case, order="dpt"),
            "the three are in reverse order: pipeline, data, tensor": lambda *case: of.neighbors(*case)[::-1],
            "these are the ranks before, and not those behind": lambda *case: of.neighbors(*case, step=-1),
            "the last of a ring is followed by its first": of.without_a_ring,
            "each ring comes round at its own end, not at the last of all ranks": of.around_all,
            "these are the places along the three rings, and not the ranks there": lambda r, p, d, t: [
                (r // (d * t) + 1) % p,
                (r // t % d + 1) % d,
                (r % t + 1) % t,
            ],
        },
    ),
}
