"""Reading with a window: which cache a request means, and texts of any length."""

# B batch, T time, V vocabulary

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.kv_cache import KVCache, LayeredCache
from llama_minimal.long_context.remembering import RememberingKVCache
from llama_minimal.long_context.window import Window, WindowedKVCache
from llama_minimal.model import Llama
from llama_minimal.quantization.cache import CacheBits, cache_kind

Kept = CacheBits | Window
_WHOLE = Window()


def cache_maker(cache: Kept | None) -> Callable[..., KVCache]:
    """Return what makes a cache, called as ``KVCache``: of a window, of a name such as "int8", or the plain one."""
    if not isinstance(cache, Window):
        return cache_kind(cache)
    return partial(RememberingKVCache if cache.n_recalled else WindowedKVCache, window=cache)


def context_of(config: LlamaConfig, cache: Kept | None) -> int:
    """Return how many tokens a text may have: with a window, any number."""
    return sys.maxsize if isinstance(cache, Window) else config.max_seq_len


def check_window(cache: Kept | None, *, compile: bool, has_draft: bool) -> None:
    """Refuse what a window cannot go with.

    Raises:
        ValueError: with the reason.
    """
    if not isinstance(cache, Window):
        return
    if has_draft:
        raise ValueError(
            "a draft's candidates that are not kept would have taken the places of tokens that are; leave out the "
            "draft or the window"
        )
    if compile:
        raise ValueError("compile=True is for a cache in which tokens stay where they are; leave it out, or the window")


def read_long(model: Llama, prompts: Sequence[Sequence[int]], cache: WindowedKVCache | LayeredCache) -> Tensor:
    """Read prompts of any length into a windowed cache; return the logits of what follows each, (B, V).

    As many tokens as there are slots are read at once, the others one by one: each sees its own window.
    """
    rows = [torch.tensor(prompt) for prompt in prompts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)  # (B, T)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    logits = model.next_logits(tokens[:, : cache.n_slots], last.clamp(max=cache.n_slots - 1), cache=cache)
    for t in range(cache.n_slots, tokens.size(1)):
        at = last.clamp(max=t)[:, None]  # a row that is read stays at its end, and does the same again
        logits = model.next_logits(tokens.gather(1, at), positions=at, cache=cache)
    return logits


@torch.no_grad()
def streamed_losses(model: Llama, tokens: Tensor, window: Window = _WHOLE) -> Tensor:
    """Return the loss of every token but the first, in nats, when a text of any length is read through a window.

    Args:
        tokens: (B, T) ids.

    Returns:
        (B, T − 1), in float32 or better.
    """
    cache = model.make_cache(batch_size=len(tokens), max_seq_len=tokens.size(1), kind=cache_maker(window))
    tokens = tokens.to(model.device)
    edges = [0, *range(min(cache.n_slots, tokens.size(1)), tokens.size(1))]  # what fits at once, then one by one
    losses = []
    for begin, end in zip(edges, [*edges[1:], tokens.size(1)], strict=True):
        at = None if begin == 0 else torch.full((len(tokens), 1), begin, device=model.device)
        logits = model(tokens[:, begin:end], positions=at, cache=cache)[:, : tokens.size(1) - 1 - begin]
        log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        losses.append(-log_p.gather(-1, tokens[:, begin + 1 : end + 1, None]).squeeze(-1))
    return torch.cat(losses, 1)
