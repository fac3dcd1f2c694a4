"""The two storeys hold each other: PyTorch and NumPy give the same numbers, the same names, the same text."""

import inspect

import numpy as np
import pytest
import torch

import llama_minimal.attention
import llama_minimal.chunked_loss
import llama_minimal.distillation
import llama_minimal.feedforward
import llama_minimal.lora
import llama_minimal.loss
import llama_minimal.multimodal.vision
import llama_minimal.normalization
import llama_minimal.positions
import llama_minimal.pruning
import llama_minimal.quantization
import llama_minimal.responsible_ai.bias
import llama_minimal.responsible_ai.classifier
import llama_minimal.responsible_ai.privacy
import llama_minimal.responsible_ai.remedies
from llama_minimal import reference
from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.generation import generate
from llama_minimal.loss import next_token_loss
from llama_minimal.model import build

BASE = LlamaConfig(dim=24, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=37, hidden_dim=40, max_seq_len=24)
SWITCHES = [
    {},
    {"n_kv_heads": 4},
    {"n_kv_heads": 1},
    {"norm": "layer"},
    {"norm_placement": "post"},
    {"norm_placement": "post", "norm": "layer", "ffn": "relu", "position": "sinusoidal", "bias": True},
    {"ffn": "relu"},
    {"ffn": "gelu", "bias": True},
    {"position": "sinusoidal"},
    {"position": "none"},
    {"bias": True},
    {"bias": "attention"},
    {"bias": "feed_forward", "ffn": "relu"},
    {"head_dim": 10, "bias": True},
    {"head_dim": 4, "n_heads": 7, "n_kv_heads": 1},
    {"tie_embeddings": True},
    {"share_layers": 2},
    {"share_layers": 4, "tie_embeddings": True},
    {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    {"rope_scaling": RopeScaling(kind="ntk", factor=4.0)},
    {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=12)},
    {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=10)},
    {"rope_theta": 100.0, "rope_scaling": RopeScaling(kind="yarn", factor=8.0, original_max_seq_len=60, beta_fast=4.0)},
    {"rope_scaling": RopeScaling(kind="yarn", factor=3.0, attention_factor=1.7, truncate=False)},
]


def twins(changes):
    """A float64 model with lively weights, and the same weights for NumPy."""
    model = build(BASE.replace(**changes), seed=1).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)), dtype=p.dtype)
            p.mul_(8).add_(0.2 * noise)
    return model, {name: p.detach().numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_logits_loss_and_every_gradient_agree(changes):
    model, params = twins(changes)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 37, (2, 3, 11))
    targets[0, :4] = -100
    total, count = next_token_loss(model(torch.tensor(tokens)), torch.tensor(targets))
    (total / count).backward()
    loss, grads = reference.loss_and_gradients(params, tokens, targets, model.config)
    np.testing.assert_allclose(loss, (total / count).item(), rtol=1e-12)
    assert grads.keys() == dict(model.named_parameters()).keys()
    # Relative to the largest: without rotation, say, a key's bias shifts all scores alike and its gradient is 0.
    scale = max(p.grad.abs().max().item() for p in model.parameters())
    for name, p in model.named_parameters():
        np.testing.assert_allclose(grads[name], p.grad.numpy(), rtol=1e-9, atol=1e-11 * scale, err_msg=name)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_both_write_the_same_text(changes):
    model, params = twins(changes)
    expected = generate(model, None, [[3, 1, 4, 1, 5]], max_new_tokens=12)[0].tokens
    assert reference.generate(params, [3, 1, 4, 1, 5], model.config, 12) == expected


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_both_start_with_the_same_names_and_shapes(changes):
    config = BASE.replace(**changes)
    shapes = {name: tuple(p.shape) for name, p in build(config, device="meta").named_parameters()}
    assert {name: p.shape for name, p in reference.init_params(config, 0).items()} == shapes


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (llama_minimal.positions, "sinusoidal_table"),
        (llama_minimal.positions, "rope_frequencies"),
        (llama_minimal.positions, "rope_table"),
        (llama_minimal.positions, "apply_rope"),
        (llama_minimal.normalization, "rms_norm"),
        (llama_minimal.normalization, "layer_norm"),
        (llama_minimal.feedforward, "linear"),
        (llama_minimal.feedforward, "swiglu"),
        (llama_minimal.feedforward, "gelu_ffn"),
        (llama_minimal.feedforward, "relu_ffn"),
        (llama_minimal.attention, "attention"),
        (llama_minimal.attention, "causal_mask"),
        (llama_minimal.attention, "document_mask"),
        (llama_minimal.attention, "document_positions"),
        (llama_minimal.lora, "lora_update"),
        (llama_minimal.loss, "next_token_loss"),
        (llama_minimal.chunked_loss, "chunked_loss"),
        (llama_minimal.distillation, "forward_kl"),
        (llama_minimal.distillation, "reverse_kl"),
        (llama_minimal.distillation, "keep_top"),
        (llama_minimal.distillation, "forward_kl_top"),
        (llama_minimal.distillation, "reverse_kl_top"),
        (llama_minimal.distillation, "distillation_loss"),
        (llama_minimal.distillation, "hidden_loss"),
        (llama_minimal.multimodal, "place_features"),
        (llama_minimal.multimodal.vision, "patches"),
        (llama_minimal.multimodal.vision, "patch_embedding"),
        (llama_minimal.pruning, "keep_mask"),
        (llama_minimal.pruning, "magnitude_mask"),
        (llama_minimal.pruning, "n_of_m_mask"),
        (llama_minimal.pruning, "sparsegpt"),
        (llama_minimal.pruning, "wanda_score"),
        (llama_minimal.responsible_ai.bias, "amplification"),
        (llama_minimal.responsible_ai.bias, "association"),
        (llama_minimal.responsible_ai.bias, "group_shares"),
        (llama_minimal.responsible_ai.classifier, "logistic_loss"),
        (llama_minimal.responsible_ai.classifier, "precision_recall"),
        (llama_minimal.responsible_ai.remedies, "remove_directions"),
        (llama_minimal.responsible_ai.privacy, "clip_factors"),
        (llama_minimal.responsible_ai.privacy, "clipped_sum"),
        (llama_minimal.responsible_ai.privacy, "exposure"),
        (llama_minimal.quantization, "awq"),
        (llama_minimal.quantization, "dynamic_linear"),
        (llama_minimal.quantization, "gptq"),
        (llama_minimal.quantization, "outliers"),
        (llama_minimal.quantization, "round_to_grid"),
    ],
)
def test_a_function_has_the_same_arguments_on_both_storeys(module, name):
    here, there = (list(inspect.signature(getattr(side, name)).parameters) for side in (module, reference))
    assert here[: len(there)] == there  # PyTorch may add keyword-only ones: dtype, device, is_causal
    extra = list(inspect.signature(getattr(module, name)).parameters.values())[len(there) :]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in extra)
