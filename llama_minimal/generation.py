"""Generation: prompts in, text out; a token at a time, streamed, in batches."""

# B batch, T time, S slots, V vocabulary

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llama_minimal.devices import float64_device
from llama_minimal.kv_cache import KVCache
from llama_minimal.linear import compiling_pays
from llama_minimal.model import Llama
from llama_minimal.prompts import as_ids, check_prompts, check_stop
from llama_minimal.sampling import check_choice, choose, filter_logits, seen_tokens, uniform_numbers
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.streaming import TextStream
from llama_minimal.tokenizer import TextCodec

Ids = Sequence[int]


@dataclass(slots=True)
class Completion:
    """Hold what was written after one prompt."""

    tokens: list[int] = field(default_factory=list)
    """New token ids, without the prompt and without a stop id."""
    text: str | None = None
    """The new text, cut before a stop string; None without a tokenizer."""
    finish_reason: str = ""
    """``stop`` (a stop id or string came), ``length`` (enough tokens) or ``context`` (max_seq_len is full)."""


def generate(
    model: Llama,
    tokenizer: TextCodec | None,
    prompts: Sequence[str] | Sequence[Ids],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling = GREEDY,
    stop_ids: Ids | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    compile: bool = False,
) -> list[Completion]:
    """Continue every prompt; row i writes exactly what its prompt alone would write with seed + i.

    Args:
        model: in one process; or what ``parallel.inference.distribute`` returns, then every process calls this.
        tokenizer: needed for prompts that are text and for stop strings.
        prompts: texts, or lists of token ids, of any lengths.
        max_new_tokens: the most to write; less if the context of ``max_seq_len`` tokens is full before.
        sampling: how to choose the next token; greedy unless told.
        stop_ids: tokens that end a row; None means those that end a text by the checkpoint, else by the tokenizer.
        stop: texts that end a row; what is written ends before them. The name of a special token, such as
            ``<|eot_id|>``, means that token too.
        compile: compile the step of one token, for a GPU or a tiny model: slow at first, then fast.

    Raises:
        ValueError: if a prompt is empty, has unknown ids or leaves no room in the context, or an argument is odd.
    """
    if isinstance(prompts, str | bytes):
        raise ValueError("prompts is one text; give a list of texts, or use stream for a single one")
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts={prompts!r} must be a list of texts, or of lists of token ids")
    ids = [_encode(tokenizer, prompt) for prompt in prompts]
    rows = [_Row(model, tokenizer, prompt, max_new_tokens, stop_ids, stop) for prompt in ids]
    known = tokenizer.vocab_size if tokenizer else None
    for tokens in decode(
        model, ids, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, compile=compile, vocab_size=known
    ):
        for row, token in zip(rows, tokens, strict=True):
            row.push(token)
        if all(row.done for row in rows):
            break
    return [row.completion for row in rows]


def stream(
    model: Llama,
    tokenizer: TextCodec,
    prompt: str | Ids,
    *,
    max_new_tokens: int = 128,
    sampling: Sampling = GREEDY,
    stop_ids: Ids | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    compile: bool = False,
) -> Iterator[str]:
    """Continue one prompt and yield the text as it is written; joined, it is ``generate``'s text.

    A piece comes only when it is certain: whole characters, and no beginning of a stop string.
    """
    if tokenizer is None:
        raise ValueError("stream yields text, so it needs a tokenizer; without one, use generate")
    ids = _encode(tokenizer, prompt)
    row = _Row(model, tokenizer, ids, max_new_tokens, stop_ids, stop)
    options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "seed": seed, "compile": compile}
    for (token,) in decode(model, [ids], **options, vocab_size=tokenizer.vocab_size):
        if piece := row.push(token):
            yield piece
        if row.done:
            break


