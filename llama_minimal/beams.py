"""Beam search: follow the most probable few sequences, not only the most probable next token."""

# B beams, V vocabulary

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_minimal.adaptive_computation.speculative import read_prompts
from llama_minimal.config.checks import check_integer, is_number
from llama_minimal.devices import as_float64, float64_device
from llama_minimal.long_context import Kept, cache_maker, context_of
from llama_minimal.model import Llama
from llama_minimal.prompts import as_ids, check_prompts


@dataclass(frozen=True, slots=True)
class Beam:
    """Hold one sequence of a beam search."""

    tokens: list[int]
    """New token ids, without the prompt and without a stop id."""
    score: float
    """log p(tokens | prompt) / length^length_penalty, with the stop id counted in both."""
    finish_reason: str
    """``stop`` (a stop id came) or ``length``."""


@torch.inference_mode()
def beam_search(
    model: Llama,
    prompt: Sequence[int],
    *,
    beam_size: int = 4,
    max_new_tokens: int = 64,
    length_penalty: float = 1.0,
    stop_ids: Sequence[int] | None = None,
    cache: Kept | None = None,
) -> list[Beam]:
    """Return the best ``beam_size`` continuations found, best first.

    At each step every open beam is extended by every token. Of the best ``beam_size`` extensions, those that
    end with a stop id are finished; the best ``beam_size`` others stay open. The search ends when no open
    beam can overtake the worst finished one.

    Args:
        prompt: token ids.
        length_penalty: 0 compares probabilities, so that short sequences win; 1 compares means per token.
        stop_ids: tokens that end a sequence; None means those that end a text by the model's checkpoint.
        cache: as for ``generate``.

    Raises:
        ValueError: if the prompt cannot be continued (see ``generate``) or ``beam_size`` is below 1.

    Source: Wu et al. 2016, §7, with length^α as the normalizer.
    """
    prompt, beam_size = as_ids(prompt), check_integer("beam_size", beam_size)
    check_prompts(model.config, [prompt], max_new_tokens, context=context_of(model.config, cache))
    _check_penalty(length_penalty)
    stop_ids = as_ids((model.eos_ids or ()) if stop_ids is None else stop_ids, what="stop_ids")
    n_steps = min(max_new_tokens, context_of(model.config, cache) - len(prompt))
    cache = model.make_cache(batch_size=beam_size, max_seq_len=len(prompt) + n_steps, kind=cache_maker(cache))
    logits = read_prompts(model, [prompt] * beam_size, cache)  # (B, V)

    opened: list[tuple[list[int], float]] = [([], 0.0)]  # tokens and log-probability
    finished: list[Beam] = []
    for length in range(1, n_steps + 1):
        extensions = _best_extensions(opened, logits, n=beam_size * (1 + len(stop_ids)))
        for _, sequence, total in extensions[:beam_size]:
            if sequence[-1] in stop_ids:
                finished.append(Beam(sequence[:-1], total / length**length_penalty, "stop"))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beam_size]
        still_open = [extension for extension in extensions if extension[1][-1] not in stop_ids][:beam_size]
        opened = [(sequence, total) for _, sequence, total in still_open]
        # Log-probabilities only fall, so an open beam's best future score lies at one end of its future.
        best_future = max((t / n**length_penalty for _, t in opened for n in (length + 1, n_steps)), default=0.0)
        if not opened or (len(finished) == beam_size and finished[-1].score >= best_future) or length == n_steps:
            break
        idle = [0] * (beam_size - len(opened))  # rows that repeat row 0
        cache.select([parent for parent, _, _ in still_open] + idle)
        newest = [sequence[-1] for sequence, _ in opened] + idle
        position = torch.full((beam_size, 1), len(prompt) + length - 1, device=model.device)
        logits = model.next_logits(torch.tensor(newest, device=model.device)[:, None], positions=position, cache=cache)
    if length == n_steps:
        finished += [Beam(sequence, total / length**length_penalty, "length") for sequence, total in opened]
    return sorted(finished, key=lambda beam: -beam.score)[:beam_size]


def _check_penalty(length_penalty: float) -> None:
    if not is_number(length_penalty) or not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty={length_penalty!r} must be a finite number")


def _best_extensions(
    opened: list[tuple[list[int], float]], logits: Tensor, *, n: int
) -> list[tuple[int, list[int], float]]:
    """Extend every open beam by every token; return the n most probable as (beam, tokens, log-probability)."""
    so_far = torch.tensor([total for _, total in opened], dtype=torch.float64, device=float64_device(logits.device))
    totals = so_far[:, None] + as_float64(logits[: len(opened)]).log_softmax(-1)  # (B, V)
    best, index = totals.flatten().topk(min(n, totals.numel()))
    vocab_size = totals.size(1)
    return [
        (i // vocab_size, opened[i // vocab_size][0] + [i % vocab_size], total)
        for total, i in zip(best.tolist(), index.tolist(), strict=True)
    ]
