"""Masks: which weights of a matrix stay. True means that it does.

A layer computes x·weightᵀ, so a row of ``weight`` is one output, and a column belongs to one input.
"""

import math

import torch
from torch import Tensor

from llama_minimal.config.checks import check_divides, check_integer, is_number


def keep_mask(score: Tensor, sparsity: float, *, per_row: bool = False) -> Tensor:
    """Keep the highest scores: the lowest ⌊sparsity · n⌋ of n are False.

    Args:
        score: (out, in).
        sparsity: the share to remove, in [0, 1).
        per_row: remove as many from every row, instead of from the whole matrix.

    Returns:
        (out, in), boolean. Of equal scores the first go.

    Raises:
        ValueError: if the sparsity is outside [0, 1).

    Example:
        >>> keep_mask(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), 0.5).int().tolist()
        [[1, 0, 0, 1]]
    """
    check_sparsity(sparsity)
    rows = score if per_row else score.reshape(1, -1)
    lowest = rows.argsort(dim=-1, stable=True)[:, : math.floor(round(sparsity * rows.size(1), 6))]
    return torch.ones_like(rows, dtype=torch.bool).scatter(1, lowest, False).view(score.shape)


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Keep the weights that are farthest from zero, wherever they stand in the matrix.

    Args:
        weight: (out, in).
        sparsity: the share to remove, in [0, 1).

    Raises:
        ValueError: if the sparsity is outside [0, 1).

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks".
    """
    return keep_mask(weight.abs(), sparsity)


def wanda_score(weight: Tensor, norms: Tensor) -> Tensor:
    """Return |W_ij|·‖x_j‖₂, the change of the outputs if this one weight went.

    Removing W_ij changes output i of a token by W_ij·x_j; over all tokens that is a vector of length |W_ij|·‖x_j‖₂.
    It is compared within a row, ``keep_mask(score, sparsity, per_row=True)``: each output loses as many inputs.

    Args:
        weight: (out, in).
        norms: ‖x_j‖₂ of every input over the calibration tokens, (in,); see ``input_norms``.

    Source: Sun et al. 2023, "A simple and effective pruning approach for large language models" (Wanda).
    """
    return weight.abs() * norms


def n_of_m_mask(score: Tensor, n: int, m: int) -> Tensor:
    """Keep the n highest scores of every m neighbors in a row.

    Args:
        score: (out, in), with m a divisor of in.

    Raises:
        ValueError: if m does not divide the width, or n is not below m.

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks" (2:4).

    Example:
        >>> n_of_m_mask(torch.tensor([[3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0]]), 2, 4).int().tolist()
        [[1, 0, 0, 1, 0, 0, 1, 1]]
    """
    check_pattern((n, m), score.size(-1), what="a row")
    return keep_mask(score.reshape(-1, m), (m - n) / m, per_row=True).view(score.shape)


def is_n_of_m(weight: Tensor, n: int, m: int) -> bool:
    """Whether of every m neighbors in a row at most n differ from zero.

    Args:
        weight: (out, in).
    """
    return weight.size(-1) % m == 0 and bool(((weight != 0).reshape(-1, m).sum(-1) <= n).all())


def mask_of(score: Tensor, *, sparsity: float | None, pattern: tuple[int, int] | None, per_row: bool = False) -> Tensor:
    """Keep the highest scores: of every m neighbors n by a pattern (n, m), or else all but a share."""
    return n_of_m_mask(score, *pattern) if pattern else keep_mask(score, sparsity, per_row=per_row)


def check_one_given(sparsity: float | None, pattern: tuple[int, int] | None) -> None:
    """Refuse both or neither of a share and a pattern, and a share that cannot be.

    Raises:
        ValueError: saying so; the pattern is not looked at.
    """
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"sparsity={sparsity!r} and pattern={pattern!r}: give one of them, and only one")
    if pattern is None:
        check_sparsity(sparsity)


def check_sparsity(sparsity: float) -> None:
    """Refuse a share that leaves nothing, or is none.

    Raises:
        ValueError: if it is outside [0, 1).
    """
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r} must be the share to remove: at least 0 and below 1, such as 0.5")


def check_pattern(pattern: tuple[int, int], width: int, *, what: str) -> None:
    """Refuse an n:m pattern that keeps nothing or everything, or does not fit rows of a width.

    Raises:
        ValueError: saying which numbers would do.
    """
    if not isinstance(pattern, tuple | list) or len(pattern) != 2:
        raise ValueError(f"pattern={pattern!r} must be (n, m), such as (2, 4): keep 2 of every 4")
    n, m = (check_integer(name, value) for name, value in zip("nm", pattern, strict=True))
    if n >= m:
        raise ValueError(f"the pattern {n}:{m} removes nothing; n, how many stay of every m, must be below m={m}")
    check_divides("m", m, f"the width of {what}", width)
