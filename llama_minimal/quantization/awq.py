"""AWQ: enlarge the columns of a matrix that large inputs meet, so that rounding spoils them less."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer
from llama_minimal.quantization.grids import Grid, ZeroPointGrid, check_group, nearest, values


def awq(
    w: Tensor,
    hessian: Tensor,
    sizes: Tensor,
    bits: int,
    *,
    group_size: int | None = None,
    n_powers: int = 20,
) -> tuple[Tensor, Tensor]:
    """Round a matrix whose columns are scaled by how large their inputs are.

    w x = (w · s)(x / s), for any s > 0 of the inputs. With s_j = size_j^α the columns of large inputs are enlarged
    before rounding, and their error, divided by s_j, is smaller: as long as they do not widen the grid of all. So α is
    the best of 0, 1/n, … (n−1)/n, by the error of the output; α = 0 is rounding to the nearest.

    Args:
        w: (out, in).
        hessian: (in, in), of ``second_moment``.
        sizes: mean |x_j| of what the layer reads, (in,), in any scale.
        bits: 1 to 8.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None means the whole row.
        n_powers: n, how many α are tried.

    Returns:
        The rounded w · s, (out, in), and s, (in,): the layer computes (x / s) times the first.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lin et al. 2023, "AWQ"; the values of α, and the division of s by √(max · min): its released code.
    """
    grid, size = ZeroPointGrid(bits=bits), check_group(group_size)
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    s = find_scales([w], hessian, sizes, grid, group_size=size, n_powers=n_powers)
    return values(nearest(w * s, grid, size), grid, size), s


def find_scales(
    weights: Sequence[Tensor],
    hessian: Tensor,
    sizes: Tensor,
    grid: Grid,
    *,
    group_size: int | None = None,
    n_powers: int = 20,
) -> Tensor:
    """Return the best s, (in,), of matrices that read the same inputs: by Σ (Δ H) ⊙ Δ, the error of their outputs."""
    n_in = len(sizes)
    if hessian.shape != (n_in, n_in) or any(w.size(1) != n_in for w in weights):
        raise ValueError(
            f"hessian of shape {tuple(hessian.shape)} and {n_in} sizes of inputs must be for the "
            f"{weights[0].size(1)} columns of the matrix"
        )
    n_powers = check_integer("n_powers", n_powers)
    best, least = torch.ones_like(sizes), float("inf")
    for n in range(n_powers):
        s = scales_of(sizes, n / n_powers)
        error = 0.0
        for w in weights:
            change = values(nearest(w * s, grid, group_size), grid, group_size) / s - w
            error += float(((change @ hessian) * change).sum())
        if error < least:
            best, least = s, error
    return best


def scales_of(sizes: Tensor, power: float) -> Tensor:
    """Return sizes^power, divided so that the largest and the smallest have the product 1."""
    relative = sizes / sizes.mean().clamp(min=torch.finfo(sizes.dtype).tiny)
    s = relative.clamp(min=1e-4).pow(power)  # an input that never comes has size 0
    return s / (s.max() * s.min()).sqrt()
