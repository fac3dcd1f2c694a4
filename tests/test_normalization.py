"""Norms: against torch.nn.functional, in half precision, and that no token sees another."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.config import LlamaConfig
from llama_minimal.normalization import LayerNorm, RMSNorm, layer_norm, make_norm, rms_norm

DIM = 24


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def ours(kind, x, weight, bias, eps):
    return rms_norm(x, weight, eps) if kind == "rms" else layer_norm(x, weight, bias, eps)


def torchs(kind, x, weight, bias, eps):
    if kind == "rms":
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


@given(
    kind=st.sampled_from(["rms", "layer"]),
    shape=st.lists(st.integers(1, 4), max_size=3),
    dim=st.integers(2, 40),
    scale=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1.0, -1e3]),
    eps=st.sampled_from([1e-12, 1e-5, 0.1]),
)
def test_values_and_gradients_are_those_of_torch(kind, shape, dim, scale, offset, eps):
    """Tiny features make ε visible, and with it whether it is inside the root."""
    inputs = (scale * draw(*shape, dim) + offset * scale, draw(dim, seed=1), draw(dim, seed=2))
    results = []
    for norm in (ours, torchs):
        x, weight, bias = (part.clone().requires_grad_() for part in inputs)
        out = norm(kind, x, weight, bias, eps)
        gradients = torch.autograd.grad((out * draw(*shape, dim, seed=3)).sum(), (x, weight))
        results.append((out, *gradients))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


def test_the_gradient_written_down_is_that_of_the_formula(monkeypatch):
    """Of strided inputs too, and when only one of the two learns."""
    inputs = draw(5, 3, DIM).transpose(0, 1), draw(DIM, seed=1)
    assert torch.autograd.gradcheck(rms_norm, (*(part.requires_grad_() for part in inputs), 1e-5))
    for learning in (0, 1):
        results = []
        for way in (True, False):
            monkeypatch.setattr("llama_minimal.normalization.are_plain", lambda *_, way=way: way)
            parts = [part.detach().requires_grad_(i == learning) for i, part in enumerate(inputs)]
            out = rms_norm(*parts, 1e-5)
            results.append((out, *torch.autograd.grad(out.sin().sum(), parts[learning])))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_a_gradient_of_its_gradient_is_refused():
    x, weight = draw(3, DIM).requires_grad_(), draw(DIM, seed=1)
    (first,) = torch.autograd.grad(rms_norm(x, weight, 1e-5).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_statistics_of_half_precision_are_float32(kind, dtype):
    """The squares of 1e4 overflow float16, and a mean over 4,096 features in bfloat16 is wrong in two digits."""
    x = (1e4 * draw(3, 4096) + 2e3).to(dtype)
    one, zero = torch.ones(4096, dtype=dtype), torch.zeros(4096, dtype=dtype)
    out = ours(kind, x, one, zero, 1e-5)
    assert out.dtype == dtype
    exact = torchs(kind, x.double(), one.double(), zero.double(), 1e-5)
    torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps / 1.9, atol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_no_token_sees_another(kind):
    x, weight, bias = draw(2, 5, DIM), draw(DIM, seed=1), draw(DIM, seed=2)
    changed = x.clone()
    changed[:, 3] = 7 * draw(2, DIM, seed=3)
    before, after = (ours(kind, part, weight, bias, 1e-5) for part in (x, changed))
    others = [0, 1, 2, 4]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_rms_norm_ignores_the_scale_of_a_token_and_layer_norm_its_mean_too():
    x, weight, bias = draw(4, DIM), draw(DIM, seed=1), draw(DIM, seed=2)
    scales = torch.tensor([[0.1], [1.0], [5.0], [100.0]], dtype=torch.float64)
    torch.testing.assert_close(rms_norm(scales * x, weight, 0.0), rms_norm(x, weight, 0.0))
    torch.testing.assert_close(layer_norm(scales * (x + scales), weight, bias, 0.0), layer_norm(x, weight, bias, 0.0))


@pytest.mark.parametrize(("kind", "module"), [("rms", RMSNorm), ("layer", LayerNorm)])
def test_the_module_starts_as_the_plain_norm_and_uses_the_eps_of_the_config(kind, module):
    config = LlamaConfig(dim=DIM, n_layers=1, n_heads=2, vocab_size=3, norm=kind, norm_eps=0.25)
    norm = make_norm(config)
    assert type(norm) is module
    torch_norm = (torch.nn.RMSNorm if kind == "rms" else torch.nn.LayerNorm)(DIM, eps=0.25)
    assert {name: p.shape for name, p in norm.named_parameters()} == {
        name: p.shape for name, p in torch_norm.named_parameters()
    }
    x = 0.5 * draw(2, 3, DIM, dtype=torch.float32)
    torch.testing.assert_close(norm(x), torch_norm(x))
