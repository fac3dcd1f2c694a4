"""Exercises on sound, of chapter 21: frames of a sound that still arrives, and two sounds laid over each other."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise

Array = np.ndarray
_RNG = np.random.default_rng(2121)


def arriving_case(rng: np.random.Generator, n_rest: int = 5, n: int = 12, width: int = 6, hop: int = 2) -> tuple:
    """Draw what is left of the samples so far, new ones, and the sizes of a frame."""
    return rng.normal(size=n_rest), rng.normal(size=n), width, hop


def drawn_arriving(rng: np.random.Generator) -> tuple:
    """Draw a case of any sizes, in which at least one frame is whole."""
    width = int(rng.integers(2, 8))
    hop = int(rng.integers(1, width + 1))
    n_rest = int(rng.integers(0, width))
    return arriving_case(rng, n_rest, int(rng.integers(width, 4 * width)), width, hop)


def next_frames(rest: Array, chunk: Array, width: int, hop: int) -> tuple[Array, Array]:
    """Return the frames that new samples complete, (T, W), and the samples that later frames still need."""
    samples = np.concatenate([rest, chunk])
    n_frames = max(0, 1 + (len(samples) - width) // hop)
    places = hop * np.arange(n_frames)[:, None] + np.arange(width)
    return samples[places], samples[hop * n_frames :]


def arriving_by(
    *,
    joined: Callable[[Array, Array], Array] = lambda rest, chunk: np.concatenate([rest, chunk]),
    count: Callable[[int, int, int], int] = lambda n, width, hop: 1 + (n - width) // hop,
    kept: Callable[[Array, int, int, int], Array] = lambda samples, n, width, hop: samples[hop * n :],
) -> Callable[..., tuple[Array, Array]]:
    """Return an answer that joins, counts or keeps otherwise."""

    def answer(rest: Array, chunk: Array, width: int, hop: int) -> tuple[Array, Array]:
        samples = joined(rest, chunk)
        n = max(0, count(len(samples), width, hop))
        padded = np.concatenate([samples, np.zeros(hop + width)])
        return padded[hop * np.arange(n)[:, None] + np.arange(width)], kept(samples, n, width, hop)

    return answer


def warp_case(rng: np.random.Generator, n: int = 4, m: int = 5) -> tuple:
    """Draw the distances between the frames of two sounds."""
    return (rng.uniform(0.1, 3, size=(n, m)).round(2),)


def warped_distance(cost: Array) -> float:
    """Return the smallest sum of distances along a path from the first pair of frames to the last."""
    return warped_by()(cost)


def warped_by(
    *,
    steps: tuple[tuple[int, int], ...] = ((1, 0), (0, 1), (1, 1)),
    border: str = "path",
    choose: Callable = min,
    end: str = "last",
    first: bool = True,
) -> Callable[[Array], float]:
    """Return an answer with other steps, borders, choices or ends."""

    def answer(cost: Array) -> float:
        n, m = cost.shape
        total = np.full((n, m), np.inf)
        for i in range(n):
            for j in range(m):
                before = [total[i - a, j - b] for a, b in steps if i >= a and j >= b]
                before = [value for value in before if np.isfinite(value)]
                if i == j == 0:
                    total[i, j] = cost[i, j] if first else 0.0
                elif border == "free" and (i == 0 or j == 0):
                    total[i, j] = cost[i, j]
                elif before:
                    total[i, j] = cost[i, j] + choose(before)
        return float(total[-1, -1] if end == "last" else total[-1].min())

    return answer


def greedy(cost: Array) -> float:
    """Return the sum along the path that always takes the cheapest next step."""
    i = j = 0
    total = cost[0, 0]
    while (i, j) != (cost.shape[0] - 1, cost.shape[1] - 1):
        following = [(a, b) for a, b in ((i + 1, j + 1), (i + 1, j), (i, j + 1)) if a < len(cost) and b < len(cost[0])]
        i, j = min(following, key=lambda place: cost[place])
        total += cost[i, j]
    return float(total)


def edit_like(cost: Array) -> float:
    """Return the edit distance whose exchanges cost what the frames differ by, and all else costs 1."""
    row = list(range(cost.shape[1] + 1))
    for i, costs in enumerate(cost, start=1):
        last, row = row, [i]
        for j, one in enumerate(costs, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + one))
    return float(row[-1])


EXERCISES_SPEECH = {
    "next_frames": Exercise(
        right=next_frames,
        cases=[
            arriving_case(_RNG),
            arriving_case(_RNG, 3, 13, 5, 3),
            arriving_case(_RNG, 0, 9, 4, 4),
            arriving_case(_RNG, 1, 2, 6, 2),
        ],
        draw=drawn_arriving,
        mistakes={
            "the rest is not put before the new samples, so the frames that lie across are lost": arriving_by(
                joined=lambda rest, chunk: chunk
            ),
            "the rest comes after the new samples; it is older": arriving_by(
                joined=lambda rest, chunk: np.concatenate([chunk, rest])
            ),
            "a frame is missing: n samples hold 1 + ⌊(n − W) / hop⌋": arriving_by(
                count=lambda n, width, hop: (n - width) // hop
            ),
            "the frames count by n // hop, as if one could begin where too few samples are left": arriving_by(
                count=lambda n, width, hop: n // hop
            ),
            "the frames do not overlap: each begins hop samples after the one before": lambda rest, chunk, width, hop: (
                next_frames(rest, chunk, width, width)
            ),
            "the rest begins behind the last frame; the next frame begins hop after the last one's *beginning*": (
                arriving_by(kept=lambda samples, n, width, hop: samples[hop * (n - 1) + width :] if n else samples)
            ),
            "the rest begins with the last frame, which would come out a second time": arriving_by(
                kept=lambda samples, n, width, hop: samples[max(0, hop * (n - 1)) :]
            ),
            "the last W − hop samples are kept; where samples are left over, the next frame begins before them": (
                arriving_by(kept=lambda samples, n, width, hop: samples[len(samples) - (width - hop) :])
            ),
            "nothing is kept, so the next frames cannot lie across": arriving_by(
                kept=lambda samples, n, width, hop: samples[:0]
            ),
            "all samples are kept, so all frames would come out again": arriving_by(
                kept=lambda samples, n, width, hop: samples
            ),
        },
    ),
    "warped_distance": Exercise(
        right=warped_distance,
        cases=[warp_case(_RNG), warp_case(_RNG, 5, 3), warp_case(_RNG, 1, 4), warp_case(_RNG, 4, 1)],
        draw=lambda rng: warp_case(rng, *(rng.integers(1, 7, size=2).tolist())),
        mistakes={
            "these are the rules of the edit distance; here waiting costs what the two frames differ by, not 1": (
                edit_like
            ),
            "this takes the cheapest next step each time; a dear step may lead to a cheap way": greedy,
            "the step to both next frames is missing: the path may go on in both sounds at once": warped_by(
                steps=((1, 0), (0, 1))
            ),
            "the path may begin anywhere here; it begins with the first frames of both": warped_by(border="free"),
            "the path may end before the second sound does; it ends with the last frames of both": warped_by(end="any"),
            "the distance of the first two frames is missing": warped_by(first=False),
            "this is the longest path; take the smallest of the three before": warped_by(choose=max),
            "one sound can wait here, the other cannot: there are three steps": warped_by(steps=((1, 0), (1, 1))),
            "the other sound cannot wait: there are three steps": warped_by(steps=((0, 1), (1, 1))),
            "this is the sum over all pairs of frames; the path goes through a few": lambda cost: float(cost.sum()),
            "this is the mean over the path's longest form; the answer is the sum": lambda cost: (
                warped_distance(cost) / (sum(cost.shape) - 1)
            ),
            "each frame is paired with its nearest, wherever that is; the path never goes back": lambda cost: float(
                cost.min(axis=1).sum()
            ),
        },
    ),
}
