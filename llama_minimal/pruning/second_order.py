"""SparseGPT: remove weights, and let the others make up for them."""

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer, check_number
from llama_minimal.pruning.masks import check_one_given, check_pattern, mask_of


@torch.no_grad()
def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    *,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    block_size: int = 128,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Remove weights column by column, and after each let the columns to its right make up for it.

    With G = (H_jj:)⁻¹, the inverse over column j and those after it, removing w_j costs w_j²/(2·G_00) at best, when
    the others move by −w_j/G_00 · G_0·. A column that is done does not move any more; so all rows share one G.
    And every G_0· is in one matrix: H⁻¹ = UᵀU with U upper triangular has U_jj: = G_0·/√G_00.
    Which weights go is decided block by block, by w_j²/G_00, with all that the columns before have caused.

    Args:
        weight: (out, in); it stays as it is.
        hessian: H = Σ x·xᵀ over the calibration tokens, (in, in), float32 or float64; see ``hessians``.
        sparsity: the share to remove of each block, in [0, 1).
        pattern: (n, m) instead: keep n of every m neighbors in a row.
        block_size: columns that are decided on together.
        damping: this share of the mean diagonal is added to the diagonal, so that H can be inverted.

    Returns:
        The new weight in the dtype of the old one, and its mask, (out, in) each.

    Raises:
        ValueError: if there is not one of sparsity and pattern, it does not fit, or H cannot be inverted.

    Source: Frantar and Alistarh 2023, "SparseGPT"; block size and damping: its released code.
    """
    _check(weight, hessian, sparsity, pattern)
    width = pattern[1] if pattern else check_integer("block_size", block_size)
    block_size = max(width, block_size // width * width)  # whole groups
    alive = hessian.diagonal() > 0
    upper = _inverse_root(hessian, check_number("damping", damping, at_least=0.0))
    w = weight.to(hessian.dtype) * alive  # an input that is always 0 needs no weight
    mask = torch.ones_like(w, dtype=torch.bool)
    for start in range(0, w.size(1), block_size):
        inside, after = slice(start, start + block_size), slice(start + block_size, None)
        errors = torch.zeros_like(w[:, inside])
        for i, j in enumerate(range(w.size(1))[inside]):
            if i % width == 0:
                group = slice(j, min(j + width, w.size(1)))
                score = (w[:, group] / upper.diagonal()[group]) ** 2
                mask[:, group] = mask_of(score, sparsity=sparsity, pattern=pattern)
            errors[:, i] = w[:, j] / upper[j, j] * ~mask[:, j]
            w[:, j : start + block_size] -= torch.outer(errors[:, i], upper[j, j : start + block_size])
        w[:, after] -= errors @ upper[inside, after]  # the columns farther right only once a block
    return (w * mask).to(weight.dtype), mask


def _inverse_root(hessian: Tensor, damping: float) -> Tensor:
    """Return U, upper triangular, with (H + damping)⁻¹ = UᵀU."""
    h = hessian.clone()
    diagonal = h.diagonal()  # a view
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    lower, failed = torch.linalg.cholesky_ex(h)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed or not upper.isfinite().all():
        raise ValueError(
            f"the Hessian, Σ x·xᵀ of the inputs, cannot be inverted with damping={damping:g}; give more calibration "
            f"tokens, or a larger damping"
        )
    return upper


def _check(weight: Tensor, hessian: Tensor, sparsity: float | None, pattern: tuple[int, int] | None) -> None:
    check_one_given(sparsity, pattern)
    if pattern is not None:
        check_pattern(pattern, weight.size(1), what="a row")
    if hessian.shape != (weight.size(1),) * 2 or hessian.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the Hessian is {hessian.dtype} of shape {tuple(hessian.shape)}, but a weight of {tuple(weight.shape)} "
            f"needs ({weight.size(1)}, {weight.size(1)}) in float32 or float64"
        )
