"""Speculative decoding: something cheap proposes the next few tokens, and the model checks them in one pass.

Reading k tokens at once costs a model hardly more than reading one: its weights come from memory once. So a draft
proposes candidates, the model reads them all, and those that it would have written itself are kept.

What is written is what the model alone would write: greedy, token for token; sampled, with the same distribution.
In exact arithmetic, that is: a pass over k tokens adds up in another order than k passes of one. In float32 that is a
matter of the seventh digit, and no token changes but by a rare accident. In bfloat16, where numbers have two to three
digits, two tokens that are nearly as likely may change places, and the text goes on from there otherwise.
"""

# B batch, T time, K candidates, V vocabulary

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llama_minimal.adaptive_computation.verification import Proposal
from llama_minimal.config.checks import check_integer
from llama_minimal.devices import as_float64
from llama_minimal.kv_cache import KVCache
from llama_minimal.long_context import read_long
from llama_minimal.model import Llama
from llama_minimal.sampling import Choice
from llama_minimal.tokenizer import TextCodec

Texts = Sequence[Sequence[int]]


class Proposer(Protocol):
    """Propose candidates for what rows write next."""

    def propose(self, texts: Texts, rooms: Sequence[int]) -> Proposal:
        """Return candidates to follow each text, prompt and what was written: of row b at most ``rooms[b]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookup:
    """Propose what followed the last few tokens when they came before: for texts that repeat, or copy their prompt.

    Such a candidate is kept where it is what the model chooses, greedy or with the number of its place. So even a
    sampled text is, token for token, that of the same seed without a draft.

    Args:
        n: the most candidates.
        ngram: look for so many tokens first; if they never came before, for one fewer, and so on.

    Source: Saxena 2023, "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding).
    """

    n: int = 10
    ngram: int = 3

    def __post_init__(self) -> None:
        check_integer("n", self.n)
        check_integer("ngram", self.ngram)

    def start(self, prompts: Texts, choice: Choice, *, size: int) -> Proposer:
        """Return itself: there is nothing to remember."""
        return self

    def propose(self, texts: Texts, rooms: Sequence[int]) -> Proposal:
        """Look up each row's last tokens in the row itself."""
        found = [look_up(text, n=min(self.n, room), ngram=self.ngram) for text, room in zip(texts, rooms, strict=True)]
        width = max(map(len, found))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in found], dtype=torch.long)
        return Proposal(tokens, [len(row) for row in found])


def look_up(text: Sequence[int], *, n: int, ngram: int) -> list[int]:
    """Return up to n tokens that followed the text's last ``ngram`` tokens, or fewer of them, when they came before.

    Of several places, the latest that n tokens follow; else the earliest, which the most tokens follow.

    Example:
        >>> look_up([1, 2, 3, 4, 5, 1, 2], n=2, ngram=3)
        [3, 4]
    """
    ids = np.asarray(text)
    for size in range(min(ngram, len(ids) - 1), 0, -1):
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        begins = np.flatnonzero((windows == ids[-size:]).all(1)) + size  # where the continuations begin
        if n > 0 and len(begins):
            long = begins[begins + n <= len(ids)]
            begin = long[-1] if len(long) else begins[0]
            return ids[begin : begin + n].tolist()
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDraft:
    """Propose what a smaller model writes, with the same ``Sampling``.

    Args:
        model: of the same vocabulary; a small model, a distilled one, the first layers of the large one.
        n: candidates of a step.
        tokenizer: the small model's; if given, it is compared with the large one's.
    """

    model: Llama
    n: int = 4
    tokenizer: TextCodec | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, Llama):
            raise ValueError(f"model is a {type(self.model).__name__}, and must be a Llama, of one process")
        check_integer("n", self.n)

    def start(self, prompts: Texts, choice: Choice, *, size: int) -> Proposer:
        """Return what proposes candidates in one generation: with a cache of its own, of so many slots.

        Raises:
            ValueError: if the draft's context is shorter than that.
        """
        context = self.model.config.max_seq_len
        if context < size:
            raise ValueError(
                f"the draft has a context of {context} tokens, but prompt and new tokens may take {size}; shorten them "
                f"or use another draft"
            )
        return _ModelProposer(self, prompts, choice, size=size)


