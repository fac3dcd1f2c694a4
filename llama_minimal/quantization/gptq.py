"""GPTQ: round a matrix column by column, and let the columns that follow make up for each error."""

import torch
from torch import Tensor

from llama_minimal.config.checks import check_number
from llama_minimal.quantization.grids import Grid, Rounded, ZeroPointGrid, check_group


def second_moment(x: Tensor) -> Tensor:
    """Return 2 xᵀx / n, the Hessian of the mean squared error of a layer's output in any row of its matrix.

    Args:
        x: (..., in), what the layer reads; n vectors in all.

    Returns:
        (in, in), in at least float32.
    """
    x = x.reshape(-1, x.size(-1)).to(torch.promote_types(x.dtype, torch.float32))
    return 2 / len(x) * x.T @ x


def gptq(
    w: Tensor, hessian: Tensor, bits: int, *, group_size: int | None = None, damping: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Round a matrix so that the layer's output, rather than the matrix, changes little.

    Column i goes to its grid; the error e = (w_i − ŵ_i) / U_ii is taken from the columns that follow: w_j −= e · U_ij,
    with U the upper Cholesky factor of the inverse Hessian, H⁻¹ = UᵀU. This is the best answer of the later columns to
    the error of an earlier one. A group's grid is found when its first column is reached.

    Args:
        w: (out, in).
        hessian: (in, in), of ``second_moment``.
        bits: 1 to 8.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None means the whole row.
        damping: this share of the mean of H's diagonal is added to it, so that it can be inverted.

    Returns:
        codes (out, in), scale and zero (out, groups), as ``to_codes`` and ``zero_point_grid`` make them.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Frantar et al. 2022, "GPTQ", without its lazy batches.
    """
    codes, grids = round_by_columns(w, hessian, ZeroPointGrid(bits=bits), group_size=group_size, damping=damping)
    return codes, grids[..., 0], grids[..., 1]


def round_by_columns(
    w: Tensor, hessian: Tensor, grid: Grid, *, group_size: int | None = None, damping: float = 0.01
) -> Rounded:
    """Do what ``gptq`` does, on a grid of any kind."""
    n_in = w.size(1)
    if hessian.shape != (n_in, n_in):
        raise ValueError(
            f"hessian of shape {tuple(hessian.shape)} must be ({n_in}, {n_in}), for a matrix of {n_in} columns"
        )
    group = check_group(group_size) or n_in
    w = w.to(torch.promote_types(w.dtype, torch.float32)).clone()
    u = _factor(hessian.to(w.dtype), check_number("damping", damping, at_least=0.0))
    w[:, hessian.diagonal() == 0] = 0  # never read, so that any number does
    codes, grids = [], []
    for i in range(n_in):
        if i % group == 0:
            kept = grid.fit(w[:, i : i + group])  # (out, k)
            grids.append(kept)
        column = w[:, i : i + 1].clone()
        codes.append(grid.encode(column, kept))
        error = (column - grid.decode(codes[-1], kept)) / u[i, i]
        w[:, i:] -= error * u[i, i:]
    return Rounded(torch.cat(codes, dim=1), torch.stack(grids, dim=1))


def _factor(hessian: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse."""
    diagonal = hessian.diagonal()
    extra = torch.where(diagonal == 0, torch.ones_like(diagonal), damping * diagonal.mean())
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian + torch.diag(extra)))
        return torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError:
        raise ValueError(f"the hessian cannot be inverted with damping={damping}; give more, such as 0.01") from None
