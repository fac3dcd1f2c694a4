"""Chapter 17: the right answers of its exercises by other ways, and its experiments' forms and starts."""

import numpy as np
import pytest
import torch

from llama_minimal import preset
from llama_minimal.checkpoint import load
from llama_minimal.cost import memory, parameters
from llama_minimal.course.exercises import find
from llama_minimal.course.experiments import sharing, uptraining
from llama_minimal.sharing import pool_heads


def right(name):
    return find(f"parameter_sharing.{name}").right


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_gradient_of_a_shared_block_is_autograds(times):
    x, w, d_x = normal(4, 3), normal(3, 3).requires_grad_(), normal(4, 3)
    out = x
    for _ in range(times):
        out = out + torch.tanh(out @ w)
    out.backward(d_x)
    np.testing.assert_allclose(right("shared_block")(x.numpy(), w.detach().numpy(), times, d_x.numpy()), w.grad)


@pytest.mark.parametrize(("times", "heads"), [(1, 32), (4, 8), (32, 1)])
def test_the_last_text_that_fits_does_and_one_more_does_not(times, heads):
    config = preset("llama-7b", share_layers=times, n_kv_heads=heads)
    of_part, needs = parameters(config), memory(config, precision="bf16")
    ends = of_part["embeddings"] + of_part["output"]
    per_layer = (sum(of_part.values()) - ends) / (config.n_layers // times)
    shape = (config.n_layers, times, heads, config.head_dim, config.max_seq_len)
    n = right("texts_that_fit")(80e9, ends, per_layer, *shape)
    assert needs.weights + n * needs.kv_cache <= 80e9 < needs.weights + (n + 1) * needs.kv_cache
    assert right("texts_that_fit")(0.5e9, ends, per_layer, *shape) == 0


@pytest.mark.parametrize("n_groups", [1, 2, 3, 6])
def test_the_right_pooling_is_the_packages(n_groups):
    w = normal(12, 4)
    np.testing.assert_allclose(right("pool")(w.numpy(), 6, n_groups), pool_heads(w, 6, n_groups))


def test_agreement_is_how_much_faster_a_small_step_of_the_shared_weight_lowers_the_loss():
    w, target = normal(3, 3), normal(3, 3)

    def loss(copies):
        x = torch.eye(3, dtype=torch.float64)
        for copy in copies:
            x = x + torch.tanh(x @ copy)
        return ((x - target) ** 2).sum()

    copies = [w.clone().requires_grad_() for _ in range(4)]
    gradients = torch.stack(torch.autograd.grad(before := loss(copies), copies))
    rate = 1e-7
    with torch.no_grad():
        shared = before - loss([w - rate * gradients.sum(0)] * 4)
        apart = before - loss([w - rate * gradient for gradient in gradients])
    assert right("agreement")(gradients.numpy()) == pytest.approx((shared / apart).item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(6, 5, 3), (8, 8, 4)])
def test_no_descent_finds_common_values_that_are_nearer(shape):
    rows, D, n_heads = shape
    w, Dh = normal(rows, D), rows // n_heads
    found = torch.tensor(right("shared_values")(w.numpy(), n_heads))
    assert torch.linalg.matrix_rank(found) == Dh
    common = normal(Dh, D)
    for _ in range(300):  # alternating least squares
        mixes = torch.linalg.lstsq(common.T, w.T).solution.T
        common = torch.linalg.lstsq(mixes, w).solution
    torch.testing.assert_close(mixes @ common, found, rtol=1e-4, atol=1e-4)
    assert (w - found).norm() < (w - pool_heads(w, n_heads, 1).repeat(n_heads, 1)).norm()


# ---- the experiments


def test_each_form_shares_what_its_name_says():
    sizes = {}
    for form in sharing.FORMS:
        model = sharing.build_form(form, seed=0)
        sizes[form] = sum(p.numel() for p in model.parameters())
        if form not in sharing.PARTS:
            assert sizes[form] == sum(parameters(model.config).values())
    whole = sizes["nothing"]
    assert all(abs(sizes[form] / whole - 1) < 0.005 for form in sharing.EQUAL_PARAMETERS)
    assert sizes["aabb"] == sizes["two layers"]
    assert sizes["aaaa"] == sizes["one layer"]
    for form, part in sharing.PARTS.items():
        layers = sharing.build_form(form, seed=0).layers.values()
        shared = {name for name in ("attention", "feed_forward") if len({id(getattr(b, name)) for b in layers}) == 1}
        assert shared == {part}


@pytest.fixture(scope="module")
def course():
    return load("course", dtype=torch.float32)[0]


def test_the_starts_differ_in_what_is_shared_alone(course):
    starts = {start: uptraining.convert(course, "2 kv heads", start, seed=1) for start in ("mean", "first", "random")}
    mean, first, random = (model.layers["0"].attention for model in starts.values())
    assert torch.equal(mean.wq.weight, random.wq.weight)
    total = uptraining.convert(course, "2 kv heads", "sum", seed=1).layers["0"].attention
    neighbors = course.layers["0"].attention.wk.weight[:128].view(2, 64, -1)
    torch.testing.assert_close(total.wk.weight[:64], neighbors.sum(0))
    assert random.wk.weight.std().item() == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(first.wv.weight[:64], course.layers["0"].attention.wv.weight[:64])
    torch.testing.assert_close(first.wv.weight[64:], course.layers["0"].attention.wv.weight[128:192])
    again = uptraining.convert(course, "2 kv heads", "random", seed=1).layers["0"].attention
    assert torch.equal(again.wk.weight, random.wk.weight)
    other = uptraining.convert(course, "2 kv heads", "random", seed=2).layers["0"].attention
    assert not torch.equal(other.wk.weight, random.wk.weight)
    assert len(uptraining.convert(course, "aaaa", "first", seed=0).blocks()) == 1


def test_uptraining_trains(course):
    model = uptraining.convert(course, "1 kv head", "mean", seed=0)
    before = model.layers["0"].attention.wk.weight.detach().clone()
    tokens = np.arange(3000, dtype=np.uint16) % 50
    steps = list(uptraining.uptrain(model, tokens, lr=1e-3, seed=0, steps=1))
    assert steps == [1]
    assert not torch.equal(model.layers["0"].attention.wk.weight, before)