class _ModelProposer:
    """Let a draft model read along: its cache, like the large model's, goes by positions."""

    def __init__(self, draft: ModelDraft, prompts: Texts, choice: Choice, *, size: int) -> None:
        self.model, self.n, self.prompts, self.choice, self.size = draft.model, draft.n, prompts, choice, size
        self.cache = None

    def propose(self, texts: Texts, rooms: Sequence[int]) -> Proposal:
        counts = [min(self.n, room) for room in rooms]
        if self.cache is None:
            self.cache = self.model.make_cache(batch_size=len(texts), max_seq_len=self.size)
            read_prompts(self.model, self.prompts, self.cache)
        # The last two: the draft has not read its own last candidate, which may have been kept.
        fed = torch.tensor([text[-2:] for text in texts], device=self.model.device)  # (B, 2)
        positions = torch.tensor([[len(text) - 2, len(text) - 1] for text in texts], device=self.model.device)
        written = [len(text) - len(prompt) for text, prompt in zip(texts, self.prompts, strict=True)]
        choice, tokens, probabilities = self.choice.copy(), [], []
        for t in range(max(counts)):
            at = positions.clamp(max=self.size - 1)  # rows at their end wait in the last slot, which nobody reads
            logits = self.model.next_logits(fed, positions=at, cache=self.cache)[:, None]
            allowed = choice.filter(logits)
            fed = choice.choose(allowed, torch.tensor(written) + t, purpose=Choice.CANDIDATE)  # (B, 1)
            choice.see(fed.tolist())
            tokens.append(fed)
            probabilities.append(as_float64(allowed).softmax(-1))
            positions = positions[:, -1:] + 1
        is_drawn = choice.sampling.temperature > 0
        return Proposal(torch.cat(tokens, 1), counts, torch.cat(probabilities, 1) if is_drawn else None)


def read_prompts(model: Llama, prompts: Texts, cache: KVCache) -> Tensor:
    """Return the logits of what follows each prompt, (B, V): padded on the right, each row's come from its last."""
    if getattr(cache, "turns_keys", False):
        return read_long(model, prompts, cache)
    rows = [torch.tensor(prompt) for prompt in prompts]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    return model.next_logits(padded, last, cache=cache)


Draft = Llama | ModelDraft | PromptLookup


def check_draft(draft: Draft | None, model: Llama, tokenizer: TextCodec | None) -> ModelDraft | PromptLookup | None:
    """Return a draft that suits a model, a plain model as ``ModelDraft``.

    Raises:
        ValueError: if it does not: another vocabulary, another tokenizer, another device, no draft at all.
    """
    if isinstance(draft, Llama):
        draft = ModelDraft(model=draft)
    if isinstance(draft, ModelDraft):
        theirs, config = draft.model.config, model.config
        if theirs.labels:
            raise ValueError("the draft tells labels apart and writes no text; give a model that does")
        if theirs.vocab_size != config.vocab_size:
            raise ValueError(
                f"the draft has a vocabulary of {theirs.vocab_size} tokens and the model one of {config.vocab_size}: "
                f"its ids would mean other tokens; use a draft with the model's own tokenizer"
            )
        if draft.tokenizer is not None and tokenizer is not None and not _same(draft.tokenizer, tokenizer):
            raise ValueError(
                "the draft's tokenizer is not the model's: the same ids mean other tokens; use a draft with the "
                "model's own tokenizer"
            )
        if draft.model.device != model.device:
            raise ValueError(
                f"the draft is on {draft.model.device} and the model on {model.device}; move one of them with .to"
            )
    elif not isinstance(draft, PromptLookup | None):
        what = repr(draft) if isinstance(draft, str | int | float) else f"a {type(draft).__name__}"
        raise ValueError(f"draft is {what}, and must be a Llama, a ModelDraft or a PromptLookup")
    return draft


def _same(one: TextCodec, other: TextCodec) -> bool:
    """Tell whether two tokenizers give the same ids the same meaning."""
    if (one.vocab_size, one.special_tokens) != (other.vocab_size, other.special_tokens):
        return False
    return all(one.token_bytes(i) == other.token_bytes(i) for i in range(one.vocab_size))
