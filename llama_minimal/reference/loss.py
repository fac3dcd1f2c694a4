"""The next-token loss: how surprised the model is by the token that came."""

# V vocabulary

from collections.abc import Callable

import numpy as np

from llama_minimal.reference._types import Array
from llama_minimal.reference.attention import softmax

IGNORED = -100


def next_token_loss(logits: Array, targets: Array, weights: Array | None = None) -> tuple[np.floating, np.floating]:
    """Sum −log softmax(logits)[target] over the weighted targets, in nats.

    Sum and count stay apart, because a mean of means would favor the tokens of a short batch.

    Args:
        logits: (..., V).
        targets: integers in [0, V), or −100 for a target that weighs zero, (...).
        weights: one weight per target, (...); None means one each.

    Returns:
        The weighted sum of the losses, and the sum of the weights.
    """
    weights = _target_weights(logits, targets, weights)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # (..., V)
    # An ignored target has to name some column; its weight of zero hides which.
    columns = np.where(targets == IGNORED, 0, targets)[..., None]
    losses = -np.take_along_axis(log_p, columns, axis=-1)[..., 0]  # (...)
    return (weights * losses).sum(), weights.sum()


def next_token_loss_vjp(
    logits: Array, targets: Array, weights: Array | None = None
) -> tuple[tuple[np.floating, np.floating], Callable[[float], Array]]:
    """Return ``next_token_loss`` and its backward, d_total → d_logits = weight·(softmax − one-hot)."""

    def backward(d_total: float) -> Array:
        one_hot = np.arange(logits.shape[-1]) == targets[..., None]  # (..., V)
        weight = _target_weights(logits, targets, weights)[..., None]
        return d_total * weight * (softmax(logits) - one_hot)

    return next_token_loss(logits, targets, weights), backward


def _target_weights(logits: Array, targets: Array, weights: Array | None) -> Array:
    counted = targets != IGNORED
    return (counted if weights is None else counted * weights).astype(logits.dtype)
