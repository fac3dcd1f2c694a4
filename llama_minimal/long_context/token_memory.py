"""A memory of what followed: hidden states and the tokens that came next, looked up while writing."""

# B batch, T time, N entries, Q queries, D model width, V vocabulary, n neighbors

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llama_minimal.config.checks import check_integer, check_number, is_number
from llama_minimal.evaluation import sliding_batches
from llama_minimal.kv_cache import KVCache, LayeredCache
from llama_minimal.long_context.neighbors import nearest, read_memory, write_memory
from llama_minimal.model import Llama


def neighbor_distribution(distances: Tensor, tokens: Tensor, vocab_size: int, temperature: float = 1.0) -> Tensor:
    """Return how probable the neighbors make each token, (Q, V): p(y) ∝ Σ over neighbors with token y of e^(−d/τ).

    Args:
        distances: (Q, n), squared.
        tokens: (Q, n), what followed each neighbor.
        temperature: τ; the larger, the more the far ones count.

    Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", §2 (τ = 1).
    """
    weights = (-distances / temperature).softmax(-1)
    return weights.new_zeros(len(weights), vocab_size).scatter_add(1, tokens, weights)


class TokenMemory:
    """Keep hidden states of a model, and after each the token that came next.

    Args:
        states: (N, D); see ``remember``.
        tokens: (N,).

    Raises:
        ValueError: if there are not as many of one as of the other.
    """

    def __init__(self, states: Tensor, tokens: Tensor) -> None:
        self.states = states[:0].to(torch.promote_types(states.dtype, torch.float32))
        self.tokens = tokens[:0].long()
        self.add(states, tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, states: Tensor, tokens: Tensor) -> None:
        """Append entries, (N, D) and (N,)."""
        if states.dim() != 2 or tokens.shape != states.shape[:1] or states.size(1) != self.states.size(1):
            raise ValueError(
                f"states of shape {tuple(states.shape)} and tokens of shape {tuple(tokens.shape)} must be (N, "
                f"{self.states.size(-1)}) and (N,)"
            )
        self.states = torch.cat((self.states, states.to(self.states)))
        self.tokens = torch.cat((self.tokens, tokens.to(self.tokens)))

    def distribution(self, states: Tensor, vocab_size: int, *, n: int = 16, temperature: float = 1.0) -> Tensor:
        """Return what the n nearest entries say comes after each state, (Q, D) -> (Q, V)."""
        distances, places = nearest(states, self.states, n)
        return neighbor_distribution(distances, self.tokens[places], vocab_size, temperature)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        write_memory(Path(path), "tokens", states=self.states, tokens=self.tokens)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> "TokenMemory":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError, ValueError: if it is not there, damaged, or something else.
        """
        states, tokens = read_memory(Path(path), "tokens", "states", "tokens")
        return cls(states.to(device), tokens.to(device))


@torch.no_grad()
def remember(
    model: Llama, tokens: Any, *, size: int | None = None, stride: int | None = None, batch_size: int = 8
) -> TokenMemory:
    """Read a text, and keep the state before each of its tokens but the first, with that token.

    The state is what ``output`` reads. (Khandelwal et al. 2020 take the input of the last feed-forward.)

    Args:
        tokens: (n_tokens,) ids.
        size, stride: of overlapping windows, see ``evaluation.sliding_batches``; None means the context, and half of
            ``size``.
    """
    size = model.config.max_seq_len if size is None else size
    states, following = [], []
    stride = max(1, size // 2) if stride is None else stride
    for inputs, targets, weights in sliding_batches(
        np.asarray(tokens), size=size, stride=stride, batch_size=batch_size
    ):
        counted = torch.from_numpy(weights > 0)
        states.append(model.hidden_states(torch.from_numpy(inputs).to(model.device)).cpu()[counted])
        following.append(torch.from_numpy(targets)[counted])
    return TokenMemory(torch.cat(states).to(model.device), torch.cat(following).to(model.device))


class WithMemory(nn.Module):
    """Be a model to ``generate`` and ``sum_loss``, and mix what it says with what the memory says.

    log(λ·p_memory + (1 − λ)·p_model) stands where the logits would.

    Args:
        model: whose states the memory holds.
        memory: see ``remember``; it may grow while it is used.
        share: λ, from 0 (the model alone) to below 1, so that no token becomes impossible.
        n: neighbors.
        temperature: see ``neighbor_distribution``.

    Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", §2.
    """

    def __init__(
        self, model: Llama, memory: TokenMemory, *, share: float = 0.25, n: int = 16, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if not is_number(share) or not 0 <= share < 1:
            raise ValueError(f"share={share!r} must be a number from 0 to below 1")
        if model.config.labels or model.output is None or memory.states.size(1) != model.config.dim:
            raise ValueError(
                f"the memory has states of width {memory.states.size(1)}, and must belong to a whole model that "
                f"writes, whose width is {model.config.dim}"
            )
        self.model, self.memory, self.config, self.share = model, memory, model.config, float(share)
        self.n, self.temperature = check_integer("n", n), check_number("temperature", temperature)
        self.train(model.training)

    @property
    def eos_ids(self) -> tuple[int, ...] | None:
        """The tokens that end a text, where a checkpoint names them."""
        return self.model.eos_ids

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out."""
        return self.model.device

    def make_cache(self, **options: Any) -> KVCache | LayeredCache:
        """Build the model's cache."""
        return self.model.make_cache(**options)

    def forward(
        self, tokens: Tensor, *, positions: Tensor | None = None, cache: KVCache | LayeredCache | None = None
    ) -> Tensor:
        """Return the logarithms of the mixture, (B, T, V)."""
        return self._mix(self.model.hidden_states(tokens, positions=positions, cache=cache))

    def next_logits(
        self,
        tokens: Tensor,
        last: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KVCache | LayeredCache | None = None,
    ) -> Tensor:
        """Return those of what follows each row, (B, V), as ``Llama.next_logits``."""
        return self._mix(self.model.last_states(tokens, last, positions=positions, cache=cache))

    def _mix(self, x: Tensor) -> Tensor:
        logits = self.model.output(x)
        own = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if self.share == 0:
            return own
        options = {"n": self.n, "temperature": self.temperature}
        found = self.memory.distribution(x.flatten(0, -2), own.size(-1), **options).view(own.shape)
        return torch.logaddexp(own + math.log1p(-self.share), found.to(own).log() + math.log(self.share))
