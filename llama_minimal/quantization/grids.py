"""Grids: which numbers a group of weights may become, what is kept of that choice, and rounding a matrix to them."""

# n numbers that share a grid, k numbers that say which, G groups of a row, g numbers of a group

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_minimal.config.checks import check_integer
from llama_minimal.quantization.rounding import from_codes, symmetric_grid, to_codes, zero_point_grid

GroupSize = int | Literal["row", "tensor"] | None


class Grid(Protocol):
    """Say how numbers become codes: the grid of some, the codes on it, and what these stand for."""

    def fit(self, numbers: Tensor) -> Tensor:
        """Return which grid suits numbers along the last axis, (..., n) -> (..., k)."""

    def encode(self, numbers: Tensor, kept: Tensor) -> Tensor:
        """Return the codes nearest to numbers, (..., n), on the grids of ``fit``, (..., k)."""

    def decode(self, codes: Tensor, kept: Tensor) -> Tensor:
        """Return what codes stand for, (..., n)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SymmetricGrid:
    """Keep a step: numbers are step · code, with 0 in the middle."""

    bits: int
    kept: torch.dtype | None = None
    """In which the step is kept; None: as it is computed."""

    def fit(self, numbers: Tensor) -> Tensor:
        """Return the step, (..., 1)."""
        return lasting(symmetric_grid(numbers, self.bits), self.kept)

    def encode(self, numbers: Tensor, kept: Tensor) -> Tensor:
        """Return int8 codes."""
        return to_codes(numbers, kept, bits=self.bits)

    def decode(self, codes: Tensor, kept: Tensor) -> Tensor:
        """Return step · code."""
        return from_codes(codes, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroPointGrid:
    """Keep a step and a zero point: numbers are step · (code − zero)."""

    bits: int

    def fit(self, numbers: Tensor) -> Tensor:
        """Return step and zero point, (..., 2)."""
        return torch.cat(zero_point_grid(numbers, self.bits), dim=-1)

    def encode(self, numbers: Tensor, kept: Tensor) -> Tensor:
        """Return uint8 codes."""
        return to_codes(numbers, *kept.split(1, dim=-1), bits=self.bits)

    def decode(self, codes: Tensor, kept: Tensor) -> Tensor:
        """Return step · (code − zero)."""
        return from_codes(codes, *kept.split(1, dim=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetGrid:
    """Keep a step and an offset: numbers are step · (code − 8) + offset, as PyTorch's product of 4 bits reads them."""

    kept: torch.dtype

    def fit(self, numbers: Tensor) -> Tensor:
        """Return step and offset, (..., 2)."""
        step, zero = zero_point_grid(numbers, 4)
        step = lasting(step, self.kept)
        return torch.cat((step, (step * (8 - zero)).to(self.kept).to(step.dtype)), dim=-1)

    def encode(self, numbers: Tensor, kept: Tensor) -> Tensor:
        """Return uint8 codes, 0 to 15."""
        step, offset = kept.split(1, dim=-1)
        return (torch.round((numbers - offset) / step) + 8).clamp(0, 15).to(torch.uint8)

    def decode(self, codes: Tensor, kept: Tensor) -> Tensor:
        """Return step · (code − 8) + offset."""
        step, offset = kept.split(1, dim=-1)
        return torch.addcmul(offset, codes.to(kept.dtype) - 8, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Float8Grid:
    """Keep a scale: numbers are scale · a float of 8 bits (e4m3), whose pattern is the code."""

    kept: torch.dtype

    def fit(self, numbers: Tensor) -> Tensor:
        """Return the scale, (..., 1): the largest number becomes the largest float."""
        scale = numbers.abs().amax(dim=-1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        return lasting(torch.where(scale > 0, scale, torch.ones_like(scale)), self.kept)

    def encode(self, numbers: Tensor, kept: Tensor) -> Tensor:
        """Return patterns as uint8."""
        largest = torch.finfo(torch.float8_e4m3fn).max  # a rounded scale may be a little too small
        return (numbers / kept).clamp(-largest, largest).to(torch.float8_e4m3fn).view(torch.uint8)

    def decode(self, codes: Tensor, kept: Tensor) -> Tensor:
        """Return scale · float."""
        return from_codes(codes.view(torch.float8_e4m3fn), kept)


class Rounded(NamedTuple):
    """Hold a matrix as codes, and the grids that they are on."""

    codes: Tensor
    """(out, in)."""
    grids: Tensor
    """(out, G, k)."""


def nearest(w: Tensor, grid: Grid, group_size: int | None = None) -> Rounded:
    """Round each number of a matrix (out, in) to the nearest of its group's grid; None means one group a row."""
    groups = in_groups(w, group_size)
    grids = grid.fit(groups)
    return Rounded(grid.encode(groups, grids).flatten(1)[:, : w.size(1)], grids)


def values(rounded: Rounded, grid: Grid, group_size: int | None = None) -> Tensor:
    """Return the matrix that codes stand for, (out, in)."""
    groups = in_groups(rounded.codes, group_size)
    return grid.decode(groups, rounded.grids).flatten(1)[:, : rounded.codes.size(1)]


def in_groups(x: Tensor, group_size: int | None) -> Tensor:
    """Return the numbers of rows in groups, (out, in) -> (out, G, g), zeros behind a last one that is shorter."""
    size = group_size or x.size(1)
    return F.pad(x, (0, -x.size(1) % size)).unflatten(1, (-1, size))


def round_to_grid(
    w: Tensor, bits: int, *, group_size: GroupSize = None, symmetric: bool = False, keep: Tensor | None = None
) -> Tensor:
    """Return a matrix with every number rounded to one that a code of few bits could stand for.

    Nothing is saved: the numbers stay floats. It shows what rounding does, at any number of bits.

    Args:
        w: (out, in).
        bits: 1 to 8, of a symmetric grid 2 to 8.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None or "row" means the
            whole row, "tensor" the whole matrix.
        symmetric: a grid with 0 in the middle instead of one with a zero point.
        keep: columns that stay as they are and do not count for the grids, as numbers or as a mask (in,): those of
            outlying inputs, say.

    Returns:
        (out, in), in the dtype of w.
    """
    grid = make_grid(bits, symmetric=symmetric)
    wide = w.to(torch.promote_types(w.dtype, torch.float32))
    if keep is not None:
        wide = wide.index_fill(1, _columns(keep, w.size(1)), 0)
    if group_size == "tensor":
        out = values(nearest(wide.reshape(1, -1), grid), grid).view_as(w)
    else:
        size = check_group(group_size)
        out = values(nearest(wide, grid, size), grid, size)
    if keep is not None:
        columns = _columns(keep, w.size(1))
        out = out.index_copy(1, columns, w[:, columns].to(out.dtype))
    return out.to(w.dtype)


def make_grid(bits: int, *, symmetric: bool = False) -> SymmetricGrid | ZeroPointGrid:
    """Return a grid that keeps what it computes, for numbers that stay floats."""
    return SymmetricGrid(bits=bits) if symmetric else ZeroPointGrid(bits=bits)


def check_group(group_size: GroupSize) -> int | None:
    """Return how many numbers of a row share a grid, None for all of them.

    Raises:
        ValueError: if it is no number of at least 2 and no "row".
    """
    return None if group_size in (None, "row") else check_integer("group_size", group_size, at_least=2)


def lasting(scale: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return what is left of a step in the format in which it is kept: the codes are to be right for that one."""
    return scale if dtype is None else scale.to(dtype).clamp(min=torch.finfo(dtype).tiny).to(scale.dtype)


def _columns(keep: Tensor, n_in: int) -> Tensor:
    keep = torch.as_tensor(keep)
    if keep.dtype == torch.bool:
        if keep.shape != (n_in,):
            raise ValueError(f"keep is a mask of shape {tuple(keep.shape)}, but the matrix has {n_in} columns")
        keep = keep.nonzero()[:, 0]
    if keep.numel() and not (int(keep.min()) >= 0 and int(keep.max()) < n_in):
        raise ValueError(f"keep={keep.tolist()} names columns that a matrix of {n_in} does not have")
    return keep.long()
