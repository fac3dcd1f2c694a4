"""Attention: scaled dot products, many heads, and keys shared by groups of heads."""

# B batch, T time, S keys, D model width, H heads, K kv heads, Dh head width

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal import native
from llama_minimal.compiling import FEW, n_compiled_vectors
from llama_minimal.config import LlamaConfig
from llama_minimal.kv_cache import KVCache
from llama_minimal.linear import Linear, cast_once, in_one_product, width
from llama_minimal.positions import apply_rope

_HAS_AMX = torch.cpu._is_amx_tile_supported()  # matrix units of Intel's


def causal_mask(n_queries: int, n_keys: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the (T, S) mask in which each of the last T tokens sees itself and all before it.

    True means "may look". It is aligned bottom right: the last query sees every key.

    Example:
        >>> causal_mask(2, 3).int().tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def document_positions(documents: Tensor) -> Tensor:
    """Return where each token of a packed row stands in its own document, (B, T), from 0.

    Args:
        documents: (B, T) numbers; a document is a run of equal ones.

    Example:
        >>> document_positions(torch.tensor([[1, 1, 1, 2, 2, 0]])).tolist()
        [[0, 1, 2, 0, 1, 0]]
    """
    places = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    return places - _first_places(documents, places)


def document_mask(documents: Tensor) -> Tensor:
    """Return the (B, 1, T, T) mask of packed rows: each token sees itself and those before it in its own document.

    True means "may look". It is block-diagonal and causal.

    Args:
        documents: (B, T) numbers; a document is a run of equal ones.
    """
    places = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    first = _first_places(documents, places)
    return ((first[:, :, None] == first[:, None]) & causal_mask(*places.shape[1:] * 2, device=places.device))[:, None]


def _first_places(documents: Tensor, places: Tensor) -> Tensor:
    """Return the place in the row where each token's document begins, (B, T)."""
    begins = documents[:, 1:] != documents[:, :-1]
    return torch.cat((torch.zeros_like(places[:, :1]), places[:, 1:] * begins), dim=1).cummax(dim=1).values


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    """Mix the values, each by how well its key answers the query.

    softmax(q kᵀ / √Dh + mask) v. Query head h reads key head ⌊h·K/H⌋.

    Args:
        q: (B, H, T, Dh).
        k, v: (B, K, S, Dh), with K a divisor of H.
        mask: broadcastable to (B, H, T, S); boolean, where True means "may look", or a number to add to the
            scores. None hides nothing.
        is_causal: hide later tokens instead of giving a mask; for T = S only, since PyTorch aligns it top left.

    Returns:
        (B, H, T, Dh).

    Source: Vaswani et al. 2017, eq. 1; grouped queries: Ainslie et al. 2023, §2.2.
    """
    grouped = q.size(1) != k.size(1)
    are_few = torch.compiler.is_compiling() and q.size(2) == 1 and 0 < n_compiled_vectors(q[:, 0, 0]) <= FEW
    if are_few and not is_causal and (mask is None or mask.ndim == 4):
        return _of_one_query(q, k, v, mask)
    if grouped and q.size(2) == 1 and not is_causal and (mask is None or (mask.ndim == 4 and mask.size(1) == 1)):
        # One token: the query heads of a group become the queries of one head, and each key is read once.
        rows = q.unflatten(1, (k.size(1), -1)).squeeze(3)  # (B, K, H/K, Dh)
        return F.scaled_dot_product_attention(rows, k, v, attn_mask=mask).reshape(q.shape)
    if grouped and q.device.type == "mps":  # PyTorch 2.6 ends the whole process there if it is to share the keys
        k, v = (shared.repeat_interleave(q.size(1) // k.size(1), dim=1) for shared in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)


def _of_one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Do what ``attention`` does for one query a row, in compiled code."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, float("-inf"))
    n_slots, width = k.shape[2:]
    is_known = native.is_built and mask is not None and mask.shape[1] == 1 and mask.shape[3] == n_slots
    if is_known and all(x.dtype == torch.float32 and x.stride()[2:] == (width, 1) for x in (k, v)):
        return native.vector_attention(q.float(), k, v, mask.float()).type_as(q)
    return _written_out(q, k, v, mask)


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Do what ``attention`` does for one query a row, in steps that a compiler fuses: the library's call costs more."""
    rows = q.unflatten(1, (k.size(1), -1))  # (B, K, H/K, 1, Dh)
    scores = (rows * k[:, :, None]).sum(-1) / q.size(-1) ** 0.5  # (B, K, H/K, S)
    if mask is not None:
        scores = scores + mask.expand(-1, q.size(1), -1, -1).unflatten(1, (k.size(1), -1)).squeeze(3)
    return (scores.softmax(-1)[..., None] * v[:, :, None]).sum(3).view(q.shape)


def one_of_each(x: Tensor, last: Tensor | None) -> Tensor:
    """Return of each row, (B, T, …), the token at its place in ``last``, (B,), alone: (B, 1, …). None: all tokens."""
    return x if last is None else x[torch.arange(len(x), device=x.device), last][:, None]


def log_total(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Return the logarithm of the sum of e^scores that ``attention`` divides by, (B, H, T).

    Args:
        q, k: as for ``attention``.
        mask: (B, 1, T, S), added to the scores.
    """
    grouped = q.unflatten(1, (k.size(1), -1))  # (B, K, H/K, T, Dh)
    scores = grouped @ k[:, :, None].transpose(-1, -2) / q.size(-1) ** 0.5 + mask[:, :, None]
    return scores.logsumexp(-1).flatten(1, 2)


def _is_wide_faster(x: Tensor) -> bool:
    """Return whether half precision should attend in float32: PyTorch's kernel for CPUs without AMX is faster there."""
    return x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cpu" and not _HAS_AMX


class Attention(nn.Module):
    """Apply causal self-attention with H query heads and K key/value heads."""

    is_causal = True
    """Whether a token sees only itself and those before it; see ``masked_language.see_both_sides``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = Linear(config.dim, q_dim, bias=config.attention_bias)
        self.wk = Linear(config.dim, kv_dim, bias=config.attention_bias)
        self.wv = Linear(config.dim, kv_dim, bias=config.attention_bias)
        self.wo = Linear(q_dim, config.dim, bias=config.attention_bias)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        *,
        cache: KVCache | None = None,
        layer: int = 0,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Let every token look at itself and at those before it.

        Args:
            x: (B, T, D).
            rope: cos and sin of the tokens' positions, broadcastable to (B, T, H, Dh/2).
            cache, layer, positions: where keys and values are kept, see ``KVCache.write``.
            mask: (B, 1, T, S), which tokens, cached ones included, each new one may see. None means that the T
                tokens are all there is, of one document.
            last: (B,) of each row the one token that looks, where no other is asked for. Keys and values are of all.

        Returns:
            (B, T, D), or with ``last`` (B, 1, D).
        """
        if not self.is_causal and not (cache is mask is None):
            raise ValueError("a model that sees both sides cannot write, nor read packed documents; give it whole rows")
        x = cast_once(x)
        bare = getattr(cache, "turns_keys", False)
        q, k, v = self._project(x, None if bare else rope)
        unturned = q  # (B, T, H, Dh)
        if bare and rope is not None:
            q = apply_rope(q, *rope)
        stays_wide = q.dtype != x.dtype and torch.is_autocast_enabled("cpu")
        q, unturned = one_of_each(q, last), one_of_each(unturned, last)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, Dh)
        if cache is not None:
            cached = cache.write(layer, k, v, positions)
            if mask is not None or bare:
                n_seen = k.size(2) if mask is None else mask.size(-1)
                k, v = (kept[:, :, :n_seen] for kept in cached)  # (B, K, S, Dh)
                q = q.type_as(k)
        if last is not None:
            mask = self._mask_of(last, k, mask)
        with torch.autocast("cpu", enabled=False) if stays_wide else nullcontext():
            out = attention(q, k, v, mask, is_causal=mask is last is None and self.is_causal)
            if positions is not None and getattr(cache, "n_recalled", 0):
                out = cache.look_back(layer, unturned.transpose(1, 2), out, log_total(q, k, mask))
        return self.wo(out.transpose(1, 2).flatten(2).type_as(x))

    def _mask_of(self, last: Tensor, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return which keys, (B, K, S, Dh), one token of each row may see: (B, 1, 1, S)."""
        if mask is not None:
            return one_of_each(mask.transpose(1, 2), last).transpose(1, 2)
        if not self.is_causal:
            return None
        places = torch.arange(k.size(2), device=k.device)
        return (places <= places[last][:, None])[:, None, None]  # (a place may be counted from the end)

    def _project(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, T, H, Dh), keys and values (B, T, K, Dh), the first two rotated."""
        layers, heads = (self.wq, self.wk, self.wv), (*x.shape[:2], -1, self.head_dim)
        together = in_one_product(x, layers)
        # -1: under tensor parallelism a rank holds only some of the heads.
        parts = [part.view(heads) for part in ([layer(x) for layer in layers] if together is None else [together])]
        if _is_wide_faster(parts[0]):  # before the rotation, which computes in float32 anyway
            parts = [part.float() for part in parts]
        if together is not None:  # a few tokens, which small steps cost more than arithmetic: one rotation for both
            n_kv = width(self.wk) // self.head_dim
            both, v = parts[0].tensor_split((-n_kv,), dim=2)
            return *(both if rope is None else apply_rope(both, *rope)).tensor_split((-n_kv,), dim=2), v
        q, k, v = parts
        return (q, k, v) if rope is None else (apply_rope(q, *rope), apply_rope(k, *rope), v)
