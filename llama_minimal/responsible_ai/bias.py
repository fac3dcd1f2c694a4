"""Bias, measured: on counts of a corpus, on what a model says, and on what it gets right for whom."""

# R roles, G groups, V vocabulary, P prompts, T time

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llama_minimal.evaluation import wilson_interval
from llama_minimal.model import Llama
from llama_minimal.responsible_ai.reading import split_tokens
from llama_minimal.tokenizer import TextCodec

Groups = Mapping[str, Sequence[str]]
"""Name of a group → the texts that belong to it, such as ``{"she": [" Lila", " Mina"], "he": [" Otto"]}``."""


def association(counts: Tensor, prior: float = 0.5) -> tuple[Tensor, Tensor]:
    """Return how much more often each role goes with each group than the other roles do, and how sure that is.

    Of role r and group g let a = n(r, g), b = n(r, not g), c = n(not r, g), d = n(not r, not g), each with ``prior``
    added. The log-odds ratio is log(ad/bc), its standard error √(1/a + 1/b + 1/c + 1/d), and z their ratio. Without
    an association, |z| is above 2 in one case of twenty: of many pairs some always are.

    Args:
        counts: (R, G), how often a role was seen with a group.
        prior: added to each of the four numbers, so that a zero has a logarithm.

    Returns:
        The log-odds ratios, 0 where there is no association, and z, each (R, G).

    Raises:
        ValueError: if this is no table of counts.

    Source: Woolf 1955, "On estimating the relation between blood group and disease", with Haldane's ½.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    if counts.dim() != 2 or not (counts >= 0).all() or not prior > 0:
        raise ValueError(
            f"counts of shape {tuple(counts.shape)} with prior={prior} must be a table (roles, groups) of numbers that "
            f"are not negative, and a positive prior"
        )
    both = counts + prior
    role = counts.sum(1, keepdim=True) - counts + prior
    group = counts.sum(0, keepdim=True) - counts + prior
    neither = counts.sum() - counts.sum(1, keepdim=True) - counts.sum(0, keepdim=True) + counts + prior
    ratio = both.log() + neither.log() - role.log() - group.log()
    return ratio, ratio / (1 / both + 1 / role + 1 / group + 1 / neither).sqrt()


def amplification(truth: Tensor, measured: Tensor, fair: float = 0.5) -> Tensor:
    """Return how far a share has moved away from what is fair, sign(truth − fair)·(measured − truth).

    Positive: the model exaggerates. Negative: it softens. Where the truth is fair there is nothing to exaggerate: 0.

    Args:
        truth: shares of a group in the data, one for each role, (R,).
        measured: shares in what the model says, (R,).
        fair: the share without a bias.

    Returns:
        (R,); its mean is one number for a model.

    Raises:
        ValueError: if the shapes differ, or something is no share.

    Source: after Zhao et al. 2017, "Men Also Like Shopping", §3, who average over the pairs that the data prefer.
    """
    truth, measured = (torch.as_tensor(share, dtype=torch.float64) for share in (truth, measured))
    if truth.shape != measured.shape:
        raise ValueError(f"{tuple(truth.shape)} shares of the data and {tuple(measured.shape)} of the model: one each")
    if not all(((share >= 0) & (share <= 1)).all() for share in (truth, measured)):
        raise ValueError("shares must be between 0 and 1; divide counts by their sum first")
    return (truth - fair).sign() * (measured - truth)


def group_shares(logits: Tensor, groups: Tensor, temperature: float = 1.0) -> Tensor:
    """Return how a model shares the next token among groups, when it is a token of one of them.

    Σ over a group of softmax(z/τ), divided by the sum over all groups.

    Args:
        logits: (..., V).
        groups: (V,), the group of a token, 0 to G − 1, or −1 for none.
        temperature: τ > 0, of the sampling.

    Returns:
        (..., G).

    Raises:
        ValueError: if the temperature is not positive, or no token has a group.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive; towards 0 the likeliest token takes all")
    if groups.shape != logits.shape[-1:] or not (groups >= 0).any():
        raise ValueError(
            f"groups of shape {tuple(groups.shape)} must name a group for some of {logits.size(-1)} tokens"
        )
    scaled = (logits / temperature).masked_fill(groups < 0, -torch.inf).softmax(-1)
    return torch.stack([scaled[..., groups == group].sum(-1) for group in range(int(groups.max()) + 1)], dim=-1)


