"""Pipelines: who does which micro-batch's forward and backward when, and what has to be kept meanwhile.

An *event* is ("F", micro_batch) or ("B", micro_batch): one stage's forward or backward pass for one micro-batch.
Where a rank holds several chunks of the model, the chunk stands third: ("F", micro_batch, chunk). An *order* lists
each rank's events; it says nothing of time. ``simulate`` adds the time, in whatever unit its costs have.
"""

# P ranks, M micro-batches

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

Event = tuple[str, int] | tuple[str, int, int]
Order = list[list[Event]]


def order(schedule: str, stages: int, micro_batches: int) -> Order:
    """List each stage's forward and backward passes, first to last.

    ``gpipe``: all M forwards, then all M backwards. ``1f1b``: stage s starts with P − s forwards, as many as it
    takes until the first backward can arrive, and from then on follows each backward with the next forward.
    Both start the backwards with micro-batch 0, as PyTorch's schedules do.

    Args:
        schedule: ``"gpipe"`` or ``"1f1b"``.
        stages: P, one a rank.
        micro_batches: M, which may be fewer than the stages.

    Returns:
        For each of the P stages its 2M events.

    Raises:
        ValueError: if the schedule has another name, or a number is below one.

    Example:
        >>> order("1f1b", 2, 3)[0]
        [('F', 0), ('F', 1), ('B', 0), ('F', 2), ('B', 1), ('B', 2)]

    Source: Huang et al. 2019, "GPipe", §2.3 (there the last micro-batch comes back first); Narayanan et al. 2021,
    "Efficient large-scale language model training on GPU clusters using Megatron-LM", §2.2.1 (1F1B).
    """
    _check(stages=stages, micro_batches=micro_batches)
    if schedule not in ("gpipe", "1f1b"):
        raise ValueError(f"schedule is {schedule!r}; known are gpipe and 1f1b")
    forwards: list[Event] = [("F", m) for m in range(micro_batches)]
    backwards: list[Event] = [("B", m) for m in range(micro_batches)]
    if schedule == "gpipe":
        return [forwards + backwards for _ in range(stages)]
    return [_alternate(forwards, backwards, stages - stage) for stage in range(stages)]


