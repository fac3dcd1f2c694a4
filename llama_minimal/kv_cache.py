"""The key/value cache: what attention has computed for the tokens so far."""

# L layers, B batch, T time, S slots, K kv heads, Dh head width

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llama_minimal.compiling import written
from llama_minimal.config import LlamaConfig


class KVCache:
    """Keep each layer's keys and values in buffers of fixed size, one slot per position.

    A token at position p lives in slot p, in every row: so a query sees exactly the slots up to its own
    position, and rows of different length need no bookkeeping. Padding to the right of a short prompt
    fills slots that its next tokens overwrite before any query can see them.

    Args:
        config: gives layers, kv heads and head width.
        batch_size: rows.
        max_seq_len: slots; prompt plus new tokens.
        n_layers, n_kv_heads: those of a part of the model; None means all.
    """

    turns_keys = False
    """Whether ``write`` takes keys before the rotation. Here a token's slot is its position for good, so its key is
    turned once, in one product with the query, and kept so; a cache in which tokens change places must turn it anew."""
    n_recalled = 0
    """How many tokens it looks up beside those that it returns: with ``look_back``, see ``RememberingKVCache``."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        n_layers: int | None = None,
        n_kv_heads: int | None = None,
    ) -> None:
        if batch_size < 1 or max_seq_len < 1:
            raise ValueError(f"batch_size={batch_size} and max_seq_len={max_seq_len} must be at least 1")
        n_layers, n_kv_heads = n_layers or config.n_layers, n_kv_heads or config.n_kv_heads
        self.dtype = dtype
        self._allocate(n_layers, (batch_size, n_kv_heads, max_seq_len, config.head_dim), device)
        self.rows = torch.arange(batch_size, device=device)[:, None]  # (B, 1)
        self.slots = torch.arange(max_seq_len, device=device)  # (S,)

    def _allocate(self, n_layers: int, shape: tuple[int, ...], device: torch.device | str | None) -> None:
        # A buffer per layer: of one for all, a compiled step would make a copy whenever it writes to a part of it.
        self.keys, self.values = (
            [torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(n_layers)] for _ in range(2)
        )  # L of (B, K, S, Dh)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(buffer.nbytes for buffer in self._buffers())

    def _buffers(self) -> Sequence[Tensor]:
        """Return what holds the numbers, each (B, …)."""
        return *self.keys, *self.values

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return all of the layer's.

        Args:
            k, v: (B, K, T, Dh), keys turned by their positions unless ``turns_keys``.
            positions: (B, T) slots to write; None means the first T, as for a prompt.

        Returns:
            Keys and values, each (B, K, S, Dh).

        Raises:
            ValueError: if a prompt is longer than the cache.
        """
        self._check_length(k)
        self._store(self.keys[layer], k, positions)
        self._store(self.values[layer], v, positions)
        return self.keys[layer], self.values[layer]

    def _check_length(self, k: Tensor) -> None:
        if k.size(2) > len(self.slots):
            raise ValueError(f"{k.size(2)} tokens do not fit the cache's {len(self.slots)} slots (its max_seq_len)")

    def _store(self, buffer: Tensor, new: Tensor, positions: Tensor | None) -> None:
        """Put what came, (B, K, T, …), into its slots of a buffer, (B, K, S, …)."""
        if positions is None:
            buffer[:, :, : new.size(2)] = new
        elif len(positions) == 1 and not torch.compiler.is_compiling():  # one row: in a third of the time
            buffer.index_copy_(2, positions[0], new.type_as(buffer))
        else:
            buffer[self.rows, :, positions] = new.transpose(1, 2).type_as(buffer)  # (B, T, K, …)

    def mask(self, positions: Tensor) -> Tensor:
        """Return which slots each query may see: (B, T) -> (B, 1, T, S), 0 where slot ≤ position, else −∞.

        In the form that is added to the scores: PyTorch would make it of a boolean one in every layer anew. On a CPU
        it ends with the last slot that anyone sees, and attention reads no further.
        """
        visible = self.slots[: self._n_seen(positions)] <= positions[..., None]  # (B, T, S)
        mask = torch.where(visible, 0.0, float("-inf")).to(self.dtype)[:, None]
        return written(mask)  # or a compiler makes it anew in every layer

    def _n_seen(self, positions: Tensor) -> int:
        """Return how many slots attention reads for queries at these positions."""
        is_eager_cpu = positions.device.type == "cpu" and not torch.compiler.is_compiling()
        return int(positions.max()) + 1 if is_eager_cpu else len(self.slots)

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Reorder the rows in place: row i becomes what row ``rows[i]`` was (beam search)."""
        index = torch.as_tensor(rows, device=self.slots.device)
        for buffer in self._buffers():
            buffer.copy_(buffer[index])


class LayeredCache:
    """Be one cache for layers that are not in one place: on several devices, or a stage of a pipeline.

    Args:
        parts: layers and the cache that keeps them, the first of them in its layer 0; all of one kind.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], KVCache]]) -> None:
        self.parts = [cache for _, cache in parts]
        self.turns_keys = any(cache.turns_keys for cache in self.parts)
        self.n_recalled = max(cache.n_recalled for cache in self.parts)
        if self.turns_keys:
            self.places, self.n_slots = self.parts[0].places, self.parts[0].n_slots
        self._of = {layer: (cache, i) for layers, cache in parts for i, layer in enumerate(layers)}

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do what ``KVCache.write`` does, on the device of the layer."""
        cache, i = self._of[layer]
        return cache.write(i, k, v, positions)

    def look_back(self, layer: int, *found: Tensor) -> Tensor:
        """Do what ``RememberingKVCache.look_back`` does, on the device of the layer."""
        cache, i = self._of[layer]
        return cache.look_back(i, *found)

    def mask(self, positions: Tensor) -> Tensor:
        """Do what ``KVCache.mask`` does, on the device of the positions."""
        return self.parts[0].mask(positions)

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Reorder the rows of all layers, as ``KVCache.select`` does."""
        for cache in self.parts:
            cache.select(rows)


def make_cache(
    config: LlamaConfig,
    devices: Mapping[int, torch.device],
    *,
    dtype: torch.dtype,
    kind: Callable[..., KVCache] = KVCache,
    **sizes: Any,
) -> KVCache | LayeredCache:
    """Build a cache for some layers, or for all.

    On a CPU it keeps float32 where bfloat16 or float16 is asked for: PyTorch's attention of one query takes 4 to 15
    times as long there with keys in half precision (benchmarks/README.md).

    Args:
        devices: of each layer.
        dtype: of keys and values.
        kind: what makes a cache, called as ``KVCache``.
        sizes: as for ``KVCache``.
    """
    layers: dict[torch.device, list[int]] = {}
    for layer, device in devices.items():
        layers.setdefault(device, []).append(layer)
    on_cpu = torch.promote_types(dtype, torch.float32)
    parts = [
        (part, kind(config, device=at, dtype=on_cpu if at.type == "cpu" else dtype, n_layers=len(part), **sizes))
        for at, part in layers.items()
    ]
    is_whole = len(parts) == 1 and len(devices) == config.n_layers
    return parts[0][1] if is_whole else LayeredCache(parts)