@torch.inference_mode()
def next_shares(
    model: Llama, tokenizer: TextCodec, prompts: Sequence[str], groups: Groups, *, batch_size: int = 16
) -> tuple[Tensor, Tensor]:
    """Return the chance of each group to come next, by the probabilities of all its texts, whole.

    Args:
        model: asked; in evaluation mode.
        prompts: texts.
        groups: what may follow, such as names; a text is read as it stands after the prompt, with its space.
        batch_size: rows read at once.

    Returns:
        The groups' shares, which add up to 1, (P, G), and how much of all probability they have together, (P,).
        Where that is little, the model had something else in mind, and the shares mean little.

    Raises:
        ValueError: if a group or the list of prompts is empty.
    """
    if not prompts or not groups or not all(groups.values()):
        raise ValueError("there must be a prompt, and in each group a text that may follow")
    rows, owner = [], []
    for p, prompt in enumerate(prompts):
        for g, texts in enumerate(groups.values()):
            rows += [split_tokens(tokenizer, prompt, text) for text in texts]
            owner += [(p, g)] * len(texts)
    sums = torch.zeros(len(prompts), len(groups), dtype=torch.float64)
    for place, log_p in zip(owner, _log_probabilities(model, rows, batch_size), strict=True):
        sums[place] += log_p.exp()
    return sums / sums.sum(1, keepdim=True), sums.sum(1)


def _log_probabilities(model: Llama, rows: Sequence[tuple[list, list]], batch_size: int) -> list[Tensor]:
    """Return the log-probability of each row's second part after its first; what is asked twice is read once."""
    if not all(new for _, new in rows):
        raise ValueError("a text that may follow has no tokens; leave it out")
    # What comes after the first is a chain of tokens; all chains with the same beginning share what it predicts.
    wanted = dict.fromkeys((tuple(given + new[:-1]), len(given) - 1) for given, new in rows)
    asked, log_p = sorted(wanted, key=lambda one: len(one[0])), {}
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text, _ in batch], batch_first=True)
        hidden = model.hidden_states(padded.to(model.device))  # (B, T, D); what is padded comes after, unseen
        for i, (text, first) in enumerate(batch):
            log_p[text, first] = model.output(hidden[i, first : len(text)]).double().log_softmax(-1).cpu()
    found = []
    for given, new in rows:
        chain = log_p[tuple(given + new[:-1]), len(given) - 1]  # (tokens of the second part, V)
        found.append(chain.gather(1, torch.tensor(new)[:, None]).sum())
    return found


class Accuracy(NamedTuple):
    """Hold how often a model was right for one group, with the bounds of 95 % confidence."""

    share: float
    low: float
    high: float
    n: int


def accuracy_by(right: Sequence[bool], groups: Sequence[Hashable]) -> dict[Hashable, Accuracy]:
    """Return how often a model was right for each group, in the order in which they first come.

    Args:
        right: whether each answer was right.
        groups: whom it was about: a pronoun, a kind of animal, a language.

    Raises:
        ValueError: if there is not one group for each answer.
    """
    if len(right) != len(groups) or not len(right):
        raise ValueError(f"{len(right)} answers and {len(groups)} groups: there must be one group for each answer")
    kept: dict[Hashable, list[bool]] = {}
    for answer, group in zip(right, groups, strict=True):
        kept.setdefault(group, []).append(bool(answer))
    shares = {group: sum(answers) / len(answers) for group, answers in kept.items()}
    bounds = {group: wilson_interval(shares[group], len(answers)) for group, answers in kept.items()}
    return {group: Accuracy(shares[group], *bounds[group], len(kept[group])) for group in kept}
