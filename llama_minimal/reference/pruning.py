"""Which weights to remove, and how those that stay make up for them.

A mask is True where a weight stays. A layer computes x·weightᵀ, so a row of ``weight`` is one output, and a column
belongs to one input.
"""

import math

import numpy as np

from llama_minimal.reference._types import Array


def keep_mask(score: Array, sparsity: float, *, per_row: bool = False) -> Array:
    """Keep the highest scores: the lowest ⌊sparsity · n⌋ of n are False.

    Args:
        score: (out, in).
        sparsity: the share to remove, in [0, 1).
        per_row: remove as many from every row, instead of from the whole matrix.

    Returns:
        (out, in), boolean. Of equal scores the first go.
    """
    rows = score if per_row else score.reshape(1, -1)
    order = np.argsort(rows, axis=-1, kind="stable")
    mask = np.ones(rows.shape, dtype=bool)
    np.put_along_axis(mask, order[:, : math.floor(round(sparsity * rows.shape[1], 6))], False, axis=-1)
    return mask.reshape(score.shape)


def magnitude_mask(weight: Array, sparsity: float) -> Array:
    """Keep the weights that are farthest from zero, wherever they stand in the matrix.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks".
    """
    return keep_mask(np.abs(weight), sparsity)


def wanda_score(weight: Array, norms: Array) -> Array:
    """Return |W_ij|·‖x_j‖₂, the change of the outputs if this one weight went.

    Removing W_ij changes output i of a token by W_ij·x_j; over all tokens that is a vector of length |W_ij|·‖x_j‖₂.
    It is compared within a row, ``keep_mask(score, sparsity, per_row=True)``: each output loses as many inputs.

    Args:
        weight: (out, in).
        norms: ‖x_j‖₂ of every input over the calibration tokens, (in,).

    Source: Sun et al. 2023, "A simple and effective pruning approach for large language models" (Wanda).
    """
    return np.abs(weight) * norms


def n_of_m_mask(score: Array, n: int, m: int) -> Array:
    """Keep the n highest scores of every m neighbors in a row.

    Args:
        score: (out, in), with m a divisor of in.

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks" (2:4).
    """
    groups = score.reshape(-1, m)
    return keep_mask(groups, (m - n) / m, per_row=True).reshape(score.shape)


def sparsegpt(
    weight: Array,
    hessian: Array,
    *,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    block_size: int = 128,
    damping: float = 0.01,
) -> tuple[Array, Array]:
    """Remove weights column by column, and after each let the columns to its right make up for it.

    With G = (H_jj:)⁻¹, the inverse over column j and those after it, removing w_j costs w_j²/(2·G_00) at best, when
    the others move by −w_j/G_00 · G_0·. A column that is done does not move any more; so all rows share one G.
    Which weights go is decided block by block, by w_j²/G_00, with all that the columns before have caused.

    Args:
        weight: (out, in).
        hessian: H = Σ x·xᵀ over the calibration tokens, (in, in).
        sparsity: the share to remove of each block, in [0, 1).
        pattern: (n, m) instead: keep n of every m neighbors in a row.
        block_size: columns that are decided on together.
        damping: this share of the mean diagonal is added to the diagonal.

    Returns:
        The new weight and its mask, (out, in) each.

    Source: Frantar and Alistarh 2023, "SparseGPT"; block size and damping: its released code.
    """
    weight, hessian, alive = weight.copy(), hessian.copy(), np.diag(hessian) > 0
    weight[:, ~alive] = 0  # an input that is always 0
    hessian[~alive, ~alive] = 1
    hessian += damping * np.diag(hessian).mean() * np.eye(len(hessian), dtype=hessian.dtype)
    rows = [np.linalg.inv(hessian[j:, j:])[0] for j in range(len(hessian))]  # G_0· of every column
    costs = np.array([row[0] for row in rows], dtype=weight.dtype)
    mask = np.ones(weight.shape, dtype=bool)
    width = pattern[1] if pattern else block_size
    for j, row in enumerate(rows):
        if j % width == 0:
            score = weight[:, j : j + width] ** 2 / costs[j : j + width]
            mask[:, j : j + width] = n_of_m_mask(score, *pattern) if pattern else keep_mask(score, sparsity)
        error = np.where(mask[:, j], 0, weight[:, j] / row[0])
        weight[:, j:] -= error[:, None] * row
        weight[~mask[:, j], j] = 0
    return weight, mask


def best_for_mask(weight: Array, hessian: Array, mask: Array) -> Array:
    """Return the weights that change the outputs least when only those of the mask may differ from zero.

    For a row w with kept inputs K: ŵ_K = (H_KK)⁻¹ H_K· w, ordinary least squares. Each row has another K, and so
    another inverse: that is what SparseGPT avoids.

    Args:
        weight: (out, in).
        hessian: H = Σ x·xᵀ, (in, in).
        mask: (out, in).
    """
    best = np.zeros_like(weight)
    for row, kept, out in zip(weight, mask, best, strict=True):
        out[kept] = np.linalg.solve(hessian[np.ix_(kept, kept)], hessian[kept] @ row)
    return best


def output_error(weight: Array, changed: Array, hessian: Array) -> Array:
    """Return how far the outputs moved: Σ over tokens and outputs of (x·Δᵀ)², which is Σ (Δ H) ⊙ Δ.

    Args:
        weight, changed: (out, in).
        hessian: H = Σ x·xᵀ, (in, in).

    Returns:
        A scalar.
    """
    difference = changed - weight
    return ((difference @ hessian) * difference).sum()
