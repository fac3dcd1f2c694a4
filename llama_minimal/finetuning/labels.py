"""Scores of predicted labels: accuracy, macro-F1, and the table of what was taken for what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each label was taken for each.

    Args:
        labels: those of the texts and those predicted, in the order of the alphabet.
        counts: of the texts with ``labels[i]``, ``counts[i][j]`` were predicted to have ``labels[j]``.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def confusion(predictions: Sequence[str], labels: Sequence[str]) -> Confusion:
    """Return how often each label was predicted for texts of each label.

    Raises:
        ValueError: if there are not as many predictions as labels, or none.
    """
    _check(predictions, labels)
    names = sorted({*predictions, *labels})
    pairs = Counter(zip(labels, predictions, strict=True))
    return Confusion(tuple(names), tuple(tuple(pairs[one, other] for other in names) for one in names))


def accuracy(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Return how many of a hundred predictions are right.

    Raises:
        ValueError: as ``confusion``.
    """
    _check(predictions, labels)
    return 100 * sum(a == b for a, b in zip(predictions, labels, strict=True)) / len(labels)


def macro_f1(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Return the F1 of the labels, averaged so that a rare label counts as much as a frequent one; in percent.

    F1 of a label = 2 · right / (predicted + there), over the labels that are there or were predicted: a label that is
    never right has 0. Always the same of two labels that are equally frequent gives 33.3, and accuracy 50.

    Raises:
        ValueError: as ``confusion``.

    Source: Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 13.6.
    scikit-learn's ``f1_score(average="macro", zero_division=0)`` gives the same, divided by 100.
    """
    _check(predictions, labels)
    there, predicted = Counter(labels), Counter(predictions)
    right = Counter(a for a, b in zip(predictions, labels, strict=True) if a == b)
    each = [2 * right[name] / (there[name] + predicted[name]) for name in there | predicted]
    return 100 * sum(each) / len(each)


def _check(predictions: Sequence[str], labels: Sequence[str]) -> None:
    if isinstance(predictions, str) or len(predictions) != len(labels) or not labels:
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels; give as many, and at least one")
