"""Tiny models with large weights, in every shape that the config allows."""

import torch

from llama_minimal.config import LlamaConfig
from llama_minimal.model import Llama, build

SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "hidden_dim": 48, "max_seq_len": 32}
SWITCHES = [
    {},
    {"n_kv_heads": 2},
    {"n_kv_heads": 1},
    {"norm": "layer"},
    {"norm_placement": "post"},
    {"norm": "layer", "norm_placement": "post", "ffn": "relu", "position": "sinusoidal", "bias": True},
    {"ffn": "gelu"},
    {"ffn": "relu"},
    {"position": "sinusoidal"},
    {"position": "none"},
    {"bias": True},
    {"bias": "attention", "n_kv_heads": 2},
    {"bias": "feed_forward"},
    {"head_dim": 12, "n_kv_heads": 2},
    {"head_dim": 4, "bias": True},
    {"tie_embeddings": True},
    {"share_layers": 2},
]


def draw_model(seed: int = 0, **changes) -> Llama:
    """Build a tiny model whose weights are so large that logits are far apart and no part is negligible.

    The usual standard deviation of 0.02 makes every token about as likely, which would hide mistakes.
    """
    model = build(LlamaConfig(**(SIZES | changes)), seed=None).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        scale = 1.5 * parameter.size(1) ** -0.5 if parameter.ndim == 2 else 0.3
        parameter.data = ("norm.weight" in name) + scale * draw  # norms around 1, biases around 0
    return model


@torch.no_grad()
def make_lively(model: Llama, factor: float = 4.0) -> Llama:
    """Enlarge the matrices of a model, in place, so that its text is not always the same token."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(factor)
    return model
