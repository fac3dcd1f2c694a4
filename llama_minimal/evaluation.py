"""How good a model is: loss, perplexity, bits per byte, and baselines to beat."""

# B batch, T time, V vocabulary

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from llama_minimal.loss import next_token_loss

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # inputs, targets (B, T) and weights (B, T)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Hold a loss in the three units that people use."""

    total: float  # nats, summed over all targets
    n_tokens: float
    n_bytes: int | None = None  # of the text that the tokens stand for

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, in nats per token."""
        return self.total / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): as unsure as if it chose among so many tokens."""
        return math.inf if self.loss > 700 else math.exp(self.loss)  # a float ends at exp(709)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text: the unit that compares models with different tokenizers."""
        return self.total / math.log(2) / self.n_bytes if self.n_bytes else None


@dataclass(slots=True, kw_only=True)
class BestLoss:
    """Remember the lowest validation loss of a run, and for how many validations there was no lower one."""

    loss: float | None = None
    step: int | None = None
    since: int = 0

    def update(self, step: int, loss: float) -> bool:
        """Take note of one validation; return whether it is the best so far. NaN never is."""
        better = math.isfinite(loss) and (self.loss is None or loss < self.loss)
        if better:
            self.loss, self.step, self.since = loss, step, 0
        else:
            self.since += 1
        return better


@torch.no_grad()
def sum_loss(model: nn.Module, batches: Iterable[Batch], *, device: torch.device | str = "cpu") -> tuple[float, float]:
    """Return the summed loss in nats and the number of targets."""
    training = model.training
    model.eval()
    total, count = 0.0, 0.0
    try:
        for inputs, targets, weights in batches:
            inputs, targets, weights = (torch.from_numpy(part).to(device) for part in (inputs, targets, weights))
            batch_total, batch_count = next_token_loss(model(inputs), targets, weights)
            total, count = total + batch_total.item(), count + batch_count.item()
    finally:
        model.train(training)
    return total, count


def wilson_interval(share: float, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the bounds between which the true share lies, when it was seen among n.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        z: 95 % of a normal distribution are within so many standard deviations.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def uniform_loss(vocab_size: int) -> float:
    """Return the loss of knowing nothing, log V nats per token."""
    return math.log(vocab_size)


def bigram_loss(train: np.ndarray, validation: np.ndarray, vocab_size: int, *, strength: float = 16.0) -> float:
    """Return the loss, in nats per token, of predicting each token from the one before it by counting.

    p(b|a) = (n(a,b) + κ·p(b)) / (n(a) + κ), with p(b) = (n(b) + 1) / (n + V) and κ = ``strength``: as if
    each token had been followed κ times by an average one.

    Args:
        train, validation: token ids, (n,).

    Source: Jurafsky and Martin, "Speech and Language Processing", ch. 3 (n-grams, smoothing).
    """
    if not 0 < strength < math.inf:
        raise ValueError(f"strength={strength} must be a positive number, such as 16")
    train, validation = (np.asarray(tokens, dtype=np.int64) for tokens in (train, validation))
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    before = np.bincount(train[:-1], minlength=vocab_size)  # n(a)
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    pairs, counts = np.append(pairs, vocab_size**2), np.append(counts, 0)  # so that every search ends inside
    wanted = validation[:-1] * vocab_size + validation[1:]
    found = np.searchsorted(pairs, wanted)
    seen = np.where(pairs[found] == wanted, counts[found], 0)  # n(a,b)
    probability = (seen + strength * unigram[validation[1:]]) / (before[validation[:-1]] + strength)
    return float(-np.log(probability).mean())
