"""From logits to the next token: filters on the distribution, and the draw."""

# B batch, V vocabulary

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_minimal.devices import as_float64
from llama_minimal.settings import Sampling

NEVER = float("-inf")  # the logit of probability 0


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens of each row, (B, V) -> (B, V) (Fan et al. 2018, §5)."""
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, NEVER)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep each row's smallest set of tokens with probability p or more (Holtzman et al. 2020, §3.1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability  # what the more likely tokens have together
    surplus = (before >= p).scatter(-1, order, before >= p)
    surplus.scatter_(-1, order[..., :1], False)  # the first token stays, whatever rounding did
    return logits.masked_fill(surplus, NEVER)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens with at least p times the top probability of their row (Nguyen et al. 2024, §3)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + torch.tensor(p).log(), NEVER)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens in ``seen`` (B, V) less likely: divide what is positive, multiply what is negative.

    Source: Keskar et al. 2019, "CTRL", §4.1.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_logits(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Apply a ``Sampling``'s penalty, temperature and filters, in this order, (B, V) -> (B, V)."""
    logits = logits.float()
    if sampling.repetition_penalty != 1 and seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = top_k_filter(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p_filter(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p_filter(logits, sampling.min_p)
    return logits


def choose(logits: Tensor, uniform: Tensor | None = None) -> Tensor:
    """Return the most likely token, or the one that a uniform number points to.

    The tokens' probabilities cut the interval [0, 1) into pieces; a number in a piece picks its token. So a
    draw is a function of its number, whatever the batch and the device.

    Args:
        logits: (B, V); −inf is never chosen.
        uniform: (B,) in [0, 1), float64; None takes the most likely.

    Returns:
        (B,) token ids.
    """
    if uniform is None:
        return logits.argmax(-1)
    cumulative = as_float64(logits).softmax(-1).cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]  # the first piece that ends after it
    return chosen.to(logits.device)


def uniform_numbers(n_rows: int, n_tokens: int, *, seed: int) -> Tensor:
    """Draw each row's numbers from a generator of its own, seeded with seed + row: (B, n) in [0, 1)."""
    # float32 draws are below 1 by more than float64 rounding can eat.
    draws = [torch.rand(n_tokens, generator=torch.Generator().manual_seed(seed + row)) for row in range(n_rows)]
    return torch.stack(draws).double()


def seen_tokens(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """Mark the tokens of each prompt, (B, V)."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen
