"""A filter's classifier: logistic regression, and what its threshold trades for what."""

# n examples, D features

from collections.abc import Callable

import numpy as np

from llama_minimal.reference._types import Array


def logistic_loss(x: Array, labels: Array, weight: Array, bias: Array, decay: float = 0.0) -> np.floating:
    """Return Σ log(1 + exp(−s·z)) + decay/2·|w|², with z = x·w + b, and s = 1 for a label of 1, −1 for 0.

    Args:
        x: (n, D).
        labels: integers, 1 for what is to be refused and 0 for the rest, (n,).
        weight, bias: (D,) and ().
        decay: pulls the weight, and not the bias, towards 0.
    """
    z = (x @ weight + bias) * (2 * labels - 1).astype(x.dtype)
    return np.logaddexp(0, -z).sum() + decay / 2 * (weight**2).sum()


def logistic_loss_vjp(
    x: Array, labels: Array, weight: Array, bias: Array, decay: float = 0.0
) -> tuple[np.floating, Callable[[float], tuple[Array, Array, Array]]]:
    """Return ``logistic_loss`` and its backward, d_out → (d_x, d_weight, d_bias), from p − y: chance minus label."""
    z = x @ weight + bias
    probability = 1 / (1 + np.exp(-np.clip(z, -700, 700).astype(x.dtype)))

    def backward(d_out: float) -> tuple[Array, Array, Array]:
        d_z = (d_out * (probability - labels)).astype(x.dtype)  # (n,)
        return d_z[:, None] * weight, x.T @ d_z + d_out * decay * weight, d_z.sum()

    return logistic_loss(x, labels, weight, bias, decay), backward


def precision_recall(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return what refusing everything from a score on would give, for each score that occurs, the highest first.

    Precision: which share of the refused deserved it. Recall: which share of what deserved it was refused.

    Args:
        scores: (n,).
        labels: 1 for what should be refused, else 0, (n,), with at least one 1.

    Returns:
        precision, recall and threshold, each as long as there are different scores.
    """
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    hits = np.cumsum(labels)
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores are refused together
    return (hits / np.arange(1, len(hits) + 1))[last], (hits / hits[-1])[last], scores[last]