@torch.inference_mode()
def decode(
    model: Llama,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int | Sequence[int] = 0,
    compile: bool = False,
    vocab_size: int | None = None,
) -> Iterator[list[int]]:
    """Yield the next token id of every row, ``max_new_tokens`` times; the caller may stop before.

    Args:
        seed: row i draws with seed + i, or with a seed of its own.
        vocab_size: ids from here on are never chosen: some models have more embeddings than their tokenizer.

    Rows whose context is full go on with meaningless tokens: ``generate`` ends them in time.
    """
    check_prompts(model.config, prompts, max_new_tokens)
    seed, device = check_choice(sampling, seed), model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    size = min(int(lengths.max()) + max_new_tokens, model.config.max_seq_len)
    if compile:  # few cache sizes, so that few need compiling: powers of two
        size = min(1 << (size - 1).bit_length(), model.config.max_seq_len)
    cache = model.make_cache(batch_size=len(prompts), max_seq_len=size)
    step = _step_of(model, compile=compile)
    uniform = None
    if sampling.temperature > 0:
        uniform = uniform_numbers(len(prompts), max_new_tokens, seed=seed).to(float64_device(device))

    # Prefill: prompts padded on the right; each row's next token comes from its own last one.
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
    rows = torch.arange(len(prompts), device=device)
    logits = model.next_logits(padded, lengths - 1, cache=cache)  # (B, V)
    seen = None
    if sampling.repetition_penalty != 1:
        seen = seen_tokens(prompts, model.config.vocab_size).to(device)[:, :vocab_size]
    for i in range(max_new_tokens):
        allowed = filter_logits(logits[:, :vocab_size], sampling, seen)
        new = choose(allowed, None if uniform is None else uniform[:, i])  # (B,)
        yield new.tolist()
        if i == max_new_tokens - 1:
            break
        if seen is not None:
            seen[rows, new] = True
        positions = (lengths + i).clamp(max=size - 1)  # a row whose context is full waits in the last slot
        logits = step(model, new[:, None], positions[:, None], cache)


class _Row:
    """Follow one row: collect its tokens and text, and see when it ends."""

    def __init__(
        self,
        model: Llama,
        tokenizer: TextCodec | None,
        prompt: Ids,
        limit: int,
        stop_ids: Ids | None,
        stop: Sequence[str],
    ) -> None:
        check_stop(stop)
        if stop and tokenizer is None:
            raise ValueError("stop strings need a tokenizer; give one, or use stop_ids")
        if stop_ids is None:
            stop_ids = tokenizer.eos_ids if tokenizer else model.eos_ids or ()
        special = tokenizer.special_tokens if tokenizer else {}
        # Special tokens decode to nothing, so their names never come up in the text.
        named = {special[text.strip()] for text in stop if text.strip() in special}
        self.stop_ids = named.union(as_ids(stop_ids, what="stop_ids"))
        self.limit = limit
        self.room = model.config.max_seq_len - len(prompt)
        self.text = TextStream(tokenizer, prompt, stop) if tokenizer else None
        self.completion = Completion(text="" if tokenizer else None)

    @property
    def done(self) -> bool:
        return self.completion.finish_reason != ""

    def push(self, token: int) -> str:
        """Take the next token; return the text that is certain now."""
        if self.done:
            return ""
        tokens = self.completion.tokens
        if token in self.stop_ids:
            return self._finish("stop")
        tokens.append(token)
        piece = self._add(self.text.push(token)) if self.text else ""
        if self.text and self.text.stopped:
            self.completion.finish_reason = "stop"
        elif len(tokens) == self.limit:
            piece += self._finish("length")
        elif len(tokens) == self.room:
            piece += self._finish("context")
        return piece

    def _finish(self, reason: str) -> str:
        piece = self._add(self.text.finish()) if self.text else ""
        self.completion.finish_reason = "stop" if self.text and self.text.stopped else reason
        return piece

    def _add(self, piece: str) -> str:
        self.completion.text += piece
        return piece


def _encode(tokenizer: TextCodec | None, prompt: str | Ids) -> list[int]:
    if not isinstance(prompt, str | bytes):
        return as_ids(prompt)
    if tokenizer is None:
        raise ValueError("a prompt that is text needs a tokenizer; give one, or give token ids")
    return encode_prompt(tokenizer, prompt)


def encode_prompt(tokenizer: TextCodec, text: str | bytes) -> list[int]:
    """Return the ids from which a model continues a text, as ``generate`` encodes it."""
    ids = tokenizer.encode_prompt(text)
    # From nothing a model cannot go on: then a text begins even where the tokenizer does not say so.
    return ids if ids or tokenizer.bos_id is None else [tokenizer.bos_id]


def _step_of(model: Llama, *, compile: bool) -> Callable[..., Tensor]:
    if compile and not isinstance(model, Llama):
        raise ValueError("compile=True is for a model in one process; leave it out")
    return _compiled_step() if compile and compiling_pays(model) else _step


def _step(model: Llama, tokens: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
    """Feed one token per row, (B, 1), and return its logits (B, V)."""
    return model.next_logits(tokens, positions=positions, cache=cache)


@functools.cache
def _compiled_step() -> Callable[..., Tensor]:
    """Return ``_step`` compiled to one graph; on a GPU it is replayed without Python in between."""
    mode = "reduce-overhead" if torch.cuda.is_available() else None
    step = torch.compile(_step, fullgraph=True, dynamic=False, mode=mode)
    # A graph per batch and cache size: more of them than PyTorch's limit, which is there to notice accidents.
    return torch._dynamo.config.patch(recompile_limit=256)(step)
