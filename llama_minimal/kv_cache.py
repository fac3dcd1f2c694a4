"""The key/value cache: what attention has computed for the tokens so far."""

# L layers, B batch, T time, S slots, K kv heads, Dh head width

from collections.abc import Sequence

import torch
from torch import Tensor

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
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1 or max_seq_len < 1:
            raise ValueError(f"batch_size={batch_size} and max_seq_len={max_seq_len} must be at least 1")
        shape = (config.n_layers, batch_size, config.n_kv_heads, max_seq_len, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (L, B, K, S, Dh)
        self.values = torch.zeros_like(self.keys)
        self.rows = torch.arange(batch_size, device=device)[:, None]  # (B, 1)
        self.slots = torch.arange(max_seq_len, device=device)  # (S,)

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return all of the layer's.

        Args:
            k, v: (B, K, T, Dh).
            positions: (B, T) slots to write; None means the first T, as for a prompt.

        Returns:
            Keys and values, each (B, K, S, Dh).

        Raises:
            ValueError: if a prompt is longer than the cache.
        """
        if k.size(2) > len(self.slots):
            raise ValueError(f"{k.size(2)} tokens do not fit the cache's {len(self.slots)} slots (its max_seq_len)")
        for buffer, new in ((self.keys[layer], k), (self.values[layer], v)):
            if positions is None:
                buffer[:, :, : new.size(2)] = new
            else:
                buffer[self.rows, :, positions] = new.transpose(1, 2)  # (B, T, K, Dh)
        return self.keys[layer], self.values[layer]

    def mask(self, positions: Tensor) -> Tensor:
        """Return which slots each query may see: (B, T) -> (B, 1, T, S), 0 where slot ≤ position, else −∞.

        In the form that is added to the scores: PyTorch would make it of a boolean one in every layer anew.
        """
        visible = self.slots <= positions[..., None]  # (B, T, S)
        return torch.where(visible, 0.0, float("-inf")).to(self.keys.dtype)[:, None]

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Reorder the rows in place: row i becomes what row ``rows[i]`` was (beam search)."""
        index = torch.as_tensor(rows, device=self.keys.device)
        self.keys.copy_(self.keys[:, index])
        self.values.copy_(self.values[:, index])
