"""Two exercises of chapter 22, on planning: right answers, and almost right ones."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(22)
_BYTES = 4  # of a number in float32


def held_states(n: int, data: int, shard: bool, micro_batches: int) -> tuple[float, float, float]:
    """Return the bytes of weights, gradients and moments when the last micro-batch's backward pass begins."""
    part = n / data if shard else n
    gradients = n if micro_batches > 1 else 0
    return _BYTES * part, _BYTES * gradients, 2 * _BYTES * part


def states_case(rng: np.random.Generator, data: int, shard: bool, micro_batches: int) -> tuple:
    """Draw a number of parameters that the processes can share."""
    return data * int(rng.integers(10, 999)), data, shard, micro_batches


def drawn_states(rng: np.random.Generator) -> tuple:
    """Draw a layout, too."""
    return states_case(rng, int(rng.integers(2, 9)), bool(rng.integers(2)), int(rng.integers(1, 5)))


def states_by(
    *,
    gradients: Callable[[float, float, int], float] = lambda n, part, M: n if M > 1 else 0,
    weights: Callable[[float, float], float] = lambda n, part: part,
    moments: Callable[[float, float], float] = lambda n, part: 2 * part,
) -> Callable[..., tuple[float, float, float]]:
    """Return an answer that counts one of the three otherwise; each is given n, a process's part of it and M."""

    def answer(n: int, data: int, shard: bool, micro_batches: int) -> tuple[float, float, float]:
        part = n / data if shard else n
        parts = weights(n, part), gradients(n, part, micro_batches), moments(n, part)
        return tuple(_BYTES * count for count in parts)

    return answer


def utilizations(tokens_per_second: float, n: float, flops: float, checkpointing: bool) -> tuple[float, float]:
    """Return the shares of a machine's arithmetic that the model makes use of, and that the machine is busy with."""
    model = 6 * n * tokens_per_second / flops
    return model, model * (8 / 6 if checkpointing else 1)


def utilization_case(rng: np.random.Generator, checkpointing: bool) -> tuple:
    """Draw a machine, a model and a speed."""
    n, flops = 1e9 * rng.uniform(1, 70), 1e12 * rng.uniform(100, 1000)
    return rng.uniform(0.2, 0.6) * flops / (6 * n), n, flops, checkpointing


def drawn_utilization(rng: np.random.Generator) -> tuple:
    """Draw whether all is computed anew, too."""
    return utilization_case(rng, bool(rng.integers(2)))


def utilizations_by(model: float, plain: float, again: float) -> Callable[..., tuple[float, float]]:
    """Return an answer with other numbers of operations for each parameter and token."""

    def answer(tokens_per_second: float, n: float, flops: float, checkpointing: bool) -> tuple[float, float]:
        share = n * tokens_per_second / flops
        return model * share, (again if checkpointing else plain) * share

    return answer


EXERCISES_PLANNER = {
    "held_states": Exercise(
        right=held_states,
        cases=[states_case(_RNG, 4, True, 3), states_case(_RNG, 8, True, 1), states_case(_RNG, 2, False, 4)],
        draw=drawn_states,
        mistakes={
            "the gradients are shared out here; until the last micro-batch each process adds up whole ones": (
                states_by(gradients=lambda n, part, M: part if M > 1 else 0)
            ),
            "before the first backward pass there are no gradients; with one micro-batch that is now": states_by(
                gradients=lambda n, part, M: n
            ),
            "the gradients of earlier micro-batches are added up in one place, not kept one by one": states_by(
                gradients=lambda n, part, M: (M - 1) * n
            ),
            "each micro-batch before the last has left its gradients": states_by(gradients=lambda n, part, M: 0),
            "gradients are shared out, and there before the first backward pass: neither is so": states_by(
                gradients=lambda n, part, M: part
            ),
            "the weights are whole here; sharded, a process holds its slice between the layers' turns": states_by(
                weights=lambda n, part: n
            ),
            "the moments are whole here; sharded, each process updates its slice only": states_by(
                moments=lambda n, part: 2 * n
            ),
            "AdamW has two moments of each parameter": states_by(moments=lambda n, part: part),
            "these are numbers; each takes 4 bytes": lambda *case: tuple(x / _BYTES for x in held_states(*case)),
            "these are 2 bytes each; weights, gradients and moments are float32 here": lambda *case: tuple(
                x / 2 for x in held_states(*case)
            ),
            "it is sharded although it should not be, or the other way round": lambda n, data, shard, M: held_states(
                n, data, not shard, M
            ),
        },
    ),
    "utilizations": Exercise(
        right=utilizations,
        cases=[utilization_case(_RNG, True), utilization_case(_RNG, False), utilization_case(_RNG, True)],
        draw=drawn_utilization,
        mistakes={
            "only the forward pass is counted: two operations; back it is twice as many": utilizations_by(2, 2, 4),
            "a multiplication and an addition are two operations": utilizations_by(3, 3, 4),
            "the first share does not depend on checkpointing: the model learns the same": lambda *case: (
                (utilizations(*case)[1],) * 2
            ),
            "the machine computes the forward pass again: eight operations instead of six": utilizations_by(6, 6, 6),
            "all is counted twice here; only the forward pass is done again": utilizations_by(6, 6, 12),
            "the forward pass is done again also without checkpointing here": utilizations_by(6, 8, 8),
            "the two shares are exchanged: the model's first": lambda *case: utilizations(*case)[::-1],
            "these are percent; a share is between 0 and 1": lambda *case: tuple(100 * x for x in utilizations(*case)),
            "these are operations in a second; divide by what the machine could do": lambda rate, n, flops, again: (
                tuple(flops * x for x in utilizations(rate, n, flops, again))
            ),
        },
    ),
}
