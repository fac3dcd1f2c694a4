"""Layers whose matrices are kept in 8 or 4 bits, and decoded when they are used.

To decode the matrix and multiply is what they mean. For a few vectors on a CPU, in bfloat16, PyTorch has products that
read the codes themselves: those take over there. They want some codes in another order, which a layer gives them at its
first such product. Whoever asks for its state then, or moves or copies it, gets the codes as they were.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.compiling import in_one_call, n_compiled_vectors, vector_product
from llama_minimal.quantization import kernels
from llama_minimal.quantization.grids import Grid, Rounded, nearest
from llama_minimal.quantization.parts import InParts
from llama_minimal.quantization.side_by_side import SideBySide

Rows = Tensor | slice
ALL = slice(None)


class QuantizedLinear(InParts):
    """Be a linear layer whose matrix is kept as codes; a subclass says in which.

    Args:
        group_size: numbers of a row that share a grid; None means all of them. A row's last group may be shorter.
        bias: whether there is one.
        dtype: of grids, bias and whatever a decoded matrix is multiplied with.
    """

    scheme: str
    packs = True
    """Whether the codes may be put into another order."""
    is_table = False
    """Whether rows are looked up: then there is no row behind the last, whatever a product would like to read."""
    padded_scale: Tensor | None = None
    """Grids for a product that reads rows of nothing behind the last; None where it reads no others."""
    grids: Tensor | None = None
    """The grids in the order and the dtype in which compiled code reads them, (out, …); None where it decodes."""
    grids_of: tuple[Tensor, int] | None = None
    """The ``scale`` that they were made of, and its version."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        group_size: int | None = None,
        bias: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        codes, grids = self._shapes()
        code_dtype = torch.int8 if self.scheme.startswith("int8") else torch.uint8
        self.register_buffer("weight", torch.empty(codes, dtype=code_dtype, device=device))
        self.register_buffer("scale", torch.empty(grids, dtype=dtype, device=device))
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype, device=device), requires_grad=False)
        self.is_laid_out: bool | None = None  # None: not tried yet

    @classmethod
    @torch.no_grad()
    def from_weight(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        group_size: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        rounded: Rounded | None = None,
        **options: Any,
    ) -> "QuantizedLinear":
        """Round a matrix (out, in), and make a layer of it.

        Args:
            rounded: what the matrix has become by a better method, on ``grid(dtype)``; None rounds to the nearest.
            options: of this kind of layer.
        """
        n_out, n_in = weight.shape
        options |= {"bias": bias is not None, "dtype": dtype, "device": weight.device}
        layer = cls(n_in, n_out, group_size=group_size, **options)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        layer._keep(*(nearest(wide, cls.grid(dtype), group_size) if rounded is None else rounded))
        if bias is not None:
            layer.bias.copy_(bias)
        return layer

    @classmethod
    def grid(cls, dtype: torch.dtype) -> Grid:
        """Return what kind of grid the numbers are on, when it is kept in a dtype."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """What else says how a layer of this kind computes."""
        return {}

    @property
    def steps(self) -> Tensor:
        """How far apart the numbers of each grid are."""
        return self.scale

    @property
    def grid_dtype(self) -> torch.dtype:
        """In what the layer computes."""
        return self.scale.dtype

    def forward(self, x: Tensor) -> Tensor:
        out = in_one_call(x, (self,)) if torch.compiler.is_compiling() else None
        if out is None and n_compiled_vectors(x) == 1:
            out = self._vector_product(x)
        if out is None and not torch.is_grad_enabled():
            out = self._quickly(x)
        return F.linear(x, self.decode().to(x.dtype), self.bias) if out is None else out

    def decode(self, rows: Rows = ALL) -> Tensor:
        """Return the matrix that the codes stand for, or some of its rows: (out or n, in)."""
        raise NotImplementedError

    def restore(self) -> None:
        """Put the codes into the order in which they are saved."""
        if self.is_laid_out:
            self.weight = self._plain_codes().contiguous()
        self.is_laid_out = self.padded_scale = None

    def _vector_product(self, x: Tensor) -> Tensor:
        """Return what the layer makes of one vector, (1, …, in) -> (1, …, out), written for PyTorch's compiler."""
        return vector_product(x, self.decode(), self.bias)

    def prepare(self) -> None:
        """Put the codes, and what else compiled code reads, into its order."""
        self.restore()
        if self.grids_of is None or self.grids_of[0] is not self.scale or self.grids_of[1] != self.scale._version:
            self.grids, self.grids_of = self._compiled_grids(), (self.scale, self.scale._version)

    def _compiled_grids(self) -> Tensor | None:
        return None

    @property
    def few(self) -> int:
        """The most vectors that a product in C++ takes at a time; 0 where there is none of this kind."""
        return 0

    @property
    def is_prepared(self) -> bool:
        """Whether the codes, and what else compiled code reads, are in its order."""
        return self.grids is not None and not self.is_laid_out

    def vector_parts(self) -> tuple[Tensor, Tensor] | None:
        """Return the codes and grids that a product in C++ reads; None if they are not prepared."""
        return (self.weight, self.grids) if self.is_prepared else None

    def _quickly(self, x: Tensor) -> Tensor | None:
        """Return what the processor's own product gives; None if there is none for this."""
        if not _is_fit(x, self) or not self.lay_out():
            return None
        flat = kernels.padded(x.reshape(-1, self.in_features), self._width())
        scale = self.scale.contiguous() if self.padded_scale is None else self.padded_scale
        out = self._product(flat, self.weight, scale)[:, : self.out_features].view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def lay_out(self) -> bool:
        """Put the codes into the order of the processor's product; return whether it has one."""
        if self.is_laid_out is None:
            block = self._rows_of_block() if self.packs else None
            more = 0 if block is None else -self.out_features % block
            is_possible = block is not None and (not more or (self.out_features > block and not self.is_table))
            if is_possible:
                with torch.inference_mode(False), torch.no_grad():
                    self.weight = self._laid_out_codes(more)
                    self.padded_scale = kernels.with_rows(self.scale, more, dim=self.axes["scale"][0]) if more else None
            self.is_laid_out = is_possible
        return self.is_laid_out

    def _rows_of_block(self) -> int | None:
        """Return in multiples of how many rows the processor's product comes; None if there is none."""
        return None

    def _width(self) -> int:
        """Return the numbers of a row that a product reads: whole groups."""
        group = self.group_size or 32
        return -(-self.in_features // group) * group

    def in_one_product(self, x: Tensor, layers: Sequence[nn.Module]) -> Tensor | None:
        """Return x wᵀ of several layers, this one the first, as ``llama_minimal.linear.in_one_product`` does."""
        if "scheme" not in type(self).__dict__ or len(layers) == 1 or not _is_fit(x, self):
            return None
        together = self.__dict__.get("together")
        if together is None or not together.holds(layers):
            if not SideBySide.is_possible(layers):
                return None
            together = self.together = SideBySide(layers)
        return together.product(x)

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":
        self.restore()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.restore()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.restore()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        self.restore()
        return {name: value for name, value in self.__dict__.items() if name not in ("together", "grids", "grids_of")}

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"{self.in_features}, {self.out_features}, {self.scheme}, group_size={self.group_size}"


def _is_fit(x: Tensor, layer: QuantizedLinear) -> bool:
    """Return whether a processor's product could take this input, if the layer can be laid out for it."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or not 0 < x.numel() <= kernels.FEW * layer.in_features:
        return False
    return layer.scale.dtype == torch.bfloat16 and layer.packs and not torch.compiler.is_compiling()
