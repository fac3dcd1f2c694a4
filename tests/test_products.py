"""Float32 products by oneDNN: against F.linear, gradients of gradients too, and where they are left out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llama_minimal import products
from llama_minimal.linear import Linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def slow_mkl(monkeypatch):
    """Take the way through oneDNN on every machine, for the smallest products too; count them."""
    calls = []
    monkeypatch.setattr(products, "MKL_IS_SLOW", True)
    monkeypatch.setattr(products, "_LARGE", 0)
    right = products.product
    monkeypatch.setattr("llama_minimal.linear.product", lambda *inputs: calls.append(1) or right(*inputs))
    return calls


@settings(max_examples=30)
@given(shape=st.lists(st.integers(1, 5), max_size=3), n_in=st.integers(1, 40), n_out=st.integers(1, 40))
def test_values_and_gradients_are_those_of_a_linear_layer(shape, n_in, n_out):
    x, w, d_out = draw(*shape, n_in), draw(n_out, n_in, seed=1), draw(*shape, n_out, seed=2)
    if not shape:  # a matrix at least
        x, d_out = x[None], d_out[None]
    results = []
    for multiply, dtype in ((products.product, torch.float32), (F.linear, torch.float64)):
        inputs = [part.to(dtype).requires_grad_() for part in (x, w)]
        out = multiply(*inputs)
        results.append([out, *torch.autograd.grad(out, inputs, d_out.to(dtype))])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
        assert ours.is_contiguous()


def test_inputs_and_incoming_gradients_may_have_any_strides():
    x, w, d_out = draw(7, 5).t(), draw(7, 6, seed=1).t(), draw(6, 5, seed=2).t()
    results = []
    for multiply in (products.product, F.linear):
        inputs = [part.detach().requires_grad_() for part in (x, w)]
        results.append(torch.autograd.grad(multiply(*inputs), inputs, d_out))
    torch.testing.assert_close(*results)


def test_a_frozen_weight_gets_no_gradient_and_a_first_input_needs_none():
    x, w = draw(3, 4), draw(5, 4, seed=1)
    for frozen in (0, 1):
        inputs = [part.clone().requires_grad_(i != frozen) for i, part in enumerate((x, w))]
        products.product(*inputs).sum().backward()
        assert [part.grad is None for part in inputs] == [i == frozen for i in (0, 1)]


def test_gradients_of_gradients_are_those_of_a_linear_layer():
    x, w = draw(3, 4), draw(5, 4, seed=1)
    results = []
    for multiply in (products.product, F.linear):
        inputs = [part.clone().requires_grad_() for part in (x, w)]
        first = torch.autograd.grad(multiply(*inputs).pow(3).sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(part.pow(2).sum() for part in first), inputs))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


def test_a_linear_layer_takes_it_for_float32_without_a_bias_only(slow_mkl):
    layer, x = Linear(6, 5, bias=False), draw(3, 6)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight))
    assert len(slow_mkl) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    Linear(6, 5)(x)  # with a bias
    layer.double()(x.double())
    Linear(6, 5, bias=False, device="meta")(x.to("meta"))
    assert len(slow_mkl) == 1


def test_per_example_gradients_are_those_of_a_loop(slow_mkl):
    """torch.func maps PyTorch's own product over examples, and would make a loop of this one."""
    layer, x = Linear(6, 5, bias=False), draw(3, 2, 6)

    def loss(weight, row):
        return torch.func.functional_call(layer, {"weight": weight}, (row,)).pow(2).sum()

    weight = layer.weight.detach()
    at_once = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    assert not slow_mkl
    for row, gradient in zip(x, at_once, strict=True):
        layer.weight.grad = None
        layer(row).pow(2).sum().backward()
        torch.testing.assert_close(gradient, layer.weight.grad, rtol=1e-4, atol=1e-5)


def test_a_compiler_sees_one_graph(slow_mkl):
    """What it compiles is in test_training.py; here, that values and gradients pass through its stages."""
    layer, x = Linear(6, 5, bias=False), draw(3, 6).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for run in (layer, compiled):
        layer.weight.grad = None
        out = run(x).pow(2)
        results.append((out, *torch.autograd.grad(out.sum(), (x, layer.weight))))
    torch.testing.assert_close(*results)


def test_pytorchs_counter_counts_its_arithmetic():
    a, b = torch.randn(3, 5, 64, requires_grad=True), torch.randn(32, 64, requires_grad=True)
    counted = []
    for multiply in (products.product, F.linear):
        with FlopCounterMode(display=False) as counter:
            multiply(a, b).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] == 3 * 2 * 15 * 64 * 32
