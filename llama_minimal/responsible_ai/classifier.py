"""A classifier of what a model writes: logistic regression on hidden states, beside a list of words."""

# n examples, D features, T time

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_minimal.model import Llama
from llama_minimal.responsible_ai.reading import split_tokens
from llama_minimal.tokenizer import TextCodec

_NEWTON_STEPS = 50


def logistic_loss(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float = 0.0) -> Tensor:
    """Return Σ log(1 + exp(−s·z)) + decay/2·|w|², with z = x·w + b, and s = 1 for a label of 1, −1 for 0.

    Args:
        x: (n, D).
        labels: 1 for what is to be refused and 0 for the rest, (n,).
        weight, bias: (D,) and ().
        decay: pulls the weight, and not the bias, towards 0.
    """
    z = (x @ weight + bias) * (2 * labels - 1).to(x.dtype)
    return F.softplus(-z).sum() + decay / 2 * (weight**2).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """Score features: the higher, the more likely to deserve refusal. ``score(x).sigmoid()`` is a chance."""

    weight: Tensor
    """(D,), of features as they come."""
    bias: Tensor
    """()."""

    def score(self, x: Tensor) -> Tensor:
        """Return (n,) logits of features (n, D)."""
        return x.to(self.weight) @ self.weight + self.bias


def fit_logistic(x: Tensor, labels: Tensor, *, decay: float = 1.0) -> Logistic:
    """Find the weights of the smallest ``logistic_loss`` on standardized features, by Newton's method.

    A step solves H·δ = −g, with the gradient g = Xᵀ(p − y) + decay·w and H = Xᵀ diag(p(1 − p)) X + decay·I; it is
    halved until the loss falls. The loss is convex, so there is one bottom.

    Args:
        x: (n, D).
        labels: 1 for what is to be refused and 0 for the rest, (n,).
        decay: above 0, or the weights of separable examples would grow without end.

    Raises:
        ValueError: if a label is missing, shapes differ, or decay is not positive.
    """
    x, y = x.detach().double().cpu(), torch.as_tensor(labels).double().cpu()
    if x.dim() != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"features of shape {tuple(x.shape)} and {tuple(y.shape)} labels: give (n, D) and (n,)")
    if set(y.tolist()) != {0.0, 1.0}:
        raise ValueError("labels must be 0 and 1, and both must occur, or there is nothing to tell apart")
    if not decay > 0:
        raise ValueError(f"decay={decay} must be positive, such as 1.0")
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    features = torch.cat(((x - mean) / scale, torch.ones(len(x), 1, dtype=torch.float64)), dim=1)  # (n, D + 1)
    pull = torch.full((features.size(1),), float(decay), dtype=torch.float64)
    pull[-1] = 0  # the bias is free
    w = torch.zeros_like(pull)

    def loss(w: Tensor) -> Tensor:
        return logistic_loss(features[:, :-1], y, w[:-1], w[-1], decay)

    for _ in range(_NEWTON_STEPS):
        p = (features @ w).sigmoid()
        gradient = features.T @ (p - y) + pull * w
        curvature = (features.T * (p * (1 - p))) @ features + torch.diag(pull.clamp_min(1e-9))
        step, before = -torch.linalg.solve(curvature, gradient), loss(w)
        while loss(w + step) > before and step.abs().max() > 1e-12:
            step = step / 2
        w = w + step
        if step.abs().max() < 1e-10:
            break
    weight = w[:-1] / scale
    return Logistic(weight=weight, bias=w[-1] - weight @ mean)


