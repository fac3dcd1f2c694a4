"""What tokens must be before a model reads them, and which target it does not learn."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from operator import index
from typing import Any

import numpy as np

from llama_minimal.config import LlamaConfig

IGNORE = -100  # a target that counts for nothing, as everywhere in PyTorch


def as_ids(ids: Iterable[int], *, what: str = "a prompt") -> list[int]:
    """Return token ids as a list of ints: of a list, an array or a tensor.

    Raises:
        ValueError: if it is something else.
    """
    try:
        # A tensor's items would be tensors, of which no two are the same to a set.
        return [int(index(token)) for token in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    except TypeError:
        raise ValueError(f"{what} must be a row of token ids, such as [1, 2, 3], not {_short(ids)}") from None


def by_length(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of rows in batches, the shortest first: rows of about equal length are filled up with little."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def check_writes(config: LlamaConfig, what: str = "this model") -> None:
    """Raise ValueError if a model, named in the message, has labels in the place of a vocabulary to write with."""
    if config.labels:
        raise ValueError(
            f"{what} tells labels apart ({', '.join(config.labels)}) and writes no text; use finetuning.classify"
        )


def check_prompts(
    config: LlamaConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, context: int | None = None
) -> None:
    """Refuse prompts that cannot be continued.

    Args:
        context: tokens that prompt and continuation may have; None means ``max_seq_len``.

    Raises:
        ValueError: if there is no prompt, or one is empty, has unknown ids or leaves no room in the context.
    """
    check_writes(config)
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be a whole number of at least 1")
    if not prompts:
        raise ValueError("there is no prompt; give at least one")
    vocab_size, context = config.vocab_size, context or config.max_seq_len
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


def check_stop(stop: Sequence[str]) -> None:
    """Raise ValueError if stop strings are not a list of texts."""
    if isinstance(stop, str):
        raise ValueError(f"stop={stop!r} is one text; give a list of texts")
    if not isinstance(stop, Iterable) or not all(isinstance(text, str) for text in stop):
        raise ValueError(f"stop={stop!r} must be a list of texts; for token ids there is stop_ids")


def check_tokens(config: LlamaConfig, tokens: Any, *, what: str = "text") -> np.ndarray:
    """Refuse a text with ids that the model has no embeddings for: once for all steps, which do not look.

    Args:
        tokens: (n,), an array, also a memory map, which is read once; a tensor or a list.
        what: the text's name in the message, such as "validation text".

    Returns:
        The ids as an array.

    Raises:
        ValueError: if there is such an id, or these are no ids.
    """
    given, tokens = tokens, np.asarray(tokens)
    if tokens.ndim != 1 or (tokens.dtype.kind not in "iu" and len(tokens)):
        found = f"{tokens.dtype} of shape {tokens.shape}" if tokens.ndim else _short(given)
        raise ValueError(f"the {what} must be one row of whole numbers, token ids, not {found}")
    last = config.vocab_size - 1
    if not len(tokens) or (tokens.dtype.kind == "u" and np.iinfo(tokens.dtype).max <= last):
        return tokens
    lowest, highest = int(tokens.min()), int(tokens.max())
    if not 0 <= lowest <= highest <= last:
        raise ValueError(
            f"the {what} holds token id {lowest if lowest < 0 else highest}, but the model's ids are 0 to {last}; "
            f"was it encoded with another tokenizer?"
        )
    return tokens


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
