"""The kinds of codes: whole numbers of 8 bits, of 4 bits with an offset, and floats of 8 bits."""

# G groups of a row, g numbers of a group

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_minimal.compiling import FEW, finished, written
from llama_minimal.config.checks import check_number
from llama_minimal.quantization import kernels
from llama_minimal.quantization.dynamic import dynamic_linear
from llama_minimal.quantization.grids import Float8Grid, Grid, OffsetGrid, SymmetricGrid, in_groups
from llama_minimal.quantization.layers import ALL, QuantizedLinear, Rows
from llama_minimal.quantization.rounding import from_codes, pack_int4, unpack_int4


class Int8Linear(QuantizedLinear):
    """Keep a matrix as int8: ``weight`` (out, in), ``scale`` (out, G); w = scale · code."""

    scheme = "int8"

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.out_features, self.in_features), (self.out_features, _n_groups(self))

    @classmethod
    def grid(cls, dtype: torch.dtype) -> Grid:
        return SymmetricGrid(bits=8, kept=dtype)

    def _keep(self, codes: Tensor, grids: Tensor) -> None:
        self.weight.copy_(codes)
        self.scale.copy_(grids[..., 0])

    def decode(self, rows: Rows = ALL) -> Tensor:
        codes, scale = _take(self._plain_codes(), rows), _take(self.scale, rows)
        return from_codes(in_groups(codes, self.group_size), scale[..., None]).flatten(1)[:, : self.in_features]

    def _compiled_grids(self) -> Tensor | None:
        return self.scale[:, 0].float() if self.group_size is None else None

    @property
    def few(self) -> int:
        return FEW if self.group_size is None and type(self) is Int8Linear else 0

    def _vector_product(self, x: Tensor) -> Tensor:
        if not self.is_prepared:
            return super()._vector_product(x)
        products = self.weight.float() * written(x.reshape(-1).float())  # (out, in)
        return finished(written(products.sum(dim=-1) * self.grids), x, self.bias)

    def _rows_of_block(self) -> int | None:
        return 32 if kernels.has_int8_product() and self.group_size is None else None

    def _laid_out_codes(self, more: int) -> Tensor:
        return kernels.with_rows(kernels.padded(self.weight, self._width()), more)

    def _plain_codes(self) -> Tensor:
        return self.weight[: self.out_features, : self.in_features]

    def _product(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return kernels.int8_product(x, codes, scale)


class Int8DynamicLinear(Int8Linear):
    """Be ``Int8Linear``, and round the inputs to int8, too: see ``dynamic_linear``.

    Args:
        threshold: size from which an input keeps its precision; None rounds all.
    """

    scheme = "int8-dynamic"
    of_all: Callable[[Tensor], Tensor] | None = None
    """Returns of each token's largest input that of all processes, where this one has some of the inputs only."""

    def __init__(self, *args: Any, threshold: float | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.threshold = None if threshold is None else check_number("threshold", threshold)

    @property
    def options(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def forward(self, x: Tensor) -> Tensor:
        out = dynamic_linear(x.detach(), self.weight, self.scale, threshold=self.threshold, of_all=self.of_all)
        if torch.is_grad_enabled() and x.requires_grad:  # rounding has no slope; the gradient is that of the matrix
            smooth = F.linear(x, self.decode().to(x.dtype))
            out = smooth + (out - smooth).detach()
        return out if self.bias is None else out + self.bias

    def _rows_of_block(self) -> None:
        return None


class Int4Linear(QuantizedLinear):
    """Keep a matrix in 4 bits: ``weight`` (out, in/2) two codes a byte, ``scale`` (G, out, 2) a step and an offset.

    w = step · (code − 8) + offset.
    """

    scheme = "int4"
    axes: ClassVar = {"weight": (0, 1), "scale": (1, 0)}
    codes_per_entry = 2

    @property
    def steps(self) -> Tensor:
        return self.scale[..., 0]

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.out_features, -(-self.in_features // 2)), (_n_groups(self), self.out_features, 2)

    @classmethod
    def grid(cls, dtype: torch.dtype) -> Grid:
        return OffsetGrid(kept=dtype)

    def _keep(self, codes: Tensor, grids: Tensor) -> None:
        self.weight.copy_(pack_int4(codes))
        self.scale.copy_(grids.transpose(0, 1))

    def decode(self, rows: Rows = ALL) -> Tensor:
        grids = self.scale if isinstance(rows, slice) else self.scale.index_select(1, rows)  # refuses unknown rows
        groups = in_groups(self._codes(rows), self.group_size).to(self.scale.dtype) - 8  # (n, G, g)
        step, offset = grids.transpose(0, 1).split(1, dim=-1)  # (n, G, 1)
        return torch.addcmul(offset, groups, step).flatten(1)[:, : self.in_features]

    def _codes(self, rows: Rows = ALL) -> Tensor:
        if not self.is_laid_out:
            return unpack_int4(_take(self.weight, rows), self.in_features)
        if not isinstance(rows, slice):
            return self.layout.take_rows(self.weight, rows)[:, : self.in_features]
        return self.layout.take(self.weight)[: self.out_features, : self.in_features]

    def _compiled_grids(self) -> Tensor | None:
        """Return steps, and what a code of 0 stands for: (out, 2, G)."""
        if not self.group_size or self.in_features % self.group_size or self.group_size % 2:
            return None
        step, offset = self.scale.float().permute(2, 1, 0)  # (out, G)
        return torch.stack((step, offset - 8 * step), dim=1)

    @property
    def few(self) -> int:
        is_whole = self.group_size and self.group_size % 32 == 0 and self.in_features % self.group_size == 0
        return FEW // 2 if is_whole else 0

    def _vector_product(self, x: Tensor) -> Tensor:
        if not self.is_prepared:
            return super()._vector_product(x)
        vector = x.reshape(-1).float()
        # The sum over a row of (step · code + offset) x, and both codes of a byte stay in one place.
        (step, offset), pairs = self.grids.unbind(1), self.group_size // 2
        even, odd = written(torch.stack((vector[::2], vector[1::2])))  # (in/2,)
        sums = written(vector.view(-1, self.group_size).sum(dim=-1))  # (G,)
        codes = self.weight.to(torch.int32)  # (out, in/2)
        products = (codes & 15) * even + (codes >> 4) * odd
        steps = step[:, :, None].expand(-1, -1, pairs).reshape(codes.shape)
        return finished(written((products * steps).sum(dim=-1) + (offset * sums).sum(dim=-1)), x, self.bias)

    def _rows_of_block(self) -> int | None:
        layout = kernels.int4_layout()
        return layout.block if layout is not None and self.group_size in kernels.GROUPS else None

    def _laid_out_codes(self, more: int) -> Tensor:
        self.layout = kernels.int4_layout()
        return self.layout.lay_out(kernels.with_rows(kernels.padded(self._codes(), self._width()), more))

    def _plain_codes(self) -> Tensor:
        return pack_int4(self._codes())

    def _product(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return kernels.int4_product(x, codes, scale, self.group_size)


class FP8Linear(QuantizedLinear):
    """Keep a matrix as floats of 8 bits: ``weight`` (out, in) their patterns, ``scale`` (out, 1)."""

    scheme = "fp8"

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.out_features, self.in_features), (self.out_features, 1)

    @classmethod
    def grid(cls, dtype: torch.dtype) -> Grid:
        return Float8Grid(kept=dtype)

    def _keep(self, codes: Tensor, grids: Tensor) -> None:
        self.weight.copy_(codes)
        self.scale.copy_(grids[..., 0])

    def decode(self, rows: Rows = ALL) -> Tensor:
        values = _take(self.weight, rows).view(torch.float8_e4m3fn)
        return from_codes(values, _take(self.scale, rows))


SCHEMES: dict[str, type[QuantizedLinear]] = {
    kind.scheme: kind for kind in (Int8Linear, Int4Linear, FP8Linear, Int8DynamicLinear)
}


def _n_groups(layer: QuantizedLinear) -> int:
    return -(-layer.in_features // (layer.group_size or layer.in_features))


def _take(x: Tensor, rows: Rows) -> Tensor:
    return x if isinstance(rows, slice) else x.index_select(0, rows)
