"""Right and wrong answers to the exercises of chapter 13 on scores of texts."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llama_minimal.scores import chrf

Texts = Sequence[str]


def ngrams(text: str, n: int) -> Counter:
    """Return the n-grams of a text's characters."""
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def chrf_from(
    hypotheses: Texts,
    references: Texts,
    order: int,
    beta: float,
    *,
    spaces: bool = False,
    made: Callable = ngrams,
    common: Callable = lambda ours, theirs: (ours & theirs).total(),
    lengths: Callable = lambda order: range(1, order + 1),
    left_out: bool = True,
) -> tuple[list, list]:
    """Return the precisions and recalls of a corpus by length, each made in a way that may be wrong."""
    precisions, recalls = [], []
    for n in lengths(order):
        ours, theirs, both = 0, 0, 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            pair = [text if spaces else "".join(text.split()) for text in (hypothesis, reference)]
            one, other = (made(text, n) for text in pair)
            ours, theirs, both = ours + one.total(), theirs + other.total(), both + common(one, other)
        if (ours and theirs) or not left_out:
            precisions.append(both / max(ours, 1))
            recalls.append(both / max(theirs, 1))
    return precisions, recalls


def f_score(precision: float, recall: float, beta: float) -> float:
    """Return F in percent."""
    below = beta**2 * precision + recall
    return 100 * (1 + beta**2) * precision * recall / below if below else 0.0


def wrong_chrf(**how: Any) -> Callable:
    """Return a chrF whose counts are made in a wrong way."""

    def score(hypotheses: Texts, references: Texts, order: int, beta: float) -> float:
        precisions, recalls = chrf_from(hypotheses, references, order, beta, **how)
        return f_score(float(np.mean(precisions)), float(np.mean(recalls)), beta)

    return score


def right_chrf(hypotheses: Texts, references: Texts, order: int, beta: float) -> float:
    """Return the package's chrF."""
    return chrf(hypotheses, references, order=order, beta=beta)


def chrf_of_means(hypotheses: Texts, references: Texts, order: int, beta: float) -> float:
    """Average the scores of the sentences."""
    pairs = zip(hypotheses, references, strict=True)
    return float(np.mean([chrf([text], [one], order=order, beta=beta) for text, one in pairs]))


def chrf_by_length(hypotheses: Texts, references: Texts, order: int, beta: float) -> float:
    """Average the F-scores of the lengths."""
    precisions, recalls = chrf_from(hypotheses, references, order, beta)
    return float(np.mean([f_score(p, r, beta) for p, r in zip(precisions, recalls, strict=True)]))


def chrf_pooled(hypotheses: Texts, references: Texts, order: int, beta: float) -> float:
    """Throw the n-grams of all lengths together."""

    def all_lengths(text: str, _: int) -> Counter:
        return Counter(text[i : i + n] for n in range(1, order + 1) for i in range(len(text) - n + 1))

    return wrong_chrf(made=all_lengths, lengths=lambda _: [1])(hypotheses, references, order, beta)


def texts(rng: np.random.Generator) -> tuple[Texts, Texts, int, float]:
    """Draw sentences and references, each as long as the longest n-gram at least, and an order."""
    words = ["the", "cat", "sat", "on", "a", "mat", "bear", "sang", "softly", "again"]
    drawn = [" ".join(words[i] for i in rng.integers(0, 10, size=rng.integers(6, 10))) for _ in range(6)]
    return drawn[:3], drawn[3:], int(rng.integers(2, 7)), float(rng.integers(2, 4))


def touched(n: int, i: int, k: int) -> int:
    """Return how many of the k-grams of n words have word i."""
    return min(i, n - k) - max(0, i - k + 1) + 1


def one_wrong_word(n: int, i: int, *, hit: Callable[[int, int, int], int] = touched) -> float:
    """Return the BLEU of n different words of which word i is wrong."""
    shares = [(n - k + 1 - hit(n, i, k)) / (n - k + 1) for k in range(1, 5)]
    return 100 * math.prod(shares) ** 0.25
