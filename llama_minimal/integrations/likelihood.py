"""Log-likelihoods of texts, and of answers after a question: what a harness asks of a model, in batches by length."""

# n tokens to score, B batch, T time, D model width, V vocabulary

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from llama_minimal.devices import as_float64
from llama_minimal.evaluation import sliding_batches
from llama_minimal.model import Llama
from llama_minimal.prompts import by_length
from llama_minimal.tokenizer import TextCodec


class Row(NamedTuple):
    """Tokens, of which the last n are to be scored."""

    ids: list[int]
    n: int


def encode_text(tokenizer: TextCodec, text: str, *, allow_special: bool = False) -> list[int]:
    """Return a text's ids after a token that its first word can be predicted from: one that begins a text, or ends it.

    Raises:
        ValueError: if the tokenizer has neither.
    """
    if tokenizer.start_ids:
        return tokenizer.encode_prompt(text, allow_special=allow_special)
    marks = [one for one in (tokenizer.bos_id, *tokenizer.eos_ids) if one is not None]
    if not marks:
        raise ValueError("the tokenizer has no token that begins or ends a text, so a first word has no score")
    return [marks[0], *tokenizer.encode(text, allow_special=allow_special)]


def encode_pair(
    tokenizer: TextCodec, context: str, continuation: str, *, allow_special: bool = False
) -> tuple[list[int], list[int]]:
    """Return the ids of both; those of a continuation that has a letter are never none.

    Spaces at the end of the context go to the continuation, where tokenizers want them. The ids are those of the whole
    text, as a model has read it in training. Where a token spans the border (as in Chinese, whose words have no space
    between them), the two are encoded apart: so every answer to a question follows the same ids, as what the model
    writes itself does.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before, whole = (encode_text(tokenizer, text, allow_special=allow_special) for text in (bare, bare + continuation))
    if len(whole) > len(before) and whole[: len(before)] == before:
        return before, whole[len(before) :]
    return before, _go_on(tokenizer, continuation)


def _go_on(tokenizer: TextCodec, text: str) -> list[int]:
    """Return the ids of a text that goes on: without the space that SentencePiece puts before a text."""
    ids, line = tokenizer.encode(text), tokenizer.encode("\n")
    after = tokenizer.encode("\n" + text)
    is_changed = tokenizer.decode([*line, *ids]) != "\n" + text
    return after[len(line) :] if is_changed and after[: len(line)] == line else ids


def windows(ids: Sequence[int], *, size: int, stride: int | None = None) -> list[Row]:
    """Return the windows of ``evaluation.sliding_batches`` over a text: each of its tokens but the first counts once.

    Args:
        size: tokens that the model sees at once.
        stride: None means ``size``.
    """
    if len(ids) < 2:
        return []
    size = min(size, len(ids) - 1)
    rows = []
    for inputs, targets, weights in sliding_batches(
        np.array(ids), size=size, stride=min(size, stride or size), batch_size=1
    ):
        end = int(weights[0].nonzero()[0][-1]) + 1  # behind it a last window is filled up
        rows.append(Row([int(inputs[0, 0]), *targets[0, :end].tolist()], int(weights.sum())))
    return rows


@torch.no_grad()
def score(
    model: Llama, rows: Sequence[Row], *, batch_size: int = 16, what: str = "scoring"
) -> list[tuple[float, bool]]:
    """Return for each row log p of its last n tokens together, in nats, and whether each is the most likely one.

    Args:
        batch_size: rows at a time, of similar length; how many does not change a score.
        what: stands before the progress bar.

    Raises:
        ValueError: if the model computes NaN.
    """
    scored = [(0.0, True)] * len(rows)
    with tqdm(total=len(rows), desc=what, unit="row", leave=False, disable=None) as bar:
        for batch in by_length([row.ids for row in rows], batch_size):
            for i, result in zip(batch, _score_batch(model, [rows[i] for i in batch]), strict=True):
                scored[i] = result
            bar.update(len(batch))
    return scored


def _score_batch(model: Llama, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    ids = [torch.tensor(row.ids) for row in rows]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)  # on the right, where no earlier token looks
    wanted = torch.zeros_like(padded, dtype=torch.bool)  # (B, T + 1), which tokens are scored
    for i, row in enumerate(rows):
        wanted[i, len(row.ids) - row.n : len(row.ids)] = True
    places, targets = wanted[:, 1:].to(model.device), padded[wanted].to(model.device)
    loss = partial(_log_probabilities, places=places, targets=targets)
    log_p, is_best = model(padded[:, :-1].to(model.device), loss=loss)  # (n,) each
    sizes = [row.n for row in rows]
    totals = [as_float64(part).sum().item() for part in log_p.split(sizes)]
    if any(total != total for total in totals):  # a harness would take it for the first of the choices
        raise ValueError("the model computes NaN, which answers nothing; look at its weights and its dtype")
    return [(total, bool(best.all())) for total, best in zip(totals, is_best.split(sizes), strict=True)]


def _log_probabilities(x: Tensor, output: nn.Module, *, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p of targets (n,), and whether each is the most likely token; logits are made for them alone.

    Args:
        x: (B, T, D), of which ``places``, (B, T), says what precedes a target.
    """
    logits = output(x[places])  # (n, V)
    log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return log_p.gather(-1, targets[:, None])[:, 0], logits.argmax(-1) == targets
