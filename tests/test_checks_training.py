"""Chapter 08: the right answers of its exercises by other ways, and its recipes and its figure."""

from dataclasses import asdict

import matplotlib as mpl
import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import find
from llama_minimal.course.experiments import recipes
from llama_minimal.course.training_diagram import PARTS, draw_training


def right(name):
    return find(f"training.{name}").right


def test_three_steps_of_the_right_adamw_are_pytorchs():
    rng = np.random.default_rng(0)
    w, m, v = rng.normal(size=5), np.zeros(5), np.zeros(5)
    parameter = torch.nn.Parameter(torch.tensor(w))
    oracle = torch.optim.AdamW([parameter], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3)
    for t in (1, 2, 3):
        g = rng.normal(size=5)
        w, m, v = right("adamw")(w, g, m, v, t, 0.1, 0.8, 0.9, 1e-3, 0.3)
        parameter.grad = torch.tensor(g)
        oracle.step()
    np.testing.assert_allclose(w, parameter.detach(), rtol=1e-12)


def test_the_length_of_uncorrected_steps_is_that_of_a_loop():
    m = v = 0.0
    for t in range(1, 30):
        m, v = 0.9 * m + 0.1 * 7, 0.99 * v + 0.01 * 49
        assert right("first_steps")(t, 0.9, 0.99) == pytest.approx(m / v**0.5)


def test_the_trapezoid_rises_stays_and_falls_evenly():
    rates = np.array([right("trapezoid")(step, 0.5, 20, 4, 5) for step in range(20)])
    np.testing.assert_allclose(rates[:4], [0.125, 0.25, 0.375, 0.5])
    np.testing.assert_allclose(rates[4:15], 0.5)
    np.testing.assert_allclose(np.diff(rates[14:]), -0.1)
    assert rates[-1] == 0


@pytest.mark.parametrize("longest", [0.01, 100.0])
def test_accumulated_gradients_are_those_of_the_whole_batch_clipped_by_pytorch(longest):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    parts = x.split([1, 7, 4])
    sums = [torch.autograd.grad(((part @ w) ** 2).sum(), w)[0].numpy() for part in parts]
    ((x @ w) ** 2).mean().backward()
    torch.nn.utils.clip_grad_norm_([w], longest)
    found = right("accumulate")(sums, [len(part) for part in parts], longest)
    np.testing.assert_allclose(found, w.grad, rtol=1e-3)  # PyTorch adds 1e-6 to the length


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_many_rounds_of_the_cubic_arrive_where_the_decomposition_says(shape):
    G = np.random.default_rng(1).normal(size=shape)
    U, _, Vt = np.linalg.svd(G, full_matrices=False)
    np.testing.assert_allclose(right("polar")(G, 40), U @ Vt, atol=1e-10)
    errors = [np.linalg.norm(right("polar")(G, rounds) - U @ Vt, 2) for rounds in range(20)]
    near = [(e, after) for e, after in zip(errors, errors[1:], strict=False) if 1e-6 < e < 0.1]
    assert near
    assert all(after < 2 * e**2 for e, after in near)  # an error becomes its square


def test_at_the_break_even_both_bills_are_equal():
    n = right("break_even")(10e9, 2e11, 6.7e9, 1e12)
    assert 6 * 10e9 * 2e11 + 2 * 10e9 * n == pytest.approx(6 * 6.7e9 * 1e12 + 2 * 6.7e9 * n)
    assert right("break_even")(2e9, 4e10, 1e9, 6e10) == 0


def test_each_recipe_changes_one_thing():
    whole = asdict(recipes.trainer("adamw", lr=1e-2, seed=0).config)
    for name, change in recipes.RECIPES.items():
        training = recipes.trainer(name, lr=1e-2, seed=0)
        assert asdict(training.config) == whole | change
        assert len(change) == (name not in ("adamw", *recipes.PLAIN))
        assert isinstance(training.optimizer, torch.optim.SGD) == (name in recipes.PLAIN)


def test_a_step_of_descent_is_the_rate_times_the_clipped_gradient():
    training = recipes.trainer("descent", lr=0.5, seed=0)
    before = torch.cat([w.detach().flatten().clone() for w in training.model.parameters()])
    metrics = training.train_step()
    after = torch.cat([w.detach().flatten() for w in training.model.parameters()])
    length = metrics["lr"] * min(1.0, metrics["grad_norm"])
    assert (after - before).norm().item() == pytest.approx(length, rel=1e-3)


def test_the_loop_of_training_is_drawn_with_its_parts():
    mpl.use("agg")
    texts = [text.get_text() for text in draw_training({"optimizer"}).axes[0].texts]
    assert set(PARTS) <= set(texts)
    with pytest.raises(ValueError, match=r"unknown parts \['engine'\]; known are text, batch"):
        draw_training({"engine"})
