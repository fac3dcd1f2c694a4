"""Generation: prompts in, text out; a token at a time, streamed, in batches."""

# B batch, T time, S slots, V vocabulary

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from llama_minimal.adaptive_computation.speculative import Draft, ModelDraft, PromptLookup, check_draft, read_prompts
from llama_minimal.adaptive_computation.verification import Proposal, verify
from llama_minimal.compiling import Again, compiled, compiling_pays, plain_weights, prepare_compiler
from llama_minimal.completion import Completion, Row, Written
from llama_minimal.kv_cache import KVCache
from llama_minimal.long_context import Kept, cache_maker, check_window, context_of
from llama_minimal.model import Llama
from llama_minimal.prompts import as_ids, check_prompts, check_stop
from llama_minimal.sampling import Choice
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.streaming import TextStream
from llama_minimal.tokenizer import TextCodec

Ids = Sequence[int]


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
    draft: Draft | None = None,
    cache: Kept | None = None,
) -> list[Completion]:
    """Continue every prompt; row i writes exactly what its prompt alone would write with seed + i.

    Args:
        model: in one process; or what ``parallel.inference.distribute`` returns, then every process calls this,
            with the same draft if any, which each of them holds whole.
        tokenizer: needed for prompts that are text and for stop strings.
        prompts: texts, or lists of token ids, of any lengths.
        max_new_tokens: the most to write; less if the context of ``max_seq_len`` tokens is full before.
        sampling: how to choose the next token; greedy unless told.
        stop_ids: tokens that end a row; None means those that end a text by the checkpoint, else by the tokenizer.
        stop: texts that end a row; what is written ends before them. The name of a special token, such as
            ``<|eot_id|>``, means that token too.
        compile: compile the step of one token, for a GPU, a few texts or a tiny model: slow at first, then fast.
        draft: proposes tokens, so that a pass of the model may write several: a small model of the same vocabulary, a
            ``ModelDraft`` or a ``PromptLookup``. Greedy, the tokens stay the same; sampled, their distribution does.
        cache: ``"int8"`` or ``"int4"`` keeps the model's keys and values in so many bits; see ``QuantizedKVCache``. A
            ``Window`` keeps those of some tokens, and the text may be longer than the context; see ``WindowedKVCache``.

    Raises:
        ValueError: if a prompt is empty, has unknown ids or leaves no room in the context, or an argument is odd.
    """
    if isinstance(prompts, str | bytes):
        raise ValueError("prompts is one text; give a list of texts, or use stream for a single one")
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts={prompts!r} must be a list of texts, or of lists of token ids")
    ids = [_encode(tokenizer, prompt) for prompt in prompts]
    rows = [_row(model, tokenizer, prompt, max_new_tokens, stop_ids, stop, cache) for prompt in ids]
    options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "seed": seed, "compile": compile, "cache": cache}
    for step in decode(model, ids, **options, **_known(model, tokenizer, draft)):
        for row, written in zip(rows, step, strict=True):
            row.take(written)
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
    draft: Draft | None = None,
    cache: Kept | None = None,
) -> Iterator[str]:
    """Continue one prompt and yield the text as it is written; joined, it is ``generate``'s text.

    A piece comes only when it is certain: whole characters, and no beginning of a stop string.
    """
    if tokenizer is None:
        raise ValueError("stream yields text, so it needs a tokenizer; without one, use generate")
    ids = _encode(tokenizer, prompt)
    row = _row(model, tokenizer, ids, max_new_tokens, stop_ids, stop, cache)
    options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "seed": seed, "compile": compile, "cache": cache}
    for (written,) in decode(model, [ids], **options, **_known(model, tokenizer, draft)):
        if piece := row.take(written):
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
    draft: ModelDraft | PromptLookup | None = None,
    cache: Kept | None = None,
) -> Iterator[list[Written]]:
    """Yield what every row writes, step by step, until all have ``max_new_tokens`` or a full context.

    A step is one pass of the model, over each row's last token and what a draft proposes to follow it: without a
    draft, nothing. The caller may stop before the end.

    Args:
        seed: row i draws with seed + i, or with a seed of its own.
        vocab_size: ids from here on are never chosen: some models have more embeddings than their tokenizer.
    """
    device, context = model.device, context_of(model.config, cache)
    check_prompts(model.config, prompts, max_new_tokens, context=context)
    texts, rooms = [list(prompt) for prompt in prompts], [min(max_new_tokens, context - len(p)) for p in prompts]
    how = {"vocab_size": model.config.vocab_size, "known": vocab_size, "device": device}
    choice = Choice(prompts, sampling, n_places=min(max_new_tokens, context), seed=seed, **how)
    size = _n_slots(max(map(len, prompts)) + max_new_tokens, context, compile=compile)
    step = _step_of(model, compile=compile, draft=draft, n_rows=len(prompts), cache=cache)
    proposer = draft.start(prompts, choice, size=size) if draft else None
    kept = model.make_cache(batch_size=len(prompts), max_seq_len=size, kind=cache_maker(cache))

    with nullcontext() if step is _step else plain_weights(model):
        logits = _read(step, model, prompts, kept)  # (B, 1, V)
        nothing = proposal = Proposal(torch.empty(len(prompts), 0, dtype=torch.long, device=device), [0] * len(prompts))
        while True:
            places = [len(text) - len(prompt) for text, prompt in zip(texts, prompts, strict=True)]
            chosen, accepted = verify(logits, proposal, choice, places)  # (B, K + 1)
            new = [row[: min(n + 1, room)] for row, n, room in zip(chosen.tolist(), accepted, rooms, strict=True)]
            yield [Written(*one) for one in zip(new, proposal.counts, strict=True)]
            rooms = [room - len(tokens) for room, tokens in zip(rooms, new, strict=True)]
            if not any(rooms):
                break
            choice.see(new)
            for text, tokens in zip(texts, new, strict=True):
                text += tokens
            ahead = [max(0, room - 1) for room in rooms]
            proposal = proposer.propose(texts, ahead) if proposer and any(ahead) else nothing
            logits = step(model, *_next_input(texts, proposal, size=size, device=device), kept)


