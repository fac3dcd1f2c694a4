"""One layer of the stack: attention and feed-forward, each with its norm, added to what comes in."""

# B batch, T time, D model width

import torch
from torch import Tensor, nn

from llama_minimal.attention import Attention, one_of_each
from llama_minimal.config import LlamaConfig
from llama_minimal.feedforward import FeedForward
from llama_minimal.normalization import make_norm


class Block(nn.Module):
    """Let the tokens talk to each other (attention), then let each one think (feed-forward)."""

    runs_on: torch.device | None = None  # where it computes, if its weights rest elsewhere (``offloading``)

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = make_norm(config)
        self.ffn_norm = make_norm(config)
        self.pre_norm = config.norm_placement == "pre"

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None, *, last: Tensor | None = None, **cached: object
    ) -> Tensor:
        """Return what becomes of x, (B, T, D), or where only one token of each row is asked for, (B, 1, D).

        Args:
            last: (B,) where in its row that token stands.
            rope, cached: as ``Attention`` takes them.
        """
        stream = one_of_each(x, last)
        if self.pre_norm:
            x = stream + self.attention(self.attention_norm(x), rope, last=last, **cached)
            return x + self.feed_forward(self.ffn_norm(x))
        x = self.attention_norm(stream + self.attention(x, rope, last=last, **cached))
        return self.ffn_norm(x + self.feed_forward(x))
