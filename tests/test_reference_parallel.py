"""Collectives on a ring, and ZeRO's stages: equal to plain sums and to one process, with the bytes of the formulas."""

import numpy as np
import pytest

from llama_minimal.reference import adamw_step, parallel

RANKS = [1, 2, 3, 4, 7]
SHAPES = [(0,), (1,), (5,), (12,), (3, 4), (2, 3, 5)]


def draw(n_ranks, shape, dtype="float64", seed=0):
    """Whole numbers: their sums are exact in any order."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-50, 50, size=shape).astype(dtype) for _ in range(n_ranks)]


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_rank_gets_the_sum(n_ranks, shape, dtype):
    arrays = draw(n_ranks, shape, dtype)
    before = [array.copy() for array in arrays]
    found = parallel.all_reduce(arrays)
    for array in found.arrays:
        np.testing.assert_array_equal(array, np.sum(arrays, axis=0), strict=True)
    np.testing.assert_array_equal(arrays, before)  # the arguments stay as they were


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_reduce_scatter_gives_a_piece_of_the_sum_and_all_gather_joins_pieces(n_ranks, shape):
    arrays = draw(n_ranks, shape)
    pieces = np.array_split(np.sum(arrays, axis=0).ravel(), n_ranks)
    scattered = parallel.reduce_scatter(arrays)
    for found, piece in zip(scattered.arrays, pieces, strict=True):
        np.testing.assert_array_equal(found, piece)
    for whole in parallel.all_gather(pieces).arrays:
        np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_all_gather_joins_parts_of_any_sizes():
    parts = [np.arange(3.0), np.zeros(0), np.array([7.0])]
    found = parallel.all_gather(parts)
    for whole in found.arrays:
        np.testing.assert_array_equal(whole, [0, 1, 2, 7])
    assert sum(found.sent) == 2 * 4 * 8  # each number travels to P − 1 others


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("n", [0, 1, 12, 29, 84])
def test_bytes_are_those_of_the_formula(n_ranks, n):
    """2(P − 1)/P of an array where P divides it; else within a piece of it, and in all exactly."""
    found = parallel.all_reduce(draw(n_ranks, (n,)))
    wanted = 2 * (n_ranks - 1) / n_ranks * n * 8
    assert sum(found.sent) == 2 * (n_ranks - 1) * n * 8
    if n % n_ranks == 0:
        assert found.sent == [wanted] * n_ranks
    for sent in found.sent:
        assert abs(sent - wanted) <= 2 * 8


def test_a_piece_travels_once_around_and_every_state_is_kept():
    """Ones at every rank: in exchange s one piece of each rank counts s + 2 terms."""
    n_ranks = 5
    states = parallel.reduce_scatter([np.ones(n_ranks)] * n_ranks).states
    assert len(states) == n_ranks
    for s, state in enumerate(states):
        terms = np.array([[piece.item() for piece in row] for row in state])
        newest = [terms[rank, (rank - 1 - s) % n_ranks] for rank in range(n_ranks)]
        assert newest == [s + 1] * n_ranks
        assert terms.max() == s + 1
    assert [states[-1][rank][rank].item() for rank in range(n_ranks)] == [n_ranks] * n_ranks


def test_any_numbers_add_up_within_rounding():
    arrays = list(np.random.default_rng(1).normal(size=(6, 1000)).astype(np.float32))
    for found in parallel.all_reduce(arrays).arrays:
        np.testing.assert_allclose(found, np.sum(arrays, axis=0), rtol=0, atol=2e-6)


def test_what_cannot_be_added_is_refused():
    with pytest.raises(ValueError, match="given none"):
        parallel.all_reduce([])
    with pytest.raises(ValueError, match="one shape and dtype"):
        parallel.all_reduce([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="one shape and dtype"):
        parallel.reduce_scatter([np.zeros(2), np.zeros(2, np.float32)])
    with pytest.raises(ValueError, match="one-dimensional"):
        parallel.all_gather([np.zeros((2, 2)), np.zeros((2, 2))])


# --- ZeRO ---

N = 23  # no multiple of any number of ranks below
SETTINGS = {"lr": 0.1, "weight_decay": 0.2}


def gradient(rank, params):
    """Of this rank's part of a loss: a quadratic bowl around a center of its own, whole numbers times the weights."""
    return (rank + 1) * params - np.arange(N) * (rank + 2)


def one_process(n_ranks, steps):
    params, m, v = np.linspace(-1, 1, N), np.zeros(N), np.zeros(N)
    for step in range(1, steps + 1):
        total = sum(gradient(rank, params) for rank in range(n_ranks))
        params, m, v = adamw_step(params, total, m, v, step, **SETTINGS)
    return params


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("n_ranks", [1, 2, 4, 5, 30])
def test_every_stage_trains_as_one_process(stage, n_ranks):
    ranks = parallel.ZeroRanks(np.linspace(-1, 1, N), n_ranks, stage, **SETTINGS)
    for _ in range(8):
        ranks.step(gradient)
    np.testing.assert_allclose(ranks.params(), one_process(n_ranks, 8), rtol=1e-11, atol=1e-13)
    if stage < 3:
        for weights in ranks.weights:
            np.testing.assert_array_equal(weights, ranks.params())  # the copies never drift apart


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("n_ranks", [1, 2, 4, 5, 30])
def test_ranks_hold_and_send_what_the_formulas_say(stage, n_ranks):
    ranks = parallel.ZeroRanks(np.zeros(N), n_ranks, stage, **SETTINGS)
    ranks.step(gradient)
    sizes = {"weight": 8, "gradient": 8}
    wanted = parallel.zero_memory(stage, N, n_ranks, **sizes, state=16)
    assert ranks.bytes_held(0) == wanted
    assert all(sum(ranks.bytes_held(rank).values()) <= sum(wanted.values()) for rank in range(n_ranks))
    traffic = parallel.zero_traffic(stage, N, n_ranks, **sizes)
    assert sum(ranks.sent) == pytest.approx(n_ranks * sum(sent for _, sent in traffic))


def test_memory_is_that_of_the_papers_first_figure():
    """7.5 billion parameters on 64 devices: 120, 31.4, 16.6 and 1.9 GB."""
    found = [sum(parallel.zero_memory(stage, 7_500_000_000, 64).values()) / 1e9 for stage in range(4)]
    assert [round(gigabytes, 1) for gigabytes in found] == [120.0, 31.4, 16.6, 1.9]


def test_stages_1_and_2_send_as_much_as_plain_data_parallelism_and_stage_3_half_as_much_again():
    sent = [sum(one for _, one in parallel.zero_traffic(stage, 6400, 64)) for stage in range(4)]
    assert sent[0] == sent[1] == sent[2]
    assert sent[3] == pytest.approx(1.5 * sent[0])


def test_there_are_four_stages():
    for make in (parallel.zero_memory, parallel.zero_traffic):
        with pytest.raises(ValueError, match="stages 0 "):
            make(4, 100, 2)
    with pytest.raises(ValueError, match="stages 0 "):
        parallel.ZeroRanks(np.zeros(3), 2, -1)
