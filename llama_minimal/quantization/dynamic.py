"""Whole numbers on both sides: the inputs of a layer, too, are rounded to 8 bits, each token by its own step."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_minimal.config.checks import check_number
from llama_minimal.quantization.rounding import from_codes, symmetric_grid, to_codes

_EXACT_IN_FLOAT32 = 1040  # products of at most 127², whose sum stays below 2²⁴


def dynamic_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    *,
    threshold: float | None = None,
    of_all: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return x wᵀ as a product of whole numbers: each token is rounded to int8 with a step of its own.

    y = s_x · s_w · (codes_x · codes_wᵀ). The sum in the middle is exact, and one multiplication a number brings the
    steps back. Inputs of at least ``threshold`` in size keep their precision and get a product of their own; for they
    would widen the step of all others.

    Args:
        x: (..., in), rounded anew whenever it comes: "dynamic".
        codes: (out, in) int8, the matrix w = scale · codes.
        scale: (out, 1), one step per row.
        threshold: size from which a number of x is an outlier; None means that none is.
        of_all: of x that holds some of the inputs only, what makes of their largest sizes, (n, 1), those of all.

    Returns:
        (..., out), in the dtype of x.

    Source: Dettmers et al. 2022, "LLM.int8()" (vector-wise quantization, mixed-precision decomposition). There an
    outlier takes its column along, of all tokens; here it comes alone, so that no row depends on its neighbors.
    """
    wide = x.reshape(-1, x.size(-1)).to(torch.promote_types(x.dtype, torch.float32))
    scale = scale.to(wide.dtype)
    out = torch.zeros((), dtype=wide.dtype, device=x.device)
    if threshold is not None:
        is_outlier = outliers(wide, threshold)
        columns = is_outlier.any(0).nonzero()[:, 0]
        apart, wide = (wide * is_outlier)[:, columns], wide.masked_fill(is_outlier, 0)
        out = F.linear(apart, from_codes(codes[:, columns], scale))
    step = symmetric_grid(wide if of_all is None else of_all(wide.abs().amax(-1, keepdim=True)), 8)  # (n, 1)
    out = out + int_product(to_codes(wide, step, bits=8), codes) * step * scale.T
    return out.to(x.dtype).view(*x.shape[:-1], len(codes))


def outliers(x: Tensor, threshold: float = 6.0) -> Tensor:
    """Return which numbers are at least ``threshold`` in size, as a mask of x's shape.

    Source: Dettmers et al. 2022, "LLM.int8()", whose threshold is 6.
    """
    return x.abs() >= check_number("threshold", threshold)


def int_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a bᵀ of two matrices in int8, (n, in) and (out, in), exactly: (n, out) int32."""
    if a.device.type == "cpu" and a.size(1) > 1 and _is_exact():
        return torch._int_mm(a, b.t())
    parts = zip(a.split(_EXACT_IN_FLOAT32, dim=1), b.split(_EXACT_IN_FLOAT32, dim=1), strict=True)
    out = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for left, right in parts:
        out += F.linear(left.float(), right.float()).to(torch.int32)
    return out


@functools.cache
def _is_exact() -> bool:
    """Return whether PyTorch's own product is: on processors without VNNI, sums of two products stop at 2¹⁵.

    With PyTorch 2.13 it is also wrong for a single column, on any processor.
    """
    a = torch.full((3, 64), 127, dtype=torch.int8)
    a[1] = -127
    right = torch.full((3, 3), 64 * 127**2, dtype=torch.int32)
    right[1], right[:, 1] = -right[1], -right[:, 1]
    try:
        return torch._int_mm(a, a.t()).equal(right)
    except (AttributeError, NotImplementedError, RuntimeError):  # an older PyTorch
        return False
