"""Feed-forward networks: against layers of torch.nn and the MLP of transformers."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig as HuggingFaceConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from llama_minimal.config import LlamaConfig
from llama_minimal.feedforward import FeedForward, gelu_ffn, relu_ffn, swiglu
from llama_minimal.linear import Linear

DIM, HIDDEN = 12, 20


def make(kind, *, bias):
    config = LlamaConfig(dim=DIM, n_layers=1, n_heads=2, vocab_size=3, hidden_dim=HIDDEN, ffn=kind, bias=bias)
    torch.manual_seed(0)
    return FeedForward(config).double()


def independent(kind, module, *, bias):
    """Return the same network made of layers that others wrote, with the same weights, and its first layer."""
    if kind == "swiglu":
        config = HuggingFaceConfig(hidden_size=DIM, intermediate_size=HIDDEN, num_attention_heads=2, mlp_bias=bias)
        other = LlamaMLP(config).double()
        pairs = [(other.gate_proj, module.w1), (other.down_proj, module.w2), (other.up_proj, module.w3)]
    else:
        activation = nn.ReLU() if kind == "relu" else nn.GELU(approximate="tanh")
        other = nn.Sequential(nn.Linear(DIM, HIDDEN, bias=bias), activation, nn.Linear(HIDDEN, DIM, bias=bias)).double()
        pairs = [(other[0], module.w1), (other[2], module.w2)]
    for theirs, mine in pairs:
        theirs.load_state_dict(mine.state_dict())
    return other, pairs[0][0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["swiglu", "gelu", "relu"])
def test_values_and_gradients_are_those_of_independent_layers(kind, bias):
    module = make(kind, bias=bias)
    other, first_layer = independent(kind, module, bias=bias)
    results = []
    for network, layer in ((module, module.w1), (other, first_layer)):
        x = 3 * torch.randn(2, 5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        out = network(x)
        results.append((out, *torch.autograd.grad((out**2).sum(), (x, layer.weight))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kind", "function"), [("swiglu", swiglu), ("gelu", gelu_ffn), ("relu", relu_ffn)])
def test_the_formula_serves_matrices_as_well_as_layers(kind, function, bias):
    module = make(kind, bias=bias)
    layers = [module.w1, module.w2, module.w3] if kind == "swiglu" else [module.w1, module.w2]
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    matrices = [layer.weight for layer in layers] + [layer.bias for layer in layers]
    assert torch.equal(function(x, *layers), module(x))
    torch.testing.assert_close(function(x, *matrices), module(x))


@pytest.mark.parametrize("kind", ["swiglu", "gelu", "relu"])
def test_no_token_sees_another(kind):
    module, x = make(kind, bias=True), torch.randn(2, 5, DIM, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3] += 1
    moved = (module(x) - module(changed)).abs().amax((0, 2)) > 1e-12
    assert moved.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("shape", [(256,), (1, 256), (2, 1, 256), (8, 256), (9, 256), (0, 256)], ids=str)
@pytest.mark.parametrize("n_out", [512, 500])
@pytest.mark.parametrize("bias", [False, True])
def test_the_fast_way_of_few_tokens_is_the_linear_layer(shape, n_out, bias):
    torch.manual_seed(0)
    layer, x = Linear(256, n_out, bias=bias), torch.randn(shape)
    expected = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(layer(x.expand(3, *shape)[1]), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
