"""The first layer: a row of a table for each token."""

# B batch, T time, D model width, V vocabulary

import numpy as np

from llama_minimal.reference._types import VJP, Array


def embedding(tokens: Array, weight: Array) -> Array:
    """Look up each token's row.

    Args:
        tokens: integers in [0, V), (B, T).
        weight: one row per token, (V, D).

    Returns:
        (B, T, D).
    """
    return weight[tokens]


def embedding_vjp(tokens: Array, weight: Array) -> VJP:
    """Return ``embedding`` and its backward, d_out → d_weight."""

    def backward(d_out: Array) -> Array:
        d_weight = np.zeros_like(weight)
        # Not d_weight[tokens] += d_out, which counts a token that occurs twice only once.
        np.add.at(d_weight, tokens, d_out)
        return d_weight

    return embedding(tokens, weight), backward
