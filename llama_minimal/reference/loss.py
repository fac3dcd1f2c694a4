"""The next-token loss: how surprised the model is by the token that came."""

# V vocabulary

from collections.abc import Callable, Iterator

import numpy as np

from llama_minimal.reference._types import Array
from llama_minimal.reference.attention import softmax
from llama_minimal.reference.feedforward import linear, linear_vjp

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


def chunked_loss(
    x: Array, w: Array, targets: Array, weights: Array | None = None, *, rows: int = 64
) -> tuple[np.floating, np.floating]:
    """Return ``next_token_loss`` of the logits x wᵀ, of which no more than ``rows`` tokens' are there at a time.

    Args:
        x: (..., D), what the output layer reads.
        w: (V, D).
        targets, weights: as for ``next_token_loss``, (...).
        rows: tokens of a chunk.
    """
    chunks = _chunks(x, targets, _target_weights(x, targets, weights), rows)
    sums = [next_token_loss(linear(xs, w), ts, ws) for xs, ts, ws in chunks]
    return sum(total for total, _ in sums), sum(count for _, count in sums)


def chunked_loss_vjp(
    x: Array, w: Array, targets: Array, weights: Array | None = None, *, rows: int = 64
) -> tuple[tuple[np.floating, np.floating], Callable[[float], tuple[Array, Array]]]:
    """Return ``chunked_loss`` and its backward, d_total → (dx, dw).

    Backward is linear in d_total. So both gradients are computed for d_total = 1 while a chunk's logits are there,
    and only scaled later: no product twice, and no logits kept.
    """
    total, count, dxs, dw = x.dtype.type(0), x.dtype.type(0), [], np.zeros_like(w)
    for xs, ts, ws in _chunks(x, targets, _target_weights(x, targets, weights), rows):
        logits, linear_backward = linear_vjp(xs, w)
        (part, part_count), loss_backward = next_token_loss_vjp(logits, ts, ws)
        dx, part_dw, _ = linear_backward(loss_backward(1.0))
        total, count, dw = total + part, count + part_count, dw + part_dw
        dxs.append(dx)
    dx = np.concatenate(dxs).reshape(x.shape)
    return (total, count), lambda d_total: (d_total * dx, d_total * dw)


def _chunks(x: Array, targets: Array, weights: Array, rows: int) -> Iterator[tuple[Array, Array, Array]]:
    flat = x.reshape(-1, x.shape[-1]), targets.reshape(-1), weights.reshape(-1)
    return ((part[i : i + rows] for part in flat) for i in range(0, targets.size, rows))


def _target_weights(logits: Array, targets: Array, weights: Array | None) -> Array:
    counted = targets != IGNORED
    return (counted if weights is None else counted * weights).astype(logits.dtype)
