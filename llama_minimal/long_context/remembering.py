"""A window that forgets nothing: what leaves it can still be looked up."""

# B batch, T time, S slots, H heads, K kv heads, Dh head width

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.long_context.key_value_memory import KeyValueMemory
from llama_minimal.long_context.window import Window, WindowedKVCache
from llama_minimal.positions import apply_rope


class RememberingKVCache(WindowedKVCache):
    """Be a window, and keep the keys and values of the tokens that leave it in a memory of each layer and row.

    Attention reads the window as ever, and beside it the ``window.n_recalled`` remembered tokens whose keys answer the
    query best, in one softmax over both. All remembered tokens are seen from one distance, half a window away: where
    they stood is not kept, and no query is turned further than the model has seen. Nothing is learned, so it goes with
    any trained model.

    Args:
        config, batch_size, max_seq_len, window, options: as for ``WindowedKVCache``; memory grows with the text.

    Source: Wu et al. 2022, "Memorizing Transformers", §3.1, which searches keys and values in the same way, and learns
    the gate. One softmax instead, and keys without places: the memory attention layers of Tworkowski et al. 2023,
    "Focused Transformer: Contrastive Training for Context Scaling".
    """

    def __init__(
        self, config: LlamaConfig, *, batch_size: int, max_seq_len: int, window: Window, **options: Any
    ) -> None:
        super().__init__(config, batch_size=batch_size, max_seq_len=max_seq_len, window=window, **options)
        self.n_recalled = window.n_recalled
        nothing = self.keys[0].new_empty((self.keys[0].size(1), 0, config.head_dim))  # (K, 0, Dh)
        self.memories = [[KeyValueMemory(nothing, nothing) for _ in range(batch_size)] for _ in self.keys]
        self._newest = torch.full((len(self.keys), batch_size), -1)

    @property
    def nbytes(self) -> int:
        """What it takes in memory by now."""
        return super().nbytes + sum(memory.nbytes for rows in self.memories for memory in rows)

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Store new keys and values as ``WindowedKVCache.write``, and remember whom they push out."""
        if positions is not None and positions.size(1) == 1:
            slots = self._slots_of(positions)
            for row, position in enumerate(positions[:, 0].tolist()):
                if position >= self.n_slots and position > self._newest[layer, row]:  # not the same once more
                    gone = slots[row]
                    self.memories[layer][row].add(self.keys[layer][row, :, gone], self.values[layer][row, :, gone])
                self._newest[layer, row] = position
        return super().write(layer, k, v, positions)

    def look_back(self, layer: int, q: Tensor, local: Tensor, total: Tensor) -> Tensor:
        """Return what attention finds in the window and in the memory together, (B, H, T, Dh).

        Args:
            q: (B, H, T, Dh), queries before the rotation.
            local: (B, H, T, Dh), what it found in the window.
            total: (B, H, T), the logarithm of the sum of its e^scores there.
        """
        if self._table is not None:  # keys at place 0, queries half a window away
            q = apply_rope(q, *self._table[:, self.n_slots // 2])
        rows = []
        for row, memory in enumerate(self.memories[layer]):
            part = slice(row, row + 1)
            rows.append(
                memory.attend_beside(q[part], local[part], total[part], self.n_recalled, self._amplitude)
                if len(memory)
                else local[part]
            )
        return torch.cat(rows)

    @property
    def _amplitude(self) -> float:
        """What the rotation multiplies a key's length by."""
        return 1.0 if self._table is None else self._table[0, 0, 0].item()

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Reorder the rows in place, and what they remember."""
        super().select(rows)
        chosen = torch.as_tensor(rows).tolist()
        # A memory that grows leaves its old tensors as they are, so copies may share them.
        self.memories = [[copy.copy(memories[i]) for i in chosen] for memories in self.memories]
        self._newest = self._newest[:, chosen]
