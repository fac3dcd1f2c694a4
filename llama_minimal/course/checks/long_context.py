"""Exercises of chapter 19, long context."""

from functools import partial

import numpy as np

from llama_minimal.course.checks import long_context_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(19)

EXERCISES = {
    "slot_places": Exercise(
        right=of.slot_places,
        cases=[(7, 6, 2), (3, 6, 2), (5, 6, 2), (23, 7, 4), (11, 5, 0), (100, 9, 1), (0, 4, 1)],
        draw=of.held_case,
        mistakes={
            "this is which token each slot holds; its place is its rank among those that are held": of.in_slots,
            "a slot's number is here taken for its place; after the first turn of the ring they differ": (
                lambda position, n_slots, n_sinks: np.where(np.arange(n_slots) > position, -1, np.arange(n_slots))
            ),
            "the sinks stay at the first places, and here the ring turns over them, too": lambda position, n_slots, _: (
                of.slot_places(position, n_slots, 0)
            ),
            "an empty slot is −1": lambda *case: np.maximum(of.slot_places(*case), 0),
            "this counts backward, from the newest token; the earliest has place 0": lambda *case: np.where(
                (found := of.slot_places(*case)) < 0, -1, found.max() - found
            ),
            "places count from 0": lambda *case: np.where((found := of.slot_places(*case)) < 0, -1, found + 1),
            "this is the ring without the token itself: it is written first, and then seen": lambda position, *rest: (
                of.slot_places(position - 1, *rest) if position else np.full(rest[0], -1)
            ),
        },
    ),
    "kept_by_mistake": Exercise(
        right=of.kept_by_mistake,
        cases=[(6, 6, 2), (8, 6, 2), (9, 6, 2), (20, 7, 3), (13, 6, 4), (4, 6, 2)],
        draw=of.held_case,
        mistakes={
            "this is what a right cache keeps; the one with the bug writes over another token": of.kept_by(of.slot_of),
            "here the ring runs over all slots, sinks included; the code leaves the sinks": of.kept_by(
                lambda position, n_slots, n_sinks: position % n_slots
            ),
            "these are the tokens in the order of their slots; give the earliest first": lambda *case: np.array(
                [token for token in of.in_slots(*case, of.slipped) if token >= 0]
            ),
            "tokens count from 0 here": lambda *case: of.kept_by_mistake(*case) + 1,
            "the newest token is missing: it is held, too": lambda position, *rest: of.kept_by_mistake(
                position - 1, *rest
            ),
            "these are slots that are written over; the question is which tokens are held": lambda *case: np.sort(
                [of.slipped(token, *case[1:]) for token in range(case[0] + 1)]
            ),
        },
    ),
    "yarn": Exercise(
        right=of.yarn,
        cases=[of.yarn_case(_RNG), of.yarn_case(_RNG, 64, 8.0), of.yarn_case(_RNG, 16, 2.0)],
        draw=lambda rng: of.yarn_case(rng, 2 * int(rng.integers(4, 40)), float(rng.uniform(1.5, 9))),
        mistakes={
            "the ramp is turned around: fast pairs stay, slow ones are divided": partial(of.yarn, turned=True),
            "this ramp is straight in the number of turns, as the paper writes it; here it is straight in the number "
            "of the pair, as in the code that was released": partial(of.yarn, in_turns=True),
            "2π is missing: turns are radians divided by it": partial(of.yarn, radians=True),
            "there is no ramp here: each pair is kept or divided": partial(of.yarn, step=True),
            "this mixes wavelengths; the ramp mixes frequencies": partial(of.yarn, wavelengths=True),
            "these are linear interpolation's: every pair is divided": lambda head_dim, theta, factor, *rest: (
                theta ** (-2 * np.arange(head_dim // 2) / head_dim) / factor
            ),
            "nothing is stretched here": lambda head_dim, theta, *rest: (
                theta ** (-2 * np.arange(head_dim // 2) / head_dim)
            ),
            "these are wavelengths; give angles per token": lambda *case: 2 * np.pi / of.yarn(*case),
        },
    ),
    "sliding_mean": Exercise(
        right=of.sliding_mean,
        cases=[of.sliding_case(_RNG), of.sliding_case(_RNG, 12, 6, 6), of.sliding_case(_RNG, 25, 9, 4)],
        draw=lambda rng: of.sliding_case(rng, int(rng.integers(9, 30)), 8, int(rng.integers(1, 8))),
        mistakes={
            "tokens in two windows are counted twice here; each counts once": lambda losses, stride: float(
                np.nanmean(losses)
            ),
            "of later windows the first part is counted here, where a token has least before it": (
                lambda losses, stride: float(np.nanmean(np.concatenate([losses[0], losses[1:, :stride].ravel()])))
            ),
            "the first window counts whole: nothing was before it": lambda losses, stride: float(
                np.nanmean(losses[:, losses.shape[1] - stride :])
            ),
            "this is the mean of the windows' means; the last may have fewer new tokens, so add up and divide once": (
                lambda losses, stride: float(
                    np.mean(
                        [np.nanmean(losses[0])] + [np.nanmean(row[losses.shape[1] - stride :]) for row in losses[1:]]
                    )
                )
            ),
            "this is the sum; a perplexity needs the mean": lambda losses, stride: float(
                np.nansum(np.concatenate([losses[0], losses[1:, losses.shape[1] - stride :].ravel()]))
            ),
            "what lies beyond the end counts as 0 here; it does not count at all": lambda losses, stride: (
                of.sliding_mean(np.nan_to_num(losses), stride)
            ),
            "this is the perplexity; the question is for the mean loss": lambda losses, stride: float(
                np.exp(of.sliding_mean(losses, stride))
            ),
            "the first window alone": lambda losses, stride: float(np.nanmean(losses[0])),
        },
    ),
    "merge": Exercise(
        right=of.merge,
        cases=[of.merge_case(_RNG), of.merge_case(_RNG, 2, 5), of.merge_case(_RNG, 3, 2, 900.0)],
        draw=lambda rng: of.merge_case(rng, int(rng.integers(1, 5)), int(rng.integers(1, 5))),
        mistakes={
            "the gate is turned around: the larger the memory's sum, the more it counts": of.merge_by(
                lambda total, other: 0.5 + 0.5 * np.tanh((total - other) / 2)
            ),
            "the two count alike here; each counts by its sum of e^scores": of.merge_by(
                lambda total, other: np.full_like(total, 0.5)
            ),
            "the totals are logarithms; this takes them for the sums": of.merge_by(
                lambda total, other: other / (total + other)
            ),
            "this adds the two up; the weights of one softmax add up to 1": (
                lambda local, total, remembered, other: local + remembered
            ),
            "the larger takes all; one softmax shares": of.merge_by(lambda total, other: (other > total) * 1.0),
            "e to the power of a large total overflows: use the difference of the two": of.merge_by(
                lambda total, other: np.exp(other) / (np.exp(total) + np.exp(other))
            ),
            "the gate of the memory looks at its own total alone; it is a comparison with the local one": of.merge_by(
                lambda total, other: 0.5 + 0.5 * np.tanh(other / 2)
            ),
        },
    ),
    "neighbor_loss": Exercise(
        right=of.neighbor_loss,
        cases=[of.neighbor_case(_RNG), of.neighbor_case(_RNG, 9, 7), of.neighbor_case(_RNG, 4, 3)],
        draw=lambda rng: of.neighbor_case(rng, int(rng.integers(3, 9)), int(rng.integers(2, 8))),
        mistakes={
            "near neighbors count more, not less: the sign of the distance is turned": partial(
                of.neighbor_loss, far=True
            ),
            "all neighbors count alike here; each counts by e to the minus distance": partial(
                of.neighbor_loss, flat=True
            ),
            "several neighbors with the same token add up; only the first is counted here": partial(
                of.neighbor_loss, one=True
            ),
            "the weights of the neighbors do not add up to 1": partial(of.neighbor_loss, unnormalized=True),
            "the share belongs to the neighbors; here it is the model's": partial(of.neighbor_loss, exchanged=True),
            "this mixes logarithms; probabilities are mixed, and then comes the logarithm": partial(
                of.neighbor_loss, logs=True
            ),
            "distances are divided by the temperature, not multiplied": partial(of.neighbor_loss, times=True),
            "this is the probability; the loss is minus its logarithm": lambda *case: float(
                np.exp(-of.neighbor_loss(*case))
            ),
            "the sign is turned: a loss is positive": lambda *case: -of.neighbor_loss(*case),
            "the neighbors vote as one here; how near they are says how much each gives": partial(
                of.neighbor_loss, only_hits=True
            ),
        },
    ),
}
