"""Candidates for the next tokens, and which of them a model keeps."""

# B batch, K candidates, V vocabulary

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llama_minimal.adaptive_computation.rule import acceptance_probability, residual_distribution
from llama_minimal.devices import as_float64
from llama_minimal.sampling import Choice


class Proposal(NamedTuple):
    """Hold candidates for the next tokens of every row."""

    tokens: Tensor
    """(B, K) ids; K may be 0."""
    counts: list[int]
    """How many of them are row b's; the others fill the rectangle."""
    probabilities: Tensor | None = None
    """(B, K, V) in float64, from which the candidates were drawn; None if they were not drawn."""


def verify(
    logits: Tensor, proposal: Proposal, choice: Choice, places: Sequence[int] | Tensor
) -> tuple[Tensor, list[int]]:
    """Choose the next tokens of every row: the candidates that are kept, and one more.

    Candidates that were not drawn are kept as long as they are what is chosen. Of those drawn from q, each is kept
    with probability min(1, p/q); in the place of the first that is not, a token is drawn from what p has over q.

    Args:
        logits: (B, K + 1, V) of the model: of what follows the text, and of what follows each candidate.
        choice: how to choose.
        places: (B,) how many tokens each row has written.

    Returns:
        tokens (B, K + 1), and how many candidates n each row keeps; row b goes on with its first n + 1 tokens.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Chen et al. 2023,
    "Accelerating Large Language Model Decoding with Speculative Sampling".
    """
    counts, n_candidates = proposal.counts, proposal.tokens.size(1)
    if not n_candidates:
        return choice.choose(choice.filter(logits), places), [0] * len(logits)
    candidates = proposal.tokens.to(logits.device)
    allowed = choice.filter(logits, candidates)
    if proposal.probabilities is None:
        tokens = choice.choose(allowed, places)
        return tokens, _leading(tokens[:, :-1] == candidates, counts)
    p, q = as_float64(allowed).softmax(-1), proposal.probabilities.to(allowed.device)  # (B, K + 1, V), (B, K, V)
    candidates = candidates.to(p.device)
    of_candidates = (x.gather(-1, candidates[..., None]).squeeze(-1) for x in (p[:, :-1], q))
    chance = acceptance_probability(*of_candidates)
    kept = _leading(choice.numbers_at(places, n_candidates, Choice.ACCEPTANCE) < chance, counts)
    rows, n = torch.arange(len(p), device=p.device), torch.tensor(kept, device=p.device)
    # Past its candidates a row draws from p itself: what is taken off is 0.
    taken = torch.where((n < torch.tensor(counts, device=p.device))[:, None], q[rows, n.clamp(max=n_candidates - 1)], 0)
    last = choice.choose(
        residual_distribution(p[rows, n], taken).log()[:, None], torch.as_tensor(places, device=n.device) + n
    )
    tokens = torch.cat((candidates, last.to(p.device)), dim=1)
    return tokens.scatter(1, n[:, None], last.to(p.device)).to(logits.device), kept


def _leading(good: Tensor, counts: list[int]) -> list[int]:
    """Return how many of each row's candidates are good before the first that is not."""
    n_good = good.int().cumprod(1).sum(1).tolist()
    return [min(n, count) for n, count in zip(n_good, counts, strict=True)]
