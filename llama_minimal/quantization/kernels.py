"""PyTorch's products of a few vectors and an int8 or int4 matrix on a CPU, and how their matrices lie in memory."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, library

FEW = 64
"""Vectors at most: for more it is faster to decode the matrix and use an ordinary product (benchmarks/README.md)."""
GROUPS = (32, 64, 128, 256)
"""The groups that the product of int4 knows."""


def int8_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return x wᵀ of (n, in) bfloat16, (out, in) int8 and (out, 1) bfloat16; in and out multiples of 32."""
    return torch._weight_int8pack_mm(x, codes, scale.view(-1))


def int4_product(x: Tensor, codes: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """Return x wᵀ of (n, in) bfloat16, codes laid out as ``Int4Layout`` says, and (groups, out, 2) bfloat16."""
    if torch.compiler.is_compiling():  # PyTorch 2.13's compiler fails on the operator itself
        return _int4_product(x, codes, scale, group_size)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes, group_size, scale)


@library.custom_op("llama_minimal::int4_product", mutates_args=())
def _int4_product(x: Tensor, codes: Tensor, scale: Tensor, group_size: int) -> Tensor:
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes, group_size, scale)


@_int4_product.register_fake
def _like_int4_product(x: Tensor, codes: Tensor, scale: Tensor, group_size: int) -> Tensor:
    return x.new_empty(len(x), len(codes))


class Int4Layout:
    """Say in which order this processor's int4 product reads its codes.

    Rows go together in blocks; in a block, the numbers of its first column lie side by side, then those of the second.
    Two of a column share a byte: neighbors, or one from the first and one from the second half of the block.

    Args:
        block: rows of a block.
        halves: whether a byte holds one number of each half; otherwise two neighbors.
    """

    def __init__(self, block: int, *, halves: bool) -> None:
        self.block, self.halves = block, halves

    def lay_out(self, codes: Tensor) -> Tensor:
        """Put codes into the product's order, (out, in) -> (out, in / 2), of rows that are whole blocks."""
        columns = codes.view(-1, self.block, codes.size(1)).transpose(1, 2)  # (blocks, in, block)
        low, high = columns.chunk(2, dim=-1) if self.halves else (columns[..., ::2], columns[..., 1::2])
        return (low | (high << 4)).reshape(len(codes), -1).contiguous()  # of a single square block, reshape is a view

    def take(self, laid_out: Tensor) -> Tensor:
        """Return the codes of all rows, (out, in / 2) -> (out, in)."""
        n, half = len(laid_out), self.block // 2
        columns = laid_out.view(n // self.block, -1, half)  # (blocks, in, block / 2)
        low, high = columns & 15, columns >> 4
        codes = torch.cat((low, high), -1) if self.halves else torch.stack((low, high), -1).flatten(-2)
        return codes.transpose(1, 2).reshape(n, -1)

    def take_rows(self, laid_out: Tensor, rows: Tensor) -> Tensor:
        """Return the codes of some rows, (n,) -> (n, in)."""
        half = self.block // 2
        columns = laid_out.view(len(laid_out) // self.block, -1, half)
        place = rows % self.block
        byte, part = (place % half, place // half) if self.halves else (place // 2, place % 2)
        return (columns[rows // self.block, :, byte] >> (4 * part)[:, None]) & 15


@functools.cache
def int4_layout() -> Int4Layout | None:
    """Return this processor's, found by laying out a matrix; None if the order is unknown or there is no product."""
    codes = torch.arange(128 * 64).mul(2654435761).bitwise_right_shift(7).bitwise_and(15).view(128, 64)
    try:
        theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    except (AttributeError, NotImplementedError, RuntimeError):  # an older PyTorch, another processor
        return None
    for block in (64, 32, 16):
        for halves in (True, False):
            layout = Int4Layout(block, halves=halves)
            if theirs.dtype == torch.uint8 and layout.lay_out(codes.byte()).equal(theirs.view(128, -1)):
                return layout
    return None


def has_int8_product() -> bool:
    """Return whether this PyTorch has the product."""
    return hasattr(torch, "_weight_int8pack_mm")


def with_rows(x: Tensor, n: int, *, dim: int = 0) -> Tensor:
    """Return x with n rows of zeros behind the last; a row lies along all axes but ``dim``."""
    if not n:
        return x
    shape = list(x.shape)
    shape[dim] = n
    return torch.cat((x, x.new_zeros(shape)), dim)


def padded(x: Tensor, n: int) -> Tensor:
    """Return x with zeros behind its last axis, so that it has n numbers."""
    return x if x.size(-1) == n else F.pad(x, (0, n - x.size(-1)))
