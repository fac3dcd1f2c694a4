"""Texts longer than the context: what a window keeps and how attention reads it, and memories that are searched."""

# B batch, T time, S keys, H heads, K kv heads, M remembered tokens, D and Dh widths, N entries, Q queries, V vocabulary

import math

import numpy as np

from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.attention import attention, softmax
from llama_minimal.reference.positions import apply_rope


def positions_kept(position: int, *, size: int, n_sinks: int) -> list[int]:
    """Say which tokens the one at a position sees, itself included: the first few, and the latest.

    Args:
        size: how many at most; more than ``n_sinks``.
        n_sinks: how many of them are the first of the text.

    Example:
        >>> positions_kept(8, size=6, n_sinks=2)
        [0, 1, 5, 6, 7, 8]
    """
    seen = list(range(position + 1))
    return seen if len(seen) <= size else seen[:n_sinks] + seen[len(seen) - (size - n_sinks) :]


def window_attention(q: Array, k: Array, v: Array, cos: Array, sin: Array, *, size: int, n_sinks: int) -> Array:
    """Let each token look at the tokens that its window keeps, turned by their places among these.

    Args:
        q: (B, H, T, Dh), before the rotation.
        k, v: (B, K, T, Dh), keys before the rotation.
        cos, sin: rows of ``rope_table``, (size, Dh/2): no place is beyond.
        size, n_sinks: as for ``positions_kept``.

    Returns:
        (B, H, T, Dh).

    Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", §3.2.
    """
    out = np.empty_like(q)
    for t in range(q.shape[2]):
        kept = positions_kept(t, size=size, n_sinks=n_sinks)
        n = len(kept)
        keys = apply_rope(k[:, :, kept], cos[:n], sin[:n])  # (B, K, S, Dh)
        query = apply_rope(q[:, :, t : t + 1], cos[n - 1 : n], sin[n - 1 : n])
        out[:, :, t : t + 1] = attention(query, keys, v[:, :, kept])
    return out


def recalling_attention(
    q: Array, k: Array, v: Array, cos: Array, sin: Array, *, size: int, n_sinks: int, n: int
) -> Array:
    """Let each token look at its window, and at the n tokens outside whose keys answer it best, in one softmax.

    Those outside are seen from half a window away.

    Args:
        q, k, v, cos, sin, size, n_sinks: as for ``window_attention``.
        n: how many are looked up; all, where there are fewer.

    Returns:
        (B, H, T, Dh).

    Source: Tworkowski et al. 2023, "Focused Transformer: Contrastive Training for Context Scaling".
    """
    out, group = np.empty_like(q), q.shape[1] // k.shape[1]
    far = size // 2
    for b, h, t in np.ndindex(q.shape[:3]):
        kept = positions_kept(t, size=size, n_sinks=n_sinks)
        gone = [i for i in range(t) if i not in kept]
        keys, values, places = k[b, h // group], v[b, h // group], np.arange(len(kept))
        query = apply_rope(q[b, h, [t]], cos[places[-1:]], sin[places[-1:]])[0]
        distant = apply_rope(q[b, h, [t]], cos[[far]], sin[[far]])[0]
        near = apply_rope(keys[kept], cos[places], sin[places]) @ query
        old = apply_rope(keys[gone], cos[[0] * len(gone)], sin[[0] * len(gone)]) @ distant
        best = np.argsort(-old)[:n]
        weights = softmax(np.concatenate((near, old[best])) / math.sqrt(q.shape[-1]))
        out[b, h, t] = weights @ np.concatenate((values[kept], values[gone][best]))
    return out


def window_begins(n_tokens: int, *, size: int, stride: int) -> Array:
    """Say from where on each token is predicted when windows of a text overlap.

    Token i is counted in the first window that reaches it: number max(0, ⌈(i − size) / stride⌉), which begins stride
    times as far.

    Args:
        size: tokens that the model sees at once.
        stride: from the beginning of a window to that of the next, at most ``size``.

    Returns:
        (n_tokens − 1,) integers, of the tokens from the second on.

    Example:
        >>> window_begins(7, size=4, stride=2).tolist()
        [0, 0, 0, 0, 2, 2]
    """
    return stride * np.maximum(0, -(-(np.arange(1, n_tokens) - size) // stride))


def nearest(queries: Array, keys: Array, n: int) -> tuple[Array, Array]:
    """Find the n nearest keys of each query by ‖q − k‖², nearest first: squared distances and places, each (Q, n).

    Args:
        queries: (Q, D).
        keys: (N, D).
    """
    distances = ((queries[:, None] - keys) ** 2).sum(-1)  # (Q, N)
    places = distances.argsort(axis=-1, kind="stable")[:, :n]
    return np.take_along_axis(distances, places, -1), places


def neighbor_distribution(distances: Array, tokens: Array, vocab_size: int, temperature: float = 1.0) -> Array:
    """Say how probable neighbors make each token: p(y) ∝ Σ over neighbors with token y of e^(−d/τ).

    Args:
        distances: (Q, n), squared.
        tokens: (Q, n), what followed each neighbor.

    Returns:
        (Q, V).

    Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", §2 (τ = 1).
    """
    is_token = tokens[:, :, None] == np.arange(vocab_size)  # (Q, n, V)
    return (softmax(-distances / temperature)[:, :, None] * is_token).sum(1)


def memory_attention(q: Array, keys: Array, values: Array, n: int) -> Array:
    """Let each query look at the n remembered tokens whose keys answer it best.

    Args:
        q: (B, H, T, Dh).
        keys, values: (K, M, Dh), the same for all rows; query head h reads head ⌊h·K/H⌋.

    Returns:
        (B, H, T, Dh).

    Source: Wu et al. 2022, "Memorizing Transformers", §3.1.
    """
    out = np.empty_like(q)
    for b, h, t in np.ndindex(q.shape[:3]):
        head = h * len(keys) // q.shape[1]
        scores = keys[head] @ q[b, h, t] / math.sqrt(q.shape[-1])  # (M,)
        best = np.argsort(-scores)[:n]
        out[b, h, t] = softmax(scores[best]) @ values[head, best]
    return out


def gate_memory(local: Array, remembered: Array, bias: Array) -> Array:
    """Mix what attention found nearby and in the memory: g·remembered + (1 − g)·local with g = σ(bias) of each head.

    Args:
        local, remembered: (B, H, T, Dh).
        bias: (H,), learned.

    Source: Wu et al. 2022, "Memorizing Transformers", §3.1.
    """
    gate = _sigmoid(bias)[:, None, None]
    return gate * remembered + (1 - gate) * local


def gate_memory_vjp(local: Array, remembered: Array, bias: Array) -> VJP:
    """Return ``gate_memory`` and its backward, d_out → (d_local, d_remembered, d_bias)."""
    g = _sigmoid(bias)
    gate = g[:, None, None]

    def backward(d_out: Array) -> tuple[Array, Array, Array]:
        d_gate = (d_out * (remembered - local)).sum(axis=(0, 2, 3))  # (H,)
        return (1 - gate) * d_out, gate * d_out, g * (1 - g) * d_gate

    return gate_memory(local, remembered, bias), backward


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