def _read(step: Callable[..., Tensor], model: Llama, prompts: Sequence[Ids], kept: KVCache) -> Tensor:
    if step is not _step and len(prompts) == len(prompts[0]) == 1:  # what it is compiled for
        return step(model, first := torch.tensor(prompts, device=model.device), torch.zeros_like(first), kept)
    return read_prompts(model, prompts, kept)[:, None]


def _n_slots(n: int, context: int, *, compile: bool) -> int:
    """Return how many slots the cache has; compiled, a power of two and not a small one: each size needs compiling."""
    return min(max(256, 1 << (n - 1).bit_length()) if compile else n, context)


def _next_input(texts: Sequence[Ids], proposal: Proposal, *, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each row's last token and its candidates, and their positions, each (B, K + 1)."""
    last = torch.tensor([text[-1:] for text in texts], device=device)
    # What comes too far for a row is none of its candidates: it goes to the last slot, which nobody reads then.
    ahead = range(-1, proposal.tokens.size(1))
    positions = torch.tensor([[min(len(text) + t, size - 1) for t in ahead] for text in texts], device=device)
    return torch.cat((last, proposal.tokens.to(device)), dim=1) if len(ahead) > 1 else last, positions


def _row(
    model: Llama,
    tokenizer: TextCodec | None,
    prompt: Ids,
    limit: int,
    stop_ids: Ids | None,
    stop: Sequence[str],
    cache: Kept | None,
) -> Row:
    """Return what follows a row that continues this prompt."""
    check_stop(stop)
    if stop and tokenizer is None:
        raise ValueError("stop strings need a tokenizer; give one, or use stop_ids")
    if stop_ids is None:
        stop_ids = tokenizer.eos_ids if tokenizer else model.eos_ids or ()
    special = tokenizer.special_tokens if tokenizer else {}
    # Special tokens decode to nothing, so their names never come up in the text.
    named = {special[text.strip()] for text in stop if text.strip() in special}
    text = TextStream(tokenizer, prompt, stop) if tokenizer else None
    room = context_of(model.config, cache) - len(prompt)
    return Row(text, stop_ids=named.union(as_ids(stop_ids, what="stop_ids")), limit=limit, room=room)


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


def _known(model: Llama, tokenizer: TextCodec | None, draft: Draft | None) -> dict[str, Any]:
    """Return what the loop needs of tokenizer and draft, once they are found to suit the model."""
    known = tokenizer.vocab_size if tokenizer else None
    return {"vocab_size": known, "draft": check_draft(draft, model, tokenizer)}


def _step_of(
    model: Llama, *, compile: bool, draft: ModelDraft | PromptLookup | None, n_rows: int, cache: Kept | None
) -> Callable[..., Tensor]:
    check_window(cache, compile=compile, has_draft=draft is not None)
    if compile and not isinstance(model, Llama):
        raise ValueError("compile=True is for a model in one process; leave it out")
    if compile and draft:
        raise ValueError(
            "compile=True compiles the step of one token, and with a draft a step has several; leave it out"
        )
    if not compile or not compiling_pays(model, n_rows=n_rows):
        return _step
    prepare_compiler(model.device)
    return Again(_compiled_step())


def _step(model: Llama, tokens: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
    """Feed tokens (B, T) and return the logits of what follows each, (B, T, V)."""
    if tokens.size(1) == 1:
        return model.next_logits(tokens, positions=positions, cache=cache)[:, None]
    return model(tokens, positions=positions, cache=cache)


@functools.cache
def _compiled_step() -> Callable[..., Tensor]:
    return compiled(_step)
