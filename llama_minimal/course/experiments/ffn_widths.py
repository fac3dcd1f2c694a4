"""Chapter 04: what makes SwiGLU better than ReLU, and does it hold at other widths and learning rates?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.course.lab import small_config, trained
from llama_minimal.feedforward import FeedForward
from llama_minimal.model import build

WHAT = "Validation loss of a small LLaMA by feed-forward layer, inner width and learning rate."
BUDGET = "500 steps of 8 × 64 tokens, two layers of width 64, vocabulary 300, stories from the valley, three seeds."
# At this rate another processor's loss is 0.2 % away; at four times the rate, 2 %.
CHECK = {"layer": "relu", "width": 256, "lr": 3e-3, "seed": 0}

BENDS = {  # what each layer does to what w1 returns
    "relu": F.relu,
    "silu": F.silu,
    "swiglu": F.silu,
    "product": lambda gate: gate,
    "relu gate": F.relu,
    "sigmoid gate": torch.sigmoid,
}
GATED = ("swiglu", "product", "relu gate", "sigmoid gate")  # then multiplied by what w3 returns
# Equal parameters: 2 · 64 · 256 = 32,768 without a gate, 3 · 64 · 171 = 32,832 with one.
ARMS = {layer: 171 if layer in GATED else 256 for layer in BENDS}

POINTS = [
    {"layer": layer, "width": width, "lr": lr, "seed": seed}
    for lr, arms in (
        (3e-3, ARMS.items()),
        (3e-3, [("swiglu", width) for width in (166, 168, 172, 174, 176, 180, 184)]),
        (1.5e-3, ARMS.items()),
        (6e-3, ARMS.items()),
        (12e-3, ARMS.items()),
        # The same sizes with two matrices (3 · 166 = 2 · 249) and without a bend, at the rate that is their best.
        (6e-3, [("relu", width) for width in (249, 252, 258, 261, 264, 270, 276)]),
        (3e-3, [("product", width) for width in (166, 168, 172, 174, 176, 180, 184)]),
    )
    for layer, width in arms
    for seed in (0, 1, 2)
]


class Variant(nn.Module):
    """Be a feed-forward layer with another bend, and the weights of the one in whose place it comes."""

    def __init__(self, former: FeedForward, layer: str) -> None:
        super().__init__()
        self.w1, self.w2 = former.w1, former.w2
        self.w3 = former.w3 if layer in GATED else None
        self.bend = BENDS[layer]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bend(self.w1(x))  # (..., F)
        return self.w2(hidden if self.w3 is None else hidden * self.w3(x))


def run(*, layer: str, width: int, lr: float, seed: int, steps: int = 500) -> dict[str, float]:
    """Train with one kind of feed-forward layer, and return the validation loss in nats per token.

    Args:
        layer: a name of ``BENDS``.
        width: F, the inner width.
    """
    model = build(small_config(ffn="swiglu" if layer in GATED else "relu", hidden_dim=width), seed=seed)
    for block in model.layers.values():
        block.feed_forward = Variant(block.feed_forward, layer)
    return {"loss": trained(model, seed=seed, steps=steps, lr=lr).loss}
