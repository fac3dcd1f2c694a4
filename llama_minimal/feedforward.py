"""The feed-forward network: ReLU of the Transformer, GELU of GPT, SwiGLU of LLaMA."""

# B batch, T time, D model width, F ffn width

import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.config import LlamaConfig
from llama_minimal.linear import Linear, Weight, cast_once, linear, linears


def relu_ffn(x: Tensor, w1: Weight, w2: Weight, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Return max(0, x w1ᵀ + b1) w2ᵀ + b2, shapes (..., D) -> (..., F) -> (..., D).

    Source: Vaswani et al. 2017, eq. 2.
    """
    return linear(F.relu(linear(x, w1, b1)), w2, b2)


def gelu_ffn(x: Tensor, w1: Weight, w2: Weight, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Return gelu(x w1ᵀ + b1) w2ᵀ + b2, with GELU in its tanh form.

    Source: Hendrycks and Gimpel 2016, §2.
    """
    return linear(F.gelu(linear(x, w1, b1), approximate="tanh"), w2, b2)


def swiglu(
    x: Tensor,
    w1: Weight,
    w2: Weight,
    w3: Weight,
    b1: Tensor | None = None,
    b2: Tensor | None = None,
    b3: Tensor | None = None,
) -> Tensor:
    """Return (silu(x w1ᵀ) ⊙ x w3ᵀ) w2ᵀ: a gate, computed by w1, opens and closes what w3 passes.

    Args:
        x: (..., D).
        w1, w3: (F, D).
        w2: (D, F).

    Returns:
        (..., D).

    Source: Shazeer 2020, eq. 6; LLaMA, §2.2.
    """
    gate, value = linears(x, w1, w3) if b1 is b3 is None else (linear(x, w1, b1), linear(x, w3, b3))
    return linear(F.silu(gate) * value, w2, b2)


class FeedForward(nn.Module):
    """Apply the feed-forward that ``config.ffn`` names to every token."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.kind = config.ffn
        self.w1 = Linear(config.dim, config.hidden_dim, bias=config.ffn_bias)
        self.w2 = Linear(config.hidden_dim, config.dim, bias=config.ffn_bias)
        if self.kind == "swiglu":
            self.w3 = Linear(config.dim, config.hidden_dim, bias=config.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swiglu":
            return swiglu(cast_once(x), self.w1, self.w2, self.w3)
        return (relu_ffn if self.kind == "relu" else gelu_ffn)(x, self.w1, self.w2)
