"""Scaling the inputs of a layer without computing anything more: what makes them is divided instead.

x / s of a norm's output is that of a norm whose gain is divided by s. The same holds for the features of a layer that
reach the next one by additions and multiplications alone: values, which attention averages, and what SwiGLU's gate
opens and closes.
"""

# H heads, K kv heads, Dh head width

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama_minimal.attention import Attention
from llama_minimal.feedforward import FeedForward


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Say which layers read the same inputs, and what makes these."""

    readers: tuple[nn.Module, ...]
    maker: nn.Module
    """A norm, or a linear layer."""
    n_heads: int = 1
    n_makers: int = 1
    """Kv heads, if the readers have several heads that read the same: the input is (heads, width)."""

    def shared(self, sizes: Tensor) -> Tensor:
        """Return sizes (in,) with the mean in the place of those that must have one scale."""
        if self.n_heads == self.n_makers:
            return sizes
        groups = sizes.view(self.n_makers, self.n_heads // self.n_makers, -1)  # (K, H/K, Dh)
        return groups.mean(1, keepdim=True).expand_as(groups).flatten()

    @torch.no_grad()
    def apply(self, s: Tensor) -> None:
        """Multiply the columns of the readers by s, (in,), and divide what is made by it."""
        for reader in self.readers:
            reader.weight.copy_(reader.weight * s)
        if self.n_heads != self.n_makers:
            s = s.view(self.n_makers, self.n_heads // self.n_makers, -1)[:, 0].flatten()
        weight, bias = self.maker.weight, getattr(self.maker, "bias", None)
        weight.copy_(weight / s.view(-1, *[1] * (weight.ndim - 1)))
        if bias is not None:
            bias.copy_(bias / s)


def folds_of(block: nn.Module) -> Iterator[Fold]:
    """Yield what can be folded in a block, the last first: a layer is scaled as a maker only after it was as a reader.

    Where nothing linear lies before a layer, as before w2 of a GELU, or where others read what it reads, as the
    residual stream behind the norm of a post-norm block, nothing can.
    """
    attention, ffn = block.attention, block.feed_forward
    if not isinstance(attention, Attention) or not isinstance(ffn, FeedForward):
        raise ValueError("the model has blocks of another kind; scales are folded into Attention and FeedForward")
    if ffn.kind == "swiglu":
        yield Fold(readers=(ffn.w2,), maker=ffn.w3)
    elif ffn.kind == "relu":  # max(0, x / s) = max(0, x) / s
        yield Fold(readers=(ffn.w2,), maker=ffn.w1)
    if block.pre_norm:
        yield Fold(readers=(ffn.w1, ffn.w3) if ffn.kind == "swiglu" else (ffn.w1,), maker=block.ffn_norm)
    n_heads, n_makers = (w.out_features // attention.head_dim for w in (attention.wq, attention.wv))
    yield Fold(readers=(attention.wo,), maker=attention.wv, n_heads=n_heads, n_makers=n_makers)
    if block.pre_norm:
        yield Fold(readers=(attention.wq, attention.wk, attention.wv), maker=block.attention_norm)
