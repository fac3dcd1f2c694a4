"""Answers to the exercises of chapter 20 on bias and the filter, right ones and almost right ones."""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray

_WORDS = ("liar", "ugly", "go away", "silly", "lie", "stupid goose", "slow")
_TEXTS = ("such a liar", "how familiar", "you li", "just let it go", "long ago", "an ugly", "go awa", "a sil", "belie")


def logit(share: float) -> float:
    """Return the log-odds of a share."""
    return float(np.log(share / (1 - share)))


def shares_case(rng: np.random.Generator) -> tuple:
    """Draw a share and a more extreme or a milder one, on the same side of one half."""
    share, wanted = (float(value) for value in rng.uniform(0.55, 0.98, size=2))
    return (share, wanted) if rng.random() < 0.5 else (1 - share, 1 - wanted)


def temperature(share: float, wanted: float) -> float:
    """Return the temperature at which two even groups with one share are written with another."""
    return logit(share) / logit(wanted)


def scored_case(rng: np.random.Generator, n: int = 9, miss: float = 5.0, alarm: float = 1.0) -> tuple:
    """Draw scores with ties, labels that go with them, and two prices."""
    labels = (rng.random(n) < 0.4).astype(int)
    labels[:2] = 0, 1
    return np.round(rng.normal(size=n) + labels, 0), labels, miss, alarm


def cost(scores: Array, labels: Array, miss: float, alarm: float, *, refused: Array) -> float:
    """Return what a decision costs."""
    return float(miss * ((labels == 1) & ~refused).sum() + alarm * ((labels == 0) & refused).sum())


def lowest_cost(scores: Array, labels: Array, miss: float, alarm: float) -> float:
    """Return the cost of the best threshold."""
    return lowest_by()(scores, labels, miss, alarm)


def lowest_by(
    *, nothing: bool = True, everything: bool = True, by: Callable = cost, ties: bool = False
) -> Callable[..., float]:
    """Return an answer that leaves out a threshold, counts otherwise, or cuts between ties."""

    def answer(scores: Array, labels: Array, miss: float, alarm: float) -> float:
        thresholds = [*np.unique(scores)[0 if everything else 1 :], *([np.inf] if nothing else [])]
        decisions = [scores >= one for one in thresholds]
        if ties:
            order = np.argsort(-scores, kind="stable")
            decisions = [np.isin(np.arange(len(scores)), order[:k]) for k in range(len(scores) + 1)]
        return min(by(scores, labels, miss, alarm, refused=refused) for refused in decisions)

    return answer


def counted(scores: Array, labels: Array, miss: float, alarm: float, *, refused: Array) -> float:
    """Return how many mistakes a decision makes, whatever they cost."""
    return cost(scores, labels, 1, 1, refused=refused)


def at(threshold: float) -> Callable[..., float]:
    """Return an answer with a threshold that is not chosen."""
    return lambda scores, labels, miss, alarm: cost(scores, labels, miss, alarm, refused=scores >= threshold)


def most_right(scores: Array, labels: Array, miss: float, alarm: float) -> float:
    """Return the cost of the threshold with the fewest mistakes."""
    thresholds = [*np.unique(scores), np.inf]
    best = min(thresholds, key=lambda one: (counted(scores, labels, miss, alarm, refused=scores >= one), one))
    return cost(scores, labels, miss, alarm, refused=scores >= best)


def held_case(rng: np.random.Generator) -> tuple:
    """Draw a text as far as it has been written, and refused words."""
    words = [str(word) for word in rng.choice(_WORDS, size=int(rng.integers(1, 4)), replace=False)]
    if rng.random() < 0.5:
        word = str(rng.choice(words))
        text = str(rng.choice(["you ", "a fami", "so ", "", "he said "])) + word[: int(rng.integers(1, len(word) + 1))]
    else:
        text = str(rng.choice(_TEXTS))
    return text, words


def held(text: str, words: Sequence[str]) -> int:
    """Return how many characters at the end of a text may still become a refused word that stands alone."""
    return held_by()(text, words)


def held_by(
    *, whole: bool = True, alone: bool = True, longest: bool = True, first: bool = False
) -> Callable[[str, Sequence[str]], int]:
    """Return an answer that forgets the finished word, or the letter before, takes the shortest, or one word only."""

    def answer(text: str, words: Sequence[str]) -> int:
        found = [0]
        for word in words[:1] if first else words:
            for n in range(1, min(len(text), len(word) - (not whole)) + 1):
                fits = word.startswith(text[len(text) - n :])
                if fits and not (alone and n < len(text) and text[len(text) - n - 1].isalpha()):
                    found.append(n)
        return max(found) if longest else min(found[1:], default=0)

    return answer
