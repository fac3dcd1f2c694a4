"""What tokens must be before a model reads them."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from llama_minimal.config import LlamaConfig


def check_prompts(config: LlamaConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse prompts that cannot be continued.

    Raises:
        ValueError: if there is no prompt, or one is empty, has unknown ids or leaves no room in the context.
    """
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be a whole number of at least 1")
    if not prompts:
        raise ValueError("there is no prompt; give at least one")
    vocab_size, context = config.vocab_size, config.max_seq_len
    for prompt in prompts:
        if not len(prompt):
            raise ValueError("the prompt is empty; give at least one token (with a tokenizer: its <|bos|>)")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < vocab_size)
            raise ValueError(f"token id {wrong} is not among the model's ids 0 to {vocab_size - 1}")
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens; it and at least one new token must fit "
                f"the context of {context} tokens (max_seq_len): shorten it to {context - 1} tokens or fewer"
            )


def check_tokens(config: LlamaConfig, tokens: np.ndarray, *, what: str = "text") -> None:
    """Refuse a text with ids that the model has no embeddings for: once for all steps, which do not look.

    Args:
        tokens: (n,), also a memory map, which is read once.
        what: the text's name in the message, such as "validation text".

    Raises:
        ValueError: if there is such an id.
    """
    last = config.vocab_size - 1
    if not len(tokens) or (tokens.dtype.kind == "u" and np.iinfo(tokens.dtype).max <= last):
        return
    lowest, highest = int(tokens.min()), int(tokens.max())
    if not 0 <= lowest <= highest <= last:
        raise ValueError(
            f"the {what} holds token id {lowest if lowest < 0 else highest}, but the model's ids are 0 to {last}; "
            f"was it encoded with another tokenizer?"
        )
