"""ZeRO: data parallelism in which each rank keeps only its share of the optimizer state, gradients and weights."""

# P processes, N parameters

from collections.abc import Callable

import numpy as np

from llama_minimal.config.checks import check_integer
from llama_minimal.reference._types import Array
from llama_minimal.reference.optim import adamw_step
from llama_minimal.reference.parallel.collectives import Collective, all_gather, all_reduce, reduce_scatter

KINDS = ("weights", "gradients", "state")  # a stage cuts the last ``stage`` of these, from the right


def zero_memory(
    stage: int, n_params: int, n_ranks: int, *, weight: int = 2, gradient: int = 2, state: int = 12
) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimizer state on the rank that holds most.

    Stage 0 (plain data parallelism): N·(w + g + k). Stage 1 cuts the state, 2 also the gradients, 3 also the weights:
    what is cut counts ⌈N/P⌉ instead of N.

    Args:
        stage: 0, 1, 2 or 3.
        n_params: N.
        n_ranks: P.
        weight: bytes of a parameter as it computes.
        gradient: bytes of its gradient.
        state: bytes of its optimizer state; AdamW's 12 are a float32 copy of the parameter and two float32 moments.

    Raises:
        ValueError: if there is no such stage, or a number is below one.

    Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", figure 1.
    """
    _check_stage(stage, n_params=n_params, n_ranks=n_ranks)
    share = -(-n_params // n_ranks)
    each = dict(zip(KINDS, (weight, gradient, state), strict=True))
    return {kind: size * (share if _is_cut(kind, stage) else n_params) for kind, size in each.items()}


def zero_traffic(
    stage: int, n_params: int, n_ranks: int, *, weight: int = 2, gradient: int = 2
) -> list[tuple[str, float]]:
    """Return the collectives of one step in their order, each with the bytes that a rank sends.

    An all-gather or a reduce-scatter of n bytes on a ring costs each rank n·(P − 1)/P, an all-reduce twice as much. So
    stages 1 and 2 send no more than stage 0, and stage 3 half as much again.

    Args:
        stage: 0, 1, 2 or 3.
        n_params: N; a multiple of P, or the numbers are means over the ranks.
        n_ranks: P.
        weight: bytes of a parameter as it is sent.
        gradient: bytes of its gradient.

    Raises:
        ValueError: if there is no such stage, or a number is below one.

    Source: Rajbhandari et al. 2020, section 7.
    """
    _check_stage(stage, n_params=n_params, n_ranks=n_ranks)
    part = n_params * (n_ranks - 1) / n_ranks
    scatter, gather = ("reduce-scatter gradients", part * gradient), part * weight
    if stage == 0:
        return [("all-reduce gradients", 2 * part * gradient)]
    if stage < 3:
        return [scatter, ("all-gather weights", gather)]
    return [("all-gather weights, forward", gather), ("all-gather weights, backward", gather), scatter]


class ZeroRanks:
    """Train one vector of parameters on P ranks, each of which stores what its stage lets it store.

    Args:
        params: (N,).
        n_ranks: P.
        stage: 0, 1, 2 or 3.
        adamw: settings of ``adamw_step``, such as ``lr``.

    Raises:
        ValueError: if there is no such stage, or a number is below one.
    """

    def __init__(self, params: Array, n_ranks: int, stage: int, **adamw: float) -> None:
        _check_stage(stage, n_ranks=n_ranks)
        self.stage, self.n_ranks, self.adamw, self.steps = stage, n_ranks, adamw, 0
        self.places = np.array_split(np.arange(params.size), n_ranks)
        self.weights = [self._stored("weights", params, rank) for rank in range(n_ranks)]
        self.gradients = [np.zeros_like(self._stored("gradients", params, rank)) for rank in range(n_ranks)]
        self.m, self.v = (
            [np.zeros_like(self._stored("state", params, rank)) for rank in range(n_ranks)] for _ in range(2)
        )
        self.sent = [0] * n_ranks  # bytes so far

    def step(self, gradient: Callable[[int, Array], Array]) -> None:
        """Do one step of AdamW along the sum of all ranks' gradients.

        Args:
            gradient: of a rank's part of the batch, ``gradient(rank, params)``, (N,).
        """
        self.steps += 1
        whole = self.weights
        for _ in range(2 if self.stage == 3 else 0):  # between forward and backward a real model lets go of them
            whole = self._counted(all_gather(self.weights))
        own = [gradient(rank, whole[rank]) for rank in range(self.n_ranks)]
        self.gradients = self._sum(own)
        moved = [self._move(rank) for rank in range(self.n_ranks)]
        self.weights = self._counted(all_gather(moved)) if self.stage in (1, 2) else moved

    def bytes_held(self, rank: int) -> dict[str, int]:
        """Return the bytes of the arrays that a rank stores between two steps."""
        state = self.m[rank].nbytes + self.v[rank].nbytes
        return {"weights": self.weights[rank].nbytes, "gradients": self.gradients[rank].nbytes, "state": state}

    def params(self) -> Array:
        """Return all parameters, (N,)."""
        return np.concatenate(self.weights) if self.stage == 3 else self.weights[0]

    def _sum(self, own: list[Array]) -> list[Array]:
        """Return what each rank keeps of the sum: all of it, or its piece (in stage 1 at its place among its own)."""
        if self.stage == 0:
            return self._counted(all_reduce(own))
        pieces = self._counted(reduce_scatter(own))
        if self.stage > 1:
            return pieces
        kept = [array.copy() for array in own]
        for array, places, piece in zip(kept, self.places, pieces, strict=True):
            array[places] = piece
        return kept

    def _move(self, rank: int) -> Array:
        """Return the parameters that this rank moves: all, or its piece."""
        gradient, weights = self._own(self.gradients[rank], rank), self._own(self.weights[rank], rank)
        moments = self.m[rank], self.v[rank]
        moved, self.m[rank], self.v[rank] = adamw_step(weights, gradient, *moments, self.steps, **self.adamw)
        return moved

    def _own(self, array: Array, rank: int) -> Array:
        """Return a rank's piece of what it stores, which may be that piece already."""
        return array if self.stage == 0 or array.size == self.places[rank].size else array[self.places[rank]]

    def _stored(self, kind: str, array: Array, rank: int) -> Array:
        return array[self.places[rank]] if _is_cut(kind, self.stage) else array.copy()

    def _counted(self, collective: Collective) -> list[Array]:
        self.sent = [a + b for a, b in zip(self.sent, collective.sent, strict=True)]
        return collective.arrays


def _is_cut(kind: str, stage: int) -> bool:
    return KINDS.index(kind) >= len(KINDS) - stage


def _check_stage(stage: int, **counts: int) -> None:
    if stage not in range(4):
        raise ValueError(f"ZeRO has the stages 0 (plain data parallelism), 1, 2 and 3, not {stage}")
    for name, count in counts.items():
        check_integer(name, count)
