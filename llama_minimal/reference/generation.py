"""Greedy generation with a cache of keys and values."""

# K kv heads, S keys, Dh head width

from collections.abc import Collection

import numpy as np

from llama_minimal.config import LlamaConfig
from llama_minimal.reference.compose import Params
from llama_minimal.reference.model import llama


def generate(
    params: Params,
    prompt: list[int],
    config: LlamaConfig,
    max_new_tokens: int,
    *,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """Continue a prompt with the likeliest token, again and again.

    The prompt goes through the model once; after that each step computes one position and reads the keys
    and values of the earlier ones from the cache.

    Args:
        prompt: at least one token, at most ``config.max_seq_len``.
        max_new_tokens: an upper bound; prompt and continuation also end at ``config.max_seq_len``.
        stop_ids: tokens that end the text; they are not returned.

    Returns:
        The new tokens, without the prompt.

    Raises:
        ValueError: if the prompt is empty or too long, or holds an id outside of the vocabulary.
    """
    _check_prompt(prompt, config)
    end = min(len(prompt) + max_new_tokens, config.max_seq_len)
    shape = (1, config.n_kv_heads, end, config.head_dim)  # (1, K, S, Dh)
    dtype = params["tok_embeddings.weight"].dtype
    cache = [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in range(config.n_layers)]
    new_tokens, unread, n_read = [], list(prompt), 0
    while n_read + len(unread) < end:
        logits = llama(params, np.array([unread]), config, cache=cache, start=n_read)
        token = int(logits[0, -1].argmax())
        if token in stop_ids:
            break
        new_tokens.append(token)
        n_read += len(unread)
        unread = [token]
    return new_tokens


def _check_prompt(prompt: list[int], config: LlamaConfig) -> None:
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token, such as the beginning-of-text id")
    if len(prompt) > config.max_seq_len:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, but max_seq_len={config.max_seq_len}; cut it or raise max_seq_len"
        )
    if outside := sorted({token for token in prompt if not 0 <= token < config.vocab_size}):
        raise ValueError(
            f"the prompt holds ids {outside} outside of 0 … {config.vocab_size - 1}; was another tokenizer used?"
        )
