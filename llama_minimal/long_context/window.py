"""A cache of fixed size for texts without end: the first few tokens, and the latest."""

# B batch, T time, S slots, K kv heads, Dh head width

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, settle
from llama_minimal.kv_cache import KVCache
from llama_minimal.positions import apply_rope, rope_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Say what a model sees of a text that goes on: its first ``n_sinks`` tokens, and the latest, ``size`` in all.

    To ``generate``, ``stream``, ``decode`` and ``beam_search`` it is a ``cache``; the text may then be longer than the
    model's context.

    Args:
        size: tokens that are kept; None means as many as the model's context.
        n_sinks: how many of the first of the text stay. Attention that has nowhere to go rests on these, and without
            them a model that has learned so breaks down.
        n_recalled: of the tokens that have left, how many each query still looks at: those whose keys answer it best.
            They are kept for that, so memory grows with the text. See ``RememberingKVCache``.

    Raises:
        ValueError: if there is no place for a token beside the sinks.

    Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", §3.2.
    """

    size: int | None = None
    n_sinks: int = 4
    n_recalled: int = 0

    def __post_init__(self) -> None:
        settle(self, "n_recalled", check_integer("n_recalled", self.n_recalled, at_least=0))
        settle(self, "n_sinks", check_integer("n_sinks", self.n_sinks, at_least=0))
        if self.size is not None:
            settle(self, "size", check_integer("size", self.size))
            if self.size <= self.n_sinks:
                raise ValueError(
                    f"a window of size={self.size} has no place for a token beside its n_sinks={self.n_sinks}; give a "
                    f"size of at least {self.n_sinks + 1}"
                )


class WindowedKVCache(KVCache):
    """Keep the keys and values of the first few tokens and of the latest, in memory that does not grow.

    While the text fits, a token at position p lives in slot p, as in ``KVCache``. Then each new token takes the slot of
    the oldest that is no sink. What attention is told is not where a token stood in the text, but its place among those
    that are kept, from 0: so no query and no key is ever turned further than the model has seen. A place changes with
    every token; so keys are kept as they were before the rotation, and turned whenever they are read.

    Args:
        config, batch_size, dtype, device, n_layers, n_kv_heads: as for ``KVCache``.
        max_seq_len: of the text; a shorter one needs fewer slots than the window has.
        window: how many slots, and how many of them for the first tokens.

    Raises:
        ValueError: if the window is larger than the context of the model, or positions are added to its embeddings.

    Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", §3.2.

    Example:
        >>> cache = WindowedKVCache(preset("tiny"), batch_size=1, max_seq_len=10**9, window=Window(size=6, n_sinks=2))
        >>> cache.positions_kept(8)
        [0, 1, 5, 6, 7, 8]
    """

    turns_keys = True

    def __init__(
        self, config: LlamaConfig, *, batch_size: int, max_seq_len: int, window: Window = Window(), **options: Any
    ) -> None:
        if config.position == "sinusoidal":
            raise ValueError(
                "a window moves tokens to other places, and position='sinusoidal' has added the old ones to their "
                "embeddings; it is for position='rope' or 'none'"
            )
        size = config.max_seq_len if window.size is None else window.size
        if size > config.max_seq_len:
            raise ValueError(
                f"a window of size={size} is larger than the context of {config.max_seq_len} tokens (max_seq_len), and "
                f"the model knows no such places; give a smaller one"
            )
        if size <= window.n_sinks:
            raise ValueError(f"n_sinks={window.n_sinks} leaves no other place in the context of {size} tokens")
        super().__init__(config, batch_size=batch_size, max_seq_len=min(size, max_seq_len), **options)
        self.n_slots = len(self.slots)
        self.n_sinks = min(window.n_sinks, self.n_slots - 1)
        self._table = None
        if config.position == "rope":
            dtype = torch.promote_types(self.dtype, torch.float32)
            table = rope_table(
                *(config.head_dim, self.n_slots, config.rope_theta, config.rope_scaling),
                context=config.max_seq_len,
                **{"dtype": dtype, "device": self.slots.device},
            )
            self._table = torch.stack(table)  # (2, S, Dh/2)

    def places(self, positions: Tensor) -> Tensor:
        """Return the places of the newest tokens among those that are kept: positions (B, T) -> (B, T)."""
        return positions.clamp(max=self.n_slots - 1)

    def positions_kept(self, position: int) -> list[int]:
        """Return which tokens the one at this position sees, itself included, in the order of their places."""
        newest = range(max(self.n_sinks, position + 1 - self.n_slots + self.n_sinks), position + 1)
        return [*range(min(self.n_sinks, position + 1)), *newest]

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return the layer's, the keys turned, up to the last slot that anyone sees.

        Args:
            k, v: (B, K, T, Dh), keys as they are before the rotation.
            positions: (B, T) in the text; None means the first T, as for a prompt.

        Returns:
            Keys and values, each (B, K, slots, Dh).

        Raises:
            ValueError: if a prompt is longer than the cache; ``read_long`` reads it.
        """
        self._check_length(k)
        slots = None if positions is None else self._slots_of(positions)
        self._store(self.keys[layer], k, slots)
        self._store(self.values[layer], v, slots)
        n_seen = k.size(2) if positions is None else self._n_seen(positions)
        keys, values = self.keys[layer][:, :, :n_seen], self.values[layer][:, :, :n_seen]
        if self._table is None:
            return keys, values
        places = self.slots[None] if positions is None else self._places_of_slots(positions)  # (1 or B, S)
        return apply_rope(keys, *self._table[:, places[:, :n_seen], None].transpose(2, 3)), values

    def mask(self, positions: Tensor) -> Tensor:
        """Return which slots each query may see, as ``KVCache.mask``: when all are full, all.

        Raises:
            ValueError: if several tokens come at once to a cache that slides: each of them sees another window.
        """
        if positions.size(1) > 1 and int(positions.max()) >= self.n_slots:
            raise ValueError(
                f"a window that slides takes a token at a time, and these are {positions.size(1)}; read_long does so"
            )
        return super().mask(positions)

    def _n_seen(self, positions: Tensor) -> int:
        return min(super()._n_seen(positions), self.n_slots)

    def _slots_of(self, positions: Tensor) -> Tensor:
        """Return where tokens live: sinks for good, the others in a ring."""
        n = self.n_sinks
        return torch.where(positions < n, positions, n + (positions - n) % (self.n_slots - n))

    def _places_of_slots(self, positions: Tensor) -> Tensor:
        """Return at which place the token of each slot is seen, (B, T) -> (B, S); of an empty slot, anything."""
        newest = positions.amax(-1, keepdim=True)  # (B, 1)
        age = (self._slots_of(newest) - self.slots) % (self.n_slots - self.n_sinks)  # (B, S)
        places = (self.places(newest) - age).clamp(min=0)
        return torch.where(self.slots < self.n_sinks, self.slots, places)