def precision_recall(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what refusing everything from a score on would give, for each score that occurs, the highest first.

    Precision: which share of the refused deserved it. Recall: which share of what deserved it was refused.

    Args:
        scores: (n,).
        labels: 1 for what should be refused, else 0, (n,), with at least one 1.

    Returns:
        precision, recall and threshold, each as long as there are different scores.

    Raises:
        ValueError: if nothing should be refused, or shapes differ.
    """
    scores, labels = torch.as_tensor(scores).double(), torch.as_tensor(labels).double()
    if scores.dim() != 1 or scores.shape != labels.shape or not labels.sum():
        raise ValueError(
            f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must be (n,), and a label must be 1"
        )
    order = torch.argsort(scores, descending=True, stable=True)
    scores, labels = scores[order], labels[order]
    hits = labels.cumsum(0)
    last = torch.cat((scores[1:] != scores[:-1], torch.tensor([True])))  # equal scores are refused together
    n = torch.arange(1, len(hits) + 1, dtype=torch.float64)
    return (hits / n)[last], (hits / hits[-1])[last], scores[last]


def threshold_for(scores: Tensor, labels: Tensor, *, recall: float) -> float:
    """Return the highest threshold that still refuses this share of what should be refused.

    Args:
        scores, labels: of examples that were not trained on, (n,).
        recall: above 0, at most 1.

    Raises:
        ValueError: if there is no such share.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall} must be above 0 and at most 1; 1 refuses all that should be refused")
    _, reached, thresholds = precision_recall(scores, labels)
    return thresholds[(reached >= recall - 1e-12).nonzero()[0]].item()


@torch.inference_mode()
def text_states(model: Llama, tokenizer: TextCodec, befores: Sequence[str], texts: Sequence[str]) -> Tensor:
    """Return one vector for each text: the mean of the last hidden states over its tokens, read after what was before.

    Args:
        befores: what stands before each text; of a long one, the end is read.
        texts: such as sentences; not empty.

    Returns:
        (n, D).

    Raises:
        ValueError: if a text has no tokens, or there is not one ``before`` for each.
    """
    if len(befores) != len(texts):
        raise ValueError(f"{len(befores)} texts before {len(texts)} texts: give one for each, '' where there is none")
    found = []
    for before, text in zip(befores, texts, strict=True):
        given, new = split_tokens(tokenizer, before, text)
        if not new:
            raise ValueError(f"the text {text!r} has no tokens; leave it out")
        ids = torch.tensor([(given + new)[-model.config.max_seq_len :]], device=model.device)
        found.append(model.hidden_states(ids)[0, -len(new) :].mean(0))
    return torch.stack(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenStateJudge:
    """Refuse a text where a model's own hidden states, read by a ``Logistic``, score it at a threshold or above.

    The text is read once more, all its tokens at a time, which costs little beside having written it token by token.
    """

    model: Llama
    tokenizer: TextCodec
    classifier: Logistic
    threshold: float = 0.0
    """A logit: 0 means more likely than not."""

    def score(self, before: str, text: str) -> float:
        """Return the logit of a text that follows another."""
        return self.classifier.score(text_states(self.model, self.tokenizer, [before], [text])).item()

    def __call__(self, before: str, text: str) -> bool:
        """Return whether to refuse the text."""
        return self.score(before, text) >= self.threshold


@dataclass(frozen=True, slots=True)
class WordList:
    """Refuse a text with a listed word: whole words, capitals or not.

    Of a word that does not begin or end with a Latin letter, as in Chinese, every occurrence counts.
    """

    words: tuple[str, ...]
    _pattern: re.Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not self.words or not all(self.words):
            raise ValueError(f"words={self.words!r} must be a list of words that are not empty")
        parts = [
            _edge(word[0], "(?<![A-Za-z])") + re.escape(word) + _edge(word[-1], "(?![A-Za-z])") for word in self.words
        ]
        object.__setattr__(self, "_pattern", re.compile("|".join(parts), re.IGNORECASE))

    def score(self, before: str, text: str) -> float:
        """Return how many listed words a text has."""
        return float(len(self._pattern.findall(text)))

    def __call__(self, before: str, text: str) -> bool:
        """Return whether to refuse the text."""
        return self._pattern.search(text) is not None


def _edge(letter: str, condition: str) -> str:
    return condition if letter.isascii() and letter.isalpha() else ""