def interleaved_order(ranks: int, micro_batches: int, chunks: int) -> Order:
    """List each rank's passes where it holds several chunks of the model, chunk c of rank r being stage c·P + r.

    Micro-batches go through in groups of P: a rank does its first chunk for the whole group, then its second, and
    so on. Each chunk is short, and so the pipeline fills and drains in shorter steps.

    Args:
        ranks: P.
        micro_batches: M, a multiple of P.
        chunks: stages on each rank.

    Returns:
        For each of the P ranks its 2·M·chunks events, each (kind, micro_batch, chunk).

    Raises:
        ValueError: if a number is below one, or M is no multiple of P.

    Source: Narayanan et al. 2021, §2.2.2.
    """
    _check(ranks=ranks, micro_batches=micro_batches, chunks=chunks)
    if micro_batches % ranks:
        nearest = -(-micro_batches // ranks) * ranks
        raise ValueError(f"{micro_batches} micro-batches are no multiple of {ranks} ranks; {nearest} would be")
    groups = [range(first, first + ranks) for first in range(0, micro_batches, ranks)]
    forwards: list[Event] = [("F", m, c) for group in groups for c in range(chunks) for m in group]
    backwards: list[Event] = [("B", m, c) for group in groups for c in reversed(range(chunks)) for m in group]
    # A rank's first backward waits for all other chunks of a group, and for the way to the last rank and back.
    ahead = [(chunks - 1) * ranks + 2 * (ranks - 1 - rank) + 1 for rank in range(ranks)]
    return [_alternate(forwards, backwards, each) for each in ahead]


def _alternate(forwards: list[Event], backwards: list[Event], ahead: int) -> list[Event]:
    # `ahead` forwards first; then a backward and a forward in turn; then the backwards that remain.
    ahead = min(ahead, len(forwards))
    turns = zip(backwards, forwards[ahead:], strict=False)
    rest = backwards[len(forwards) - ahead :]
    return forwards[:ahead] + [event for turn in turns for event in turn] + rest


class Step(NamedTuple):
    """Say when one pass runs."""

    start: float
    end: float
    kind: str
    """``"F"`` or ``"B"``."""
    micro_batch: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hold what every rank does when."""

    steps: list[list[Step]]
    """For each rank its passes, first to last."""

    @property
    def span(self) -> float:
        """The time from the first pass's start to the last one's end."""
        return max(step.end for steps in self.steps for step in steps)

    @property
    def bubble(self) -> float:
        """The share of all ranks' time in which they wait; (P − 1)/(M + P − 1) where all stages cost the same."""
        busy = sum(step.end - step.start for steps in self.steps for step in steps)
        return 1 - busy / (len(self.steps) * self.span)

    @property
    def peak_activations(self) -> list[int]:
        """For each rank, the most passes whose activations it holds at once: forward begun, backward not yet done."""
        return [max(accumulate(1 if step.kind == "F" else -1 for step in steps)) for steps in self.steps]


def simulate(order: Order, forward: float | Sequence[float] = 1, backward: float | Sequence[float] = 2) -> Timeline:
    """Let every rank do its passes in order, each as soon as what it needs is there.

    A forward needs the forward of the stage before, a backward the backward of the stage behind; the last stage's
    backward needs its own forward. Sending takes no time.

    Args:
        order: from ``order`` or ``interleaved_order``, or your own.
        forward, backward: what one pass costs, for all ranks or one number for each.

    Raises:
        ValueError: if the ranks would wait for each other forever, or a pass would take less than no time.

    Example:
        >>> simulate(order("gpipe", 4, 8)).bubble == 3 / 11
        True
    """
    ranks = len(order)
    costs = {kind: np.broadcast_to(cost, ranks).tolist() for kind, cost in (("F", forward), ("B", backward))}
    for name, kind in (("forward", "F"), ("backward", "B")):
        if not all(0 <= cost < math.inf for cost in costs[kind]):
            raise ValueError(f"{name} costs {costs[kind]}; each must be a number of at least 0")
    last = max((_stage(event, rank, ranks) for rank, events in enumerate(order) for event in events), default=0)
    steps: list[list[Step]] = [[] for _ in order]
    done: dict[tuple[str, int, int], float] = {}  # (kind, micro-batch, stage) -> when it ended
    while moved := [rank for rank in range(ranks) if len(steps[rank]) < len(order[rank])]:
        before = len(done)
        for rank in moved:
            event = order[rank][len(steps[rank])]
            stage = _stage(event, rank, ranks)
            needed = _needs(event, stage, last)
            if needed is None or needed in done:
                start = max(steps[rank][-1].end if steps[rank] else 0, 0 if needed is None else done[needed])
                steps[rank].append(Step(start, start + costs[event[0]][rank], *event))
                done[event[0], event[1], stage] = steps[rank][-1].end
        if len(done) == before:
            waiting = ", ".join(f"rank {rank} at {order[rank][len(steps[rank])]}" for rank in moved)
            raise ValueError(f"these wait forever: {waiting}; each pass must come after what it needs")
    return Timeline(steps)


def _stage(event: Event, rank: int, ranks: int) -> int:
    return (event[2] if len(event) > 2 else 0) * ranks + rank


def _needs(event: Event, stage: int, last: int) -> tuple[str, int, int] | None:
    kind, micro_batch = event[:2]
    if kind == "F":
        return ("F", micro_batch, stage - 1) if stage else None
    return ("B", micro_batch, stage + 1) if stage < last else ("F", micro_batch, stage)


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """Cut a row of layers into stages so that the dearest stage is as cheap as can be.

    best(i, s) = min over j of max(best(j, s − 1), cost of the layers j … i − 1).

    Args:
        costs: of each layer, first to last: parameters, or time.
        stages: how many, each with one layer at least.

    Returns:
        How many layers each stage gets; the numbers add up to ``len(costs)``.

    Raises:
        ValueError: if there are more stages than layers, or fewer than one.

    Example:
        >>> balance([1, 1, 1, 1, 1, 1], 3)
        [2, 2, 2]
    """
    _check(stages=stages)
    if stages > len(costs):
        raise ValueError(f"{len(costs)} layers cannot fill {stages} stages; at most {len(costs)} would")
    ends = [0, *accumulate(costs)]
    best = {(0, 0): (0.0, [0])}  # (layers, stages) -> the dearest stage's cost, and where the stages begin and end
    for stage in range(1, stages + 1):
        for i in range(stage, len(costs) + 1):
            cuts = (
                (max(best[j, stage - 1][0], ends[i] - ends[j]), [*best[j, stage - 1][1], i])
                for j in range(stage - 1, i)
                if (j, stage - 1) in best
            )
            best[i, stage] = min(cuts, key=lambda cut: cut[0])
    return [end - start for start, end in pairwise(best[len(costs), stages][1])]


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name.replace('_', '-')} is {number}; it must be one at least")
