"""Chapter 22: the right answers on clocks and chunks by other ways."""

import numpy as np
import pytest
import torch

from llama_minimal.course.checks.scaling_answers import EXERCISES_SCALING
from llama_minimal.course.experiments import throughput_ladder


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_gradient_with_a_penalty_is_autograds(rows):
    rng = np.random.default_rng(0)
    x, w, targets = rng.normal(size=(11, 4)), rng.normal(size=(6, 4)), rng.integers(6, size=11)
    x_torch, w_torch = (torch.tensor(a, requires_grad=True) for a in (x, w))
    z = x_torch @ w_torch.T
    loss = torch.nn.functional.cross_entropy(z, torch.tensor(targets), reduction="sum")
    (loss + 0.3 * (z.logsumexp(-1) ** 2).sum()).backward()
    dx, dw = EXERCISES_SCALING["z_loss"].right(x, w, targets, 0.3, rows)
    np.testing.assert_allclose(dx, x_torch.grad)
    np.testing.assert_allclose(dw, w_torch.grad)


def test_a_step_is_never_quicker_than_either_clock_and_they_meet_once():
    step = EXERCISES_SCALING["step_seconds"].right
    machine = {"rate": 2e12, "flops": 3e14}
    seconds = [step(7e9, 2, batch, 0, 5e5, **machine) for batch in range(1, 400)]
    assert seconds[0] == 14e9 / 2e12  # reading alone
    assert seconds[-1] == pytest.approx(2 * 7e9 * 399 / 3e14)  # computing alone
    meets = 3e14 / 2e12
    assert [a == seconds[0] for a in seconds] == [batch <= meets for batch in range(1, 400)]
    # Of a long context the caches weigh as much as the weights, here for 14 texts of 2,000 tokens.
    assert step(7e9, 2, 14, 2000, 5e5, **machine) == pytest.approx(2 * step(7e9, 2, 14, 0, 5e5, **machine))


def test_every_rung_adds_one_thing_to_the_one_below():
    rungs = list(throughput_ladder.RUNGS.values())
    assert rungs[0] == {}
    for below, above in zip(rungs, rungs[1:], strict=False):
        assert below.items() < above.items()
        assert len(above) == len(below) + 1
