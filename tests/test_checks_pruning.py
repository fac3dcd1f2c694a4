"""Chapter 15: the right answers of its exercises by other ways, and the parts of its experiments."""

import math

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import find
from llama_minimal.course.experiments import pruned_speed, pruning, removed_heads
from llama_minimal.model import build
from llama_minimal.pruning import is_n_of_m, remove_heads, sparsity_report


def right(name):
    return find(f"pruning.{name}").right


def correlated(rng, n=40, n_in=6):
    return rng.normal(size=(n, n_in)) @ rng.normal(size=(n_in, n_in))


@pytest.mark.parametrize(("i", "j"), [(0, 1), (4, 2), (5, 0)])
def test_the_cost_of_a_pair_is_that_of_the_best_weights_without_it(i, j):
    rng = np.random.default_rng(0)
    x, w = correlated(rng), rng.normal(size=6)
    stay = np.setdiff1d(range(6), [i, j])
    best = np.linalg.lstsq(x[:, stay], x @ w, rcond=None)[0]
    assert right("pair_cost")(w, x.T @ x, i, j) == pytest.approx(((x @ w - x[:, stay] @ best) ** 2).sum())


def test_no_constant_is_better_than_the_one_that_the_score_takes():
    rng = np.random.default_rng(1)
    x, w = correlated(rng) + 3 * rng.normal(size=6), rng.normal(size=(3, 6))
    score = right("bias_score")(w, x)
    for i, j in np.ndindex(*w.shape):
        lost = w[i, j] * x[:, j]
        constant = np.linalg.lstsq(np.ones((len(x), 1)), lost, rcond=None)[0]
        assert score[i, j] == pytest.approx(np.linalg.norm(lost - constant))


def test_the_packed_product_is_that_of_the_matrix_with_its_zeros():
    rng = np.random.default_rng(2)
    dense, x = rng.normal(size=(5, 12)), rng.normal(size=(3, 12))
    dense.reshape(-1, 4)[np.arange(15), rng.integers(0, 2, 15)] = 0
    dense.reshape(-1, 4)[np.arange(15), rng.integers(2, 4, 15)] = 0
    places = dense.reshape(5, 3, 4).nonzero()[2].reshape(5, 6)
    values = np.take_along_axis(dense.reshape(5, 3, 4), places.reshape(5, 3, 2), axis=2).reshape(5, 6)
    np.testing.assert_allclose(right("packed_product")(values, places, x), x @ dense.T)


@pytest.mark.parametrize(("t", "steps"), [(1, 1), (7, 5), (30, 40)])
def test_the_drift_is_that_of_pytorchs_adamw(t, steps):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.02, betas=(0.9, 0.95), weight_decay=0.3, eps=1e-14)
    dice = torch.Generator().manual_seed(0)
    for step in range(t + steps):
        weight.grad = torch.randn(1, dtype=torch.float64, generator=dice) * (step < t)
        if step == t:
            weight.data.zero_()
            state = {name: optimizer.state[weight][name].item() for name in ("exp_avg", "exp_avg_sq")}
            drift = right("drift")(state["exp_avg"], state["exp_avg_sq"], t, steps, 0.02, 0.9, 0.95)
        optimizer.step()
        if step >= t:  # what decay adds: a little less in each step
            drift_by_decay = 0.02 * 0.3 * abs(weight.item())
            assert drift_by_decay < 0.01 * max(abs(drift), abs(weight.item()))
    assert weight.item() == pytest.approx(drift, rel=0.006 * steps)


def test_the_slope_of_a_head_is_that_of_fading_it_out():
    rng = np.random.default_rng(3)
    a, target = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 5))
    out = rng.normal(size=(3, 2, 5))

    def loss(gates):
        return (np.tanh(np.einsum("nhd,h,hdk->nk", a, gates, out)) * target).sum()

    hidden = np.tanh(np.einsum("nhd,hdk->nk", a, out))
    d_a = np.einsum("nk,hdk->nhd", (1 - hidden**2) * target, out)
    for head, slope in enumerate(right("head_slopes")(a, d_a)):
        gates = np.eye(3)[head] * 1e-6
        assert slope == pytest.approx((loss(1 - gates) - loss(1 + gates)) / 2e-6, rel=1e-6)


@pytest.fixture(scope="module")
def tiny():
    config = pruning.start()[0].config.replace(n_layers=2, dim=32, n_heads=4, n_kv_heads=4, head_dim=8, hidden_dim=48)
    return build(config, seed=0).eval(), torch.randint(0, 2000, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", pruning.WEIGHTS)
def test_the_experiment_removes_the_share_or_the_pattern_that_it_says(tiny, method):
    model, tokens = tiny
    assert sparsity_report(pruning.pruned(model, method, "30%", tokens)).sparsity == pytest.approx(0.3, abs=0.02)
    in_pattern = pruning.pruned(model, method, "2:4", tokens)
    assert is_n_of_m(in_pattern.blocks()[1].attention.wq.weight, 2, 4)
    assert sparsity_report(model).sparsity == 0


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("dense", {}),
        ("heads", {"n_heads": 2, "n_kv_heads": 2}),
        ("features", {"hidden_dim": 24}),
        ("half", {"n_heads": 2, "n_kv_heads": 2, "hidden_dim": 24}),
        ("layers", {"n_layers": 1}),
    ],
)
def test_the_experiments_smaller_models_have_half_of_what_they_say(tiny, method, changes):
    model, tokens = tiny
    smaller = pruning.pruned(model, method, "50%", tokens)
    assert smaller.config == model.config.replace(head_dim=8, **changes)
    assert smaller.eos_ids == model.eos_ids


def test_a_muted_head_is_a_removed_one_and_comes_back(tiny):
    model, tokens = tiny
    before = removed_heads.loss(model, tokens)
    with removed_heads.without(model, [(0, 2), (1, 0)]):
        muted = removed_heads.loss(model, tokens)
    assert muted == pytest.approx(removed_heads.loss(remove_heads(model, [[2], [0]]), tokens), rel=1e-5)
    assert muted != before
    assert removed_heads.loss(model, tokens) == before


@pytest.mark.parametrize("order", removed_heads.ORDERS)
def test_each_order_names_every_head_once(tiny, order):
    model, tokens = tiny
    heads = removed_heads.order_of(model, order, tokens, seed=0)
    assert sorted(heads) == [(block, head) for block in range(2) for head in range(4)]


def test_a_sparse_layer_multiplies_as_its_dense_one_and_counts_its_bytes():
    weight, x = torch.randn(6, 9), torch.randn(2, 3, 9)
    weight[weight.abs() < 0.7] = 0
    layer = pruned_speed.SparseLinear(weight)
    torch.testing.assert_close(layer(x), x @ weight.T)
    kept = int((weight != 0).sum())
    assert layer.n_bytes() == kept * (4 + 8) + 7 * 8
    assert math.prod(layer(x).shape) == 36
