"""A memory of keys and values: attention to what has long left the context."""

# B batch, T time, H heads, K kv heads, M remembered tokens, Dh head width, n neighbors

from pathlib import Path

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer
from llama_minimal.long_context.neighbors import read_memory, write_memory


def memory_attention(q: Tensor, keys: Tensor, values: Tensor, n: int) -> Tensor:
    """Let each query look at the n remembered tokens whose keys answer it best.

    softmax of the n largest q·k/√Dh, times their values; every key is compared. With n = M it is ``attention`` without
    a mask. Query head h reads the memory of key head ⌊h·K/H⌋.

    Args:
        q: (B, H, T, Dh).
        keys, values: (K, M, Dh), the same for all rows.

    Returns:
        (B, H, T, Dh).

    Source: Wu et al. 2022, "Memorizing Transformers", §3.1.
    """
    return _search(q, keys, values, n)[0]


def _search(q: Tensor, keys: Tensor, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return what ``memory_attention`` does, and the logarithm of the sum of its e^scores, (B, H, T)."""
    n = min(check_integer("n", n), keys.size(1))
    grouped = q.unflatten(1, (len(keys), -1))  # (B, K, H/K, T, Dh)
    scores = grouped @ keys[:, None].transpose(-1, -2) / q.size(-1) ** 0.5  # (B, K, H/K, T, M)
    best = scores.topk(n)
    head = torch.arange(len(keys), device=q.device).view(-1, 1, 1, 1)
    found = values[head, best.indices]  # (B, K, H/K, T, n, Dh)
    out = (best.values.softmax(-1)[..., None, :] @ found).squeeze(-2)  # (B, K, H/K, T, Dh)
    return out.flatten(1, 2), best.values.logsumexp(-1).flatten(1, 2)


def gate_memory(local: Tensor, remembered: Tensor, bias: Tensor) -> Tensor:
    """Mix what attention found nearby and in the memory: g·remembered + (1 − g)·local with g = σ(bias) of each head.

    With the difference of the logarithms of both sums of e^scores as bias, remembered minus local, this is one softmax
    over both: each query has a gate of its own, and none is learned.

    Args:
        local, remembered: (B, H, T, Dh).
        bias: (H,), learned; or (B, H, T).

    Source: Wu et al. 2022, "Memorizing Transformers", §3.1.
    """
    gate = bias.sigmoid()[..., None] if bias.dim() == 3 else bias.sigmoid()[:, None, None]
    return gate * remembered + (1 - gate) * local


class KeyValueMemory:
    """Keep keys and values of one layer, and let queries look at the nearest.

    Keys and queries are best those before the rotation, which knows no places so far away: what a ``WindowedKVCache``
    holds, ``cache.keys[layer][row]``, is such.

    Args:
        keys, values: (K, M, Dh).
        max_tokens: the oldest beyond so many are forgotten; None means none.

    Raises:
        ValueError: if keys and values are not alike.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, max_tokens: int | None = None) -> None:
        self.max_tokens = None if max_tokens is None else check_integer("max_tokens", max_tokens)
        self.keys, self.values = keys[..., :0, :], values[..., :0, :]
        self.add(keys, values)

    def __len__(self) -> int:
        return self.keys.size(1)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append what comes, (K, M, Dh) each."""
        if keys.dim() != 3 or keys.shape != values.shape or keys.shape[::2] != self.keys.shape[::2]:
            raise ValueError(
                f"keys of shape {tuple(keys.shape)} and values of shape {tuple(values.shape)} must both be (K, M, Dh), "
                f"with the K and Dh of the memory, {tuple(self.keys.shape[::2])}"
            )
        self.keys, self.values = (
            torch.cat((old, new.to(old)), 1)[:, -self.max_tokens if self.max_tokens else 0 :]
            for old, new in ((self.keys, keys), (self.values, values))
        )

    def attend(self, q: Tensor, n: int = 32) -> Tensor:
        """Let queries (B, H, T, Dh) look at the n nearest, as ``memory_attention``.

        Raises:
            ValueError: if the memory is empty, or the heads do not fit.
        """
        if not len(self):
            raise ValueError("the memory is empty; add something first")
        if q.size(1) % len(self.keys) or q.size(-1) != self.keys.size(-1):
            raise ValueError(
                f"queries of {q.size(1)} heads of width {q.size(-1)} do not fit the memory's {len(self.keys)} of width "
                f"{self.keys.size(-1)}"
            )
        return memory_attention(q, self.keys.to(q), self.values.to(q), n)

    def attend_beside(self, q: Tensor, local: Tensor, total: Tensor, n: int = 32, scale: float = 1.0) -> Tensor:
        """Let queries look at the n nearest as if these stood among what local attention saw: in one softmax.

        Args:
            q, local: (B, H, T, Dh), queries and what they found nearby.
            total: (B, H, T), the logarithm of the sum of the e^scores there.
            scale: of the scores of the memory.
        """
        remembered, total_remembered = _search(q * scale, self.keys.to(q), self.values.to(q), n)
        return gate_memory(local, remembered.to(local), total_remembered - total)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        write_memory(Path(path), "keys and values", keys=self.keys, values=self.values)

    @classmethod
    def load(
        cls, path: str | Path, *, max_tokens: int | None = None, device: torch.device | str = "cpu"
    ) -> "KeyValueMemory":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError, ValueError: if it is not there, damaged, or something else.
        """
        keys, values = read_memory(Path(path), "keys and values", "keys", "values")
        return cls(keys.to(device), values.to(device), max_tokens=max_tokens)
