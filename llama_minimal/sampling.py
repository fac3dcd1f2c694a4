"""From logits to the next token: filters on the distribution, and the draw."""

# B batch, V vocabulary

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = float("-inf")  # the logit of probability 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Say how to choose the next token. The defaults choose freely; ``temperature=0`` is greedy."""

    temperature: float = 1.0
    """Divides the logits: below 1 is bolder, above 1 wilder; 0 always takes the most likely token."""
    top_k: int | None = None
    """Choose among the k most likely tokens."""
    top_p: float | None = None
    """Choose among the fewest tokens that have this probability together."""
    min_p: float | None = None
    """Choose among tokens at least this many times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that are there already less likely."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature!r} must be 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k!r} must be at least 1; leave it out to allow every token")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value!r} must be above 0 and at most 1; leave it out to allow every token")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty={self.repetition_penalty!r} must be positive; 1 penalizes nothing")


GREEDY = Sampling(temperature=0)


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
    cumulative = logits.double().softmax(-1).cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]  # the first piece that ends after it
