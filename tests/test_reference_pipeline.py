"""Orders against PyTorch's schedules; timelines, bubbles and stored activations against the papers' formulas."""

from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining.schedules import ScheduleGPipe, ScheduleInterleaved1F1B, _get_1f1b_rank_ops

from llama_minimal.reference.parallel import balance, interleaved_order, order, simulate

SIZES = [(1, 1), (1, 5), (2, 2), (2, 7), (3, 3), (4, 4), (4, 9), (5, 12), (8, 16)]


def passes(actions):
    """PyTorch's actions as our events, without its waits and its reductions of gradients."""
    return [(a.computation_type.value, a.microbatch_index) for a in actions if a and a.computation_type in "FB"]


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_gpipes_order_is_pytorchs(stages, micro_batches):
    asked = SimpleNamespace(_num_stages=stages, _n_microbatches=micro_batches)
    theirs = ScheduleGPipe._get_pipeline_order(asked)
    assert order("gpipe", stages, micro_batches) == [passes(theirs[rank]) for rank in range(stages)]


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_1f1bs_order_is_pytorchs(stages, micro_batches):
    """By the function behind its interleaved schedule: the list of ``Schedule1F1B`` in PyTorch 2.13, which it does
    not run by, counts the last stage's forwards from 1.
    """
    for rank, events in enumerate(order("1f1b", stages, micro_batches)):
        first = stages - 1 - rank
        counts = (first, micro_batches - first, first)
        theirs = _get_1f1b_rank_ops(1, stages, *counts, rank, lambda step: 0, lambda step: 0)
        assert events == passes(theirs)


@pytest.mark.parametrize(("ranks", "micro_batches", "chunks"), [(2, 2, 2), (2, 6, 2), (3, 3, 3), (4, 8, 2), (4, 12, 3)])
def test_interleaved_orders_are_pytorchs(ranks, micro_batches, chunks):
    asked = SimpleNamespace(
        n_local_stages=chunks, microbatches_per_round=ranks, pp_group_size=ranks, _n_microbatches=micro_batches
    )
    for rank, events in enumerate(interleaved_order(ranks, micro_batches, chunks)):
        theirs = ScheduleInterleaved1F1B._calculate_single_rank_operations(asked, rank)
        expected = [
            (a.computation_type.value, a.microbatch_index, a.stage_index // ranks) for a in theirs if a is not None
        ]
        assert events == expected


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "micro_batches"), [*SIZES, (4, 1), (4, 3), (5, 2)])
@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (1, 1), (2, 3)])
def test_the_bubble_is_the_formulas(schedule, stages, micro_batches, forward, backward):
    timeline = simulate(order(schedule, stages, micro_batches), forward, backward)
    assert timeline.span == (micro_batches + stages - 1) * (forward + backward)
    assert timeline.bubble == pytest.approx((stages - 1) / (micro_batches + stages - 1), abs=1e-12)


@pytest.mark.parametrize(("stages", "micro_batches"), [*SIZES, (4, 1), (4, 3)])
def test_gpipe_keeps_every_micro_batch_and_1f1b_a_pipelines_length(stages, micro_batches):
    kept = {
        schedule: simulate(order(schedule, stages, micro_batches)).peak_activations for schedule in ("gpipe", "1f1b")
    }
    assert kept["gpipe"] == [micro_batches] * stages
    assert kept["1f1b"] == [min(stages - stage, micro_batches) for stage in range(stages)]


@pytest.mark.parametrize(("ranks", "micro_batches", "chunks"), [(2, 2, 2), (2, 6, 3), (4, 8, 2), (4, 4, 4), (3, 9, 1)])
def test_interleaving_divides_the_bubble_by_the_chunks(ranks, micro_batches, chunks):
    timeline = simulate(interleaved_order(ranks, micro_batches, chunks))
    waiting = timeline.bubble / (1 - timeline.bubble)  # the paper's bubble: waiting time over the ideal time
    assert waiting == pytest.approx((ranks - 1) / (micro_batches * chunks), abs=1e-12)


def test_one_chunk_a_rank_has_the_bubble_of_1f1b_and_keeps_more():
    plain, interleaved = simulate(order("1f1b", 4, 8)), simulate(interleaved_order(4, 8, 1))
    assert plain.bubble == pytest.approx(interleaved.bubble, abs=1e-12)
    assert plain.peak_activations == [4, 3, 2, 1]
    assert interleaved.peak_activations == [7, 5, 3, 1]


def test_layers_one_after_another_leave_all_ranks_but_one_idle():
    assert simulate(order("gpipe", 4, 1)).bubble == pytest.approx(3 / 4, abs=1e-12)


def test_a_small_timeline_by_hand():
    first, second = simulate(order("1f1b", 2, 2)).steps
    assert first == [(0, 1, "F", 0, 0), (1, 2, "F", 1, 0), (4, 6, "B", 0, 0), (7, 9, "B", 1, 0)]
    assert second == [(1, 2, "F", 0, 0), (2, 4, "B", 0, 0), (4, 5, "F", 1, 0), (5, 7, "B", 1, 0)]


costs = st.lists(st.integers(1, 9), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["gpipe", "1f1b"]), st.integers(1, 7), costs, costs)
def test_every_pass_starts_when_the_last_of_what_it_needs_has_ended(schedule, micro_batches, forward, backward):
    steps = simulate(order(schedule, 4, micro_batches), forward, backward).steps
    ended = {(step.kind, step.micro_batch, rank): step.end for rank, row in enumerate(steps) for step in row}
    for rank, row in enumerate(steps):
        for before, step in pairwise([None, *row]):
            if step.kind == "F":
                arrives = ended.get(("F", step.micro_batch, rank - 1), 0)
            else:
                arrives = ended.get(("B", step.micro_batch, rank + 1), ended["F", step.micro_batch, rank])
            assert step.start == max(arrives, before.end if before else 0)
            assert step.end - step.start == (forward if step.kind == "F" else backward)[rank]


def test_the_slowest_stage_sets_the_pace():
    even = simulate(order("1f1b", 3, 30))
    uneven = simulate(order("1f1b", 3, 30), forward=[0.5, 2, 0.5], backward=[1, 4, 1])  # the same work in all
    assert even.span == 32 * 3
    assert simulate(order("1f1b", 3, 30), np.array([0.5, 2, 0.5]), np.array([1, 4, 1])) == uneven
    assert uneven.span == 0.5 + 30 * 6 + 1  # filled, then 30 times the slow stage, then drained


@pytest.mark.parametrize(
    "broken",
    [
        [[("B", 0), ("F", 0)]],
        [[("F", 0), ("B", 0)], [("F", 1), ("B", 1)]],
        [[("F", 0), ("B", 0), ("F", 1), ("B", 1)], [("F", 1), ("F", 0), ("B", 0), ("B", 1)]],
    ],
)
def test_an_order_in_which_ranks_wait_for_each_other_is_refused(broken):
    with pytest.raises(ValueError, match="wait forever: rank"):
        simulate(broken)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.data())
def test_no_other_cut_has_a_cheaper_dearest_stage(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    sizes = balance(costs, stages)
    assert len(sizes) == stages
    assert min(sizes) >= 1
    assert sum(sizes) == len(costs)

    def dearest(ends):
        return max(sum(costs[i:j]) for i, j in pairwise([0, *ends, len(costs)]))

    ours = dearest([sum(sizes[:i]) for i in range(1, stages)])
    assert ours == min(dearest(ends) for ends in combinations(range(1, len(costs)), stages - 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: order("dapple", 2, 2), "schedule is 'dapple'; known are gpipe and 1f1b"),
        (lambda: order("gpipe", 0, 2), "stages is 0; it must be one at least"),
        (lambda: order("gpipe", 2, 0), "micro-batches is 0; it must be one at least"),
        (lambda: interleaved_order(4, 6, 2), "6 micro-batches are no multiple of 4 ranks; 8 would be"),
        (lambda: balance([1, 1], 3), "2 layers cannot fill 3 stages; at most 2 would"),
    ],
)
def test_what_cannot_work_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
