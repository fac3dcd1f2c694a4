"""The exercises on sound: right answers by other means, each mistake named, and answers as readers write them."""

import itertools

import numpy as np
import pytest
import torch

from llama_minimal.course.checks.speech_answers import EXERCISES_SPEECH, next_frames, warped_distance
from llama_minimal.course.exercises import judge

FRAMES, WARPED = EXERCISES_SPEECH["next_frames"], EXERCISES_SPEECH["warped_distance"]
MISTAKES = [(name, text) for name, exercise in EXERCISES_SPEECH.items() for text in exercise.mistakes]


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_pieces_are_the_frames_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 9))
    hop = int(rng.integers(1, width + 1))
    whole = rng.normal(size=60)
    cuts = np.sort(rng.integers(0, 60, size=6))
    rest, found = np.zeros(0), []
    for chunk in np.split(whole, cuts):
        frames, rest = next_frames(rest, chunk, width, hop)
        found += list(frames)
        assert len(rest) < width
    wanted = torch.from_numpy(whole).unfold(0, width, hop).numpy()
    np.testing.assert_array_equal(np.array(found), wanted)


def all_paths(n, m):
    """Every way from (0, 0) to (n − 1, m − 1), by choosing in which steps which sound goes on."""
    for length in range(max(n, m), n + m):
        for moves in itertools.product(((1, 0), (0, 1), (1, 1)), repeat=length - 1):
            places = np.cumsum([(0, 0), *moves], axis=0)
            if tuple(places[-1]) == (n - 1, m - 1):
                yield places


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (3, 1), (2, 3), (3, 3), (4, 3)])
def test_no_path_is_shorter_than_the_warped_distance(n, m):
    cost = np.random.default_rng(10 * n + m).uniform(0.1, 2, size=(n, m))
    best = min(cost[tuple(places.T)].sum() for places in all_paths(n, m))
    assert warped_distance(cost) == pytest.approx(best)


def test_a_sound_said_more_slowly_lies_at_distance_0():
    x = np.random.default_rng(0).normal(size=(5, 3))
    slow = np.repeat(x, [1, 3, 2, 1, 2], axis=0)
    assert warped_distance(((x[:, None] - slow[None]) ** 2).sum(axis=2)) == 0
    assert warped_distance(((x[:, None] - x[None, ::-1]) ** 2).sum(axis=2)) > 1


@pytest.mark.parametrize("name", EXERCISES_SPEECH)
def test_solution_stub_and_raising_code(name):
    exercise = EXERCISES_SPEECH[name]
    assert judge(exercise, exercise.right, strict=True).text == ""
    assert judge(exercise, lambda *_: None).text is None
    assert "ZeroDivisionError" in judge(exercise, lambda *_: 1 / 0).text


@pytest.mark.parametrize(("name", "text"), MISTAKES)
def test_each_mistake_is_named(name, text):
    exercise = EXERCISES_SPEECH[name]
    assert judge(exercise, exercise.mistakes[text], strict=True).text == text


def frames_of(samples, width, hop, n=None):
    n = (len(samples) - width) // hop + 1 if n is None else n
    return np.array([samples[hop * t : hop * t + width] for t in range(n)]).reshape(-1, width)


def chunk_alone(rest, chunk, width, hop):
    frames = frames_of(chunk, width, hop)
    return frames, chunk[hop * len(frames) :]


def keeps_a_window(rest, chunk, width, hop):
    samples = np.concatenate([rest, chunk])
    return frames_of(samples, width, hop), samples[-(width - 1) :]


def keeps_behind_the_last(rest, chunk, width, hop):
    samples = np.concatenate([rest, chunk])
    frames = frames_of(samples, width, hop)
    return frames, samples[hop * (len(frames) - 1) + width :] if len(frames) else samples


def keeps_last_frame(rest, chunk, width, hop):
    samples = np.concatenate([rest, chunk])
    frames = frames_of(samples, width, hop)
    return frames, samples[hop * (len(frames) - 1) :] if len(frames) else samples


def fills_up(rest, chunk, width, hop):
    samples = np.concatenate([rest, chunk])
    n = -(-len(samples) // hop)
    return frames_of(np.concatenate([samples, np.zeros(width)]), width, hop, n), samples[:0]


def frames_alone(rest, chunk, width, hop):
    return next_frames(rest, chunk, width, hop)[0]


def rest_first(rest, chunk, width, hop):
    return next_frames(rest, chunk, width, hop)[::-1]


def transposed_frames(rest, chunk, width, hop):
    frames, rest = next_frames(rest, chunk, width, hop)
    return frames.T, rest


def keeps_in_place(rest, chunk, width, hop):
    chunk *= 0.5
    return next_frames(rest, 2 * chunk, width, hop)


def warped(cost, before):
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i, j in np.ndindex(*cost.shape):
        total[i + 1, j + 1] = cost[i, j] + before(total, i, j)
    return total[-1, -1]


def diagonal(cost):
    return float(sum(cost[i, i] for i in range(min(cost.shape))))


def paid_once(cost):
    n, m = cost.shape
    total = np.zeros((n + 1, m + 1))
    for i, j in np.ndindex(n, m):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[-1, -1]


READERS = [
    (FRAMES, chunk_alone, "the rest is not put before"),
    (FRAMES, keeps_a_window, ""),
    (FRAMES, keeps_behind_the_last, "hop after the last one's"),
    (FRAMES, keeps_last_frame, "a second time"),
    (FRAMES, fills_up, ""),
    (FRAMES, frames_alone, ""),
    (FRAMES, rest_first, ""),
    (FRAMES, transposed_frames, ""),
    (FRAMES, keeps_in_place, "changes its argument `chunk`"),
    (WARPED, lambda cost: warped(cost, lambda t, i, j: min(t[i, j + 1], t[i + 1, j])), "infinite"),
    (WARPED, lambda cost: warped(cost, lambda t, i, j: t[i, j]), ""),
    (WARPED, diagonal, ""),
    (WARPED, paid_once, "begin anywhere"),
    (WARPED, lambda cost: float(cost.sum()), "all pairs"),
    (WARPED, lambda cost: float(cost.min(axis=0).sum()), ""),
    (WARPED, lambda cost: warped_distance(cost) / cost.size, ""),
    (WARPED, lambda cost: -warped_distance(-cost), ""),
    (WARPED, lambda cost: warped_distance(cost**2), ""),
    (WARPED, lambda cost: warped_distance(cost) ** 0.5, ""),
]


@pytest.mark.parametrize(("exercise", "answer", "said"), READERS)
def test_what_a_reader_would_write_is_refused(exercise, answer, said):
    verdict = judge(exercise, answer, strict=True)
    assert verdict.text
    assert said in verdict.text
