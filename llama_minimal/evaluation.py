"""How good a model is: loss, perplexity, bits per byte, and baselines to beat."""

# B batch, T time, V vocabulary

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from llama_minimal.config.checks import check_integer
from llama_minimal.loss import next_token_loss
from llama_minimal.observing import reading

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


def sum_loss(model: nn.Module, batches: Iterable[Batch], *, device: torch.device | str = "cpu") -> tuple[float, float]:
    """Return the summed loss in nats and the number of targets."""
    total, count = 0.0, 0.0
    with reading(model):
        for inputs, targets, weights in batches:
            inputs, targets, weights = (torch.from_numpy(part).to(device) for part in (inputs, targets, weights))
            batch_total, batch_count = next_token_loss(model(inputs), targets, weights)
            total, count = total + batch_total.item(), count + batch_count.item()
    return total, count


def sliding_batches(tokens: np.ndarray, *, size: int, stride: int, batch_size: int = 8) -> Iterator[Batch]:
    """Yield windows that overlap, for ``sum_loss``: each target counts once, where it has the most before it.

    A window of ``size`` tokens begins every ``stride``. Of its targets, those that an earlier window has counted weigh
    nothing: so each is predicted from at least size − stride + 1 tokens, where the text has so many before it. With a
    stride of ``size`` the windows are those of ``data.sequential_batches``, and the first targets of each know little.

    Args:
        tokens: (n_tokens,), of any integer type; all but the first are targets.
        size: tokens that the model sees at once.
        stride: 1 to ``size``; the smaller, the more windows, and the more exact.
        batch_size: windows of a batch, B.

    Returns:
        Iterator of inputs, targets (int64) and weights (float32, 1 or 0), each (B, size); a short text's end is filled
        up with zeros.

    Raises:
        ValueError: if there are fewer than two tokens, or a number is out of range.

    Example:
        >>> [batch] = sliding_batches(np.arange(7), size=4, stride=2)
        >>> batch[2].astype(int).tolist()  # weights of the targets 1 to 4, and 3 to 6
        [[1, 1, 1, 1], [0, 0, 1, 1]]
    """
    size, stride = check_integer("size", size), check_integer("stride", stride)
    batch_size, tokens = check_integer("batch_size", batch_size), np.asarray(tokens)
    if stride > size:
        raise ValueError(f"stride={stride} would leave out targets between windows of size={size}; give at most {size}")
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens of shape {tokens.shape} must be one row of at least two")
    return _sliding(tokens, size, stride, batch_size)


def n_windows(n_tokens: int, *, size: int, stride: int) -> int:
    """Return into how many windows ``sliding_batches`` cuts so many tokens."""
    return 1 + -(-max(0, n_tokens - 1 - size) // stride)


def _sliding(tokens: np.ndarray, size: int, stride: int, batch_size: int) -> Iterator[Batch]:
    total = n_windows(len(tokens), size=size, stride=stride)
    for first in range(0, total, batch_size):
        shape = (min(batch_size, total - first), size)
        inputs, targets, weights = (np.zeros(shape, dtype) for dtype in (np.int64, np.int64, np.float32))
        for row in range(len(inputs)):
            begin = (first + row) * stride
            text = tokens[begin : begin + size + 1]
            inputs[row, : len(text) - 1], targets[row, : len(text) - 1] = text[:-1], text[1:]
            weights[row, size - stride if begin else 0 : len(text) - 1] = 1
        yield inputs, targets, weights


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
