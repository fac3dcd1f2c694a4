"""Texts longer than the context: which tokens a window keeps, and how attention reads them."""

# B batch, T time, S keys, H heads, K kv heads, Dh head width

import numpy as np

from llama_minimal.reference._types import Array
from llama_minimal.reference.attention import attention
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
