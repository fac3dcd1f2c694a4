"""Texts longer than the context: a cache that slides (``Window``).

How rotary frequencies are stretched is ``config.rope_scaling``; perplexity by sliding windows is in ``evaluation``.
"""

from llama_minimal.long_context.window import (
    Kept,
    Window,
    WindowedKVCache,
    cache_maker,
    check_window,
    context_of,
    read_long,
)

__all__ = ["Kept", "Window", "WindowedKVCache", "cache_maker", "check_window", "context_of", "read_long"]
