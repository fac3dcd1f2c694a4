"""Scaled dot-product attention with grouped keys and values."""

# B batch, T time, S keys, D model width, H heads, K kv heads, Dh head width

import math

import numpy as np

from llama_minimal.reference._types import VJP, Array


def softmax(x: Array) -> Array:
    """Turn each row of scores into probabilities: e^x / Σ e^x over the last axis.

    Args:
        x: (..., S). A score of −inf gets probability zero.

    Returns:
        (..., S); each row sums to one.
    """
    # The quotient ignores a shift of its row, and e^x overflows without this one.
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_vjp(x: Array) -> VJP:
    """Return ``softmax`` and its backward, d_out → d_x = p·(d_out − Σ p·d_out)."""
    p = softmax(x)
    return p, lambda d_out: p * (d_out - (p * d_out).sum(axis=-1, keepdims=True))


def causal_mask(n_queries: int, n_keys: int) -> Array:
    """Say which keys each query may look at: those up to its own position.

    The queries are the last T of the S positions, so query t sees the keys 0 … S − T + t.

    Returns:
        (T, S), boolean; True means may look.

    Example:
        >>> causal_mask(2, 4).astype(int).tolist()
        [[1, 1, 1, 0], [1, 1, 1, 1]]
    """
    return np.tri(n_queries, n_keys, n_keys - n_queries, dtype=bool)


def document_positions(documents: Array) -> Array:
    """Say where each token of a packed row stands in its own document, counted from 0.

    Args:
        documents: (B, T) numbers; a document is a run of equal ones.

    Example:
        >>> document_positions(np.array([[1, 1, 1, 2, 2]])).tolist()
        [[0, 1, 2, 0, 1]]
    """
    positions = np.zeros(documents.shape, np.int64)
    for t in range(1, documents.shape[1]):
        positions[:, t] = (positions[:, t - 1] + 1) * (documents[:, t] == documents[:, t - 1])
    return positions


def document_mask(documents: Array) -> Array:
    """Say which tokens of a packed row each token may look at: itself, and those before it in its own document.

    Args:
        documents: (B, T) numbers; a document is a run of equal ones.

    Returns:
        (B, 1, T, T), boolean; True means may look.
    """
    places = np.arange(documents.shape[1])
    age = places[:, None] - places  # (T, T): how far back each key is
    return ((age >= 0) & (age <= document_positions(documents)[:, :, None]))[:, None]


def split_heads(x: Array, n_heads: int) -> Array:
    """Cut the features into heads, (B, T, H·Dh) → (B, H, T, Dh)."""
    B, T, _ = x.shape
    return x.reshape(B, T, n_heads, -1).swapaxes(1, 2)


def split_heads_vjp(x: Array, n_heads: int) -> VJP:
    """Return ``split_heads`` and its backward, which is ``merge_heads``."""
    return split_heads(x, n_heads), merge_heads


def merge_heads(x: Array) -> Array:
    """Lay the heads side by side again, (B, H, T, Dh) → (B, T, H·Dh)."""
    B, _, T, _ = x.shape
    return x.swapaxes(1, 2).reshape(B, T, -1)


def merge_heads_vjp(x: Array) -> VJP:
    """Return ``merge_heads`` and its backward, which is ``split_heads``."""
    return merge_heads(x), lambda d_out: split_heads(d_out, x.shape[1])


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Mix the values by how well their keys match each query: softmax(q·kᵀ / √Dh)·v.

    Query head h reads kv head h // (H/K): K = H is multi-head attention, K = 1 multi-query,
    anything between grouped-query.

    Args:
        q: (B, H, T, Dh).
        k, v: (B, K, S, Dh), K a divisor of H.
        mask: boolean, broadcast to (B, H, T, S); True means may look, None means all may.

    Returns:
        (B, H, T, Dh).

    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023, §2.2.
    """
    k, v = _share(k, q), _share(v, q)  # (B, H, S, Dh)
    return softmax(_scores(q, k, mask)) @ v


def attention_vjp(q: Array, k: Array, v: Array, mask: Array | None = None) -> VJP:
    """Return ``attention`` and its backward, d_out → (d_q, d_k, d_v)."""
    n_kv_heads = k.shape[1]
    k, v = _share(k, q), _share(v, q)  # (B, H, S, Dh)
    weights, softmax_backward = softmax_vjp(_scores(q, k, mask))  # (B, H, T, S)

    def backward(d_out: Array) -> tuple[Array, Array, Array]:
        d_weights = d_out @ v.swapaxes(-1, -2)  # (B, H, T, S)
        # No mask here: where it hides a key, the weight is zero and so is the gradient.
        d_scores = softmax_backward(d_weights) / math.sqrt(q.shape[-1])
        d_q = d_scores @ k
        d_k = d_scores.swapaxes(-1, -2) @ q
        d_v = weights.swapaxes(-1, -2) @ d_out
        return d_q, _gather(d_k, n_kv_heads), _gather(d_v, n_kv_heads)

    return weights @ v, backward


def _scores(q: Array, k: Array, mask: Array | None) -> Array:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    return scores if mask is None else np.where(mask, scores, -np.inf)


def _share(kv: Array, q: Array) -> Array:
    # (B, K, S, Dh) -> (B, H, S, Dh): each kv head once for every query head of its group.
    return np.repeat(kv, q.shape[1] // kv.shape[1], axis=1)


def _gather(d_kv: Array, n_kv_heads: int) -> Array:
    # (B, H, S, Dh) -> (B, K, S, Dh): what was copied forward is summed backward.
    B, _, S, Dh = d_kv.shape
    return d_kv.reshape(B, n_kv_heads, -1, S, Dh).sum(axis=2)
