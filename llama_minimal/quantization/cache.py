"""A key/value cache in few bits: long texts and large batches need more memory for it than for the weights."""

# L layers, B batch, T time, S slots, K kv heads, Dh head width, G groups of a head, g numbers of a group

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from llama_minimal.compiling import written
from llama_minimal.config.checks import check_integer, check_one_of
from llama_minimal.kv_cache import KVCache
from llama_minimal.quantization.rounding import (
    from_codes,
    pack_int4,
    symmetric_grid,
    to_codes,
    unpack_int4,
    zero_point_grid,
)

CacheBits = Literal["int8", "int4"]
_GROUP = 32


class QuantizedKVCache(KVCache):
    """Keep keys and values in 8 or 4 bits, and decode a layer's when attention asks for them.

    With 8 bits, the numbers of a head at a position share a step; with 4, groups of them share a step and a zero point.
    Steps are kept in bfloat16, rounded up, so that no number lies outside its grid: no error is above half a step, or,
    where the zero point is rounded, too, a step.

    A prompt's own attention reads what it has just computed; whoever comes after reads what was kept.

    Args:
        config, batch_size, max_seq_len, device, n_layers, n_kv_heads: as for ``KVCache``.
        dtype: of what is decoded.
        bits: 8 or 4.
        group_size: with 4 bits, numbers of a head that share a grid, the last group may be shorter; None means 32.

    Example:
        >>> from llama_minimal import preset
        >>> cache = QuantizedKVCache(preset("tiny"), batch_size=1, max_seq_len=8)
        >>> keys = torch.linspace(-1, 1, 96).view(1, 2, 3, 16)
        >>> kept, _ = cache.write(0, keys, keys)
        >>> round(float((kept - keys).abs().max()), 3)
        0.004
    """

    def __init__(self, *args: Any, bits: int = 8, group_size: int | None = None, **options: Any) -> None:
        check_one_of("bits", bits, (8, 4))
        if bits == 8 and group_size is not None:
            raise ValueError(f"group_size={group_size!r} is for 4 bits; with 8 a head has one step; leave it out")
        self.bits = bits
        self.group_size = _GROUP if group_size is None else check_integer("group_size", group_size, at_least=2)
        super().__init__(*args, **options)

    def _allocate(self, n_layers: int, shape: tuple[int, ...], device: torch.device | str | None) -> None:
        *places, self.width = (n_layers, *shape)
        self.size = min(self.group_size, self.width) if self.bits == 4 else self.width
        n_groups = -(-self.width // self.size)
        n_codes = self.width if self.bits == 8 else n_groups * -(-self.size // 2)
        code_dtype = torch.int8 if self.bits == 8 else torch.uint8
        kept = [((n_codes,), code_dtype), ((n_groups,), torch.bfloat16)]
        if self.bits == 4:
            kept.append(((n_groups,), torch.uint8))  # zero points
        zeros = [[torch.zeros(*places, *last, dtype=dtype, device=device) for last, dtype in kept] for _ in range(2)]
        self._keys, self._values = zeros

    @property
    def keys(self) -> Tensor:
        """All keys, decoded: (L, B, K, S, Dh)."""
        return self._decode(self._keys)

    @property
    def values(self) -> Tensor:
        """All values, decoded: (L, B, K, S, Dh)."""
        return self._decode(self._values)

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return the layer's up to the last slot that these may look at.

        Args:
            k, v, positions: as for ``KVCache.write``.

        Returns:
            Keys and values, decoded, each (B, K, slots, Dh).

        Raises:
            ValueError: if a prompt is longer than the cache.
        """
        self._check_length(k)
        n_seen = k.size(2) if positions is None else self._n_seen(positions)
        found = []
        for kept, new in ((self._keys, k), (self._values, v)):
            for buffer, part in zip(kept, self._encode(new), strict=True):
                self._store(buffer[layer], part, positions)
            found.append(self._decode([buffer[layer, :, :, :n_seen] for buffer in kept]))
        return tuple(found)

    def _buffers(self) -> Sequence[Tensor]:
        return [layer for buffer in (*self._keys, *self._values) for layer in buffer]

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Return codes, steps and zero points of numbers, (…, Dh) -> (…, codes), (…, G), (…, G)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.bits == 8:
            step = _rounded_up(symmetric_grid(x, 8))
            return [to_codes(x, step.to(x.dtype), bits=8), step]
        groups = torch.nn.functional.pad(x, (0, -self.width % self.size)).unflatten(-1, (-1, self.size))
        step, _ = zero_point_grid(groups, 4)
        step = _rounded_up(step)
        zero = torch.round(-groups.amin(-1, keepdim=True).clamp(max=0) / step.to(x.dtype))
        codes = to_codes(groups, step.to(x.dtype), zero, bits=4)
        return [pack_int4(codes).flatten(-2), step[..., 0], zero[..., 0].to(torch.uint8)]

    def _decode(self, kept: Sequence[Tensor]) -> Tensor:
        if self.bits == 8:
            codes, step = kept
            return from_codes(codes, step.to(self.dtype))
        packed, step, zero = kept
        n_groups = step.size(-1)
        codes = unpack_int4(packed.unflatten(-1, (n_groups, -1)), self.size)
        numbers = from_codes(codes, step[..., None].to(self.dtype), zero[..., None].to(self.dtype))
        return numbers.flatten(-2)[..., : self.width]


def cache_kind(cache: CacheBits | None) -> Any:
    """Return what makes the cache of a name; None is the plain one.

    Raises:
        ValueError: if there is no such cache.
    """
    if cache is None:
        return KVCache
    check_one_of("cache", cache, ("int8", "int4"))
    return partial(QuantizedKVCache, bits=int(cache.removeprefix("int")))


def _rounded_up(step: Tensor) -> Tensor:
    """Return steps in bfloat16, none smaller than it was: its numbers are at most 2⁻⁸ of themselves apart."""
    # Not written, a compiler would make the codes by the step as it was before it was rounded.
    return written((step * (1 + 2**-8)).clamp(min=torch.finfo(torch.bfloat16).tiny).to(torch.bfloat16))
