"""Texts longer than the context: a cache that slides (``Window``), and memories that are searched.

A window with ``n_recalled`` looks up what has left it, in every layer (``RememberingKVCache``).

How rotary frequencies are stretched is ``config.rope_scaling``; perplexity by sliding windows is in ``evaluation``, the
search for old turns in ``chat``.
"""

from llama_minimal.long_context.key_value_memory import KeyValueMemory, gate_memory, memory_attention
from llama_minimal.long_context.neighbors import nearest
from llama_minimal.long_context.reading import Kept, cache_maker, check_window, context_of, read_long, streamed_losses
from llama_minimal.long_context.remembering import RememberingKVCache
from llama_minimal.long_context.token_memory import TokenMemory, WithMemory, neighbor_distribution, remember
from llama_minimal.long_context.window import Window, WindowedKVCache

__all__ = [
    "Kept",
    "KeyValueMemory",
    "RememberingKVCache",
    "TokenMemory",
    "Window",
    "WindowedKVCache",
    "WithMemory",
    "cache_maker",
    "check_window",
    "context_of",
    "gate_memory",
    "memory_attention",
    "nearest",
    "neighbor_distribution",
    "read_long",
    "remember",
    "streamed_losses",
]
