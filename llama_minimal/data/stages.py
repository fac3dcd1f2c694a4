"""The batches that a configuration asks for: of one text or several sources, of one length or short ones first."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llama_minimal.data.batches import Batches, Ids, sequential_batches
from llama_minimal.data.mixture import MixedBatches, Text, Texts, one_source
from llama_minimal.data.packing import PackedBatches, PackedExamples, packed_batches
from llama_minimal.prompts import IGNORE
from llama_minimal.settings import TrainConfig


class StagedBatches:
    """Give short sequences first, then long ones, with as many tokens in a step.

    Short sequences cost less attention, and teach what can be learned from them in less time.

    Args:
        tokens: (n_tokens,), or several sources by name.
        short_seq_len: tokens of a sequence in the first ``short_steps`` steps; a divisor of ``seq_len``.
        options: what ``Batches``, or of several sources ``MixedBatches``, takes; ``batch_size`` counts sequences of
            ``seq_len``.

    Source: Press et al. 2021, "Shortformer" (staged training).
    """

    def __init__(
        self,
        tokens: Texts,
        *,
        short_seq_len: int,
        short_steps: int,
        batch_size: int,
        seq_len: int,
        **options: Any,
    ) -> None:
        self.tokens, self.short_steps = tokens, short_steps
        self._long = _one_length(tokens, batch_size=batch_size, seq_len=seq_len, **options)
        rows = batch_size * (seq_len // short_seq_len)
        self._short = _one_length(tokens, batch_size=rows, seq_len=short_seq_len, **options)

    def batch(self, step: int) -> tuple[Ids, ...]:
        """Return inputs and targets of one step, as ``Batches.batch`` does."""
        return self._at(step).batch(step)

    def seq_len_at(self, step: int) -> int:
        """Return how long the sequences of a step are, in tokens."""
        return self._at(step).seq_len

    def shares(self) -> dict[str, float]:
        """Return the share of the rows that each of several sources gives."""
        return self._long.shares()

    def epochs(self, step: int) -> Any:
        """Return how many epochs ``step`` steps make, of each source if there are several."""
        early = self._short.epochs(min(step, self.short_steps))
        late, skipped = self._long.epochs(max(step, self.short_steps)), self._long.epochs(self.short_steps)
        if isinstance(early, dict):
            return {name: early[name] + late[name] - skipped[name] for name in early}
        return early + late - skipped

    def _at(self, step: int) -> Batches | MixedBatches:
        return self._short if step < self.short_steps else self._long


def make_batches(
    tokens: Texts, config: TrainConfig, *, rank: int = 0, world_size: int = 1
) -> Batches | PackedBatches | MixedBatches | StagedBatches:
    """Return the batches that a configuration asks for, of one text or of several sources by name.

    Raises:
        ValueError: if a text is too short for them, the weights do not fit the sources, or the ranks cannot share a
            batch evenly.
    """
    if config.weights is not None and not isinstance(tokens, Mapping):
        raise ValueError(f"weights={config.weights} are for several sources; leave them out, or give more")
    texts = list(tokens.values()) if isinstance(tokens, Mapping) else [tokens]
    plain = [text for text in texts if not isinstance(text, PackedExamples)]
    if config.short_seq_len is not None and len(plain) < len(texts):
        raise ValueError("short_seq_len is for plain text; examples are packed in rows of one length, so leave it out")
    options = {
        "batch_size": config.batch_size,
        "seq_len": config.seq_len,
        "document_start": int(plain[0][0]) if config.align_documents and plain and len(plain[0]) else None,
        "seed": config.seed,
        "rank": rank,
        "world_size": world_size,
    }
    if isinstance(tokens, Mapping):
        options["weights"] = config.weights
    if config.short_seq_len is None:
        return _one_length(tokens, **options)
    short_steps = round(config.short_share * config.steps)
    return StagedBatches(tokens, short_seq_len=config.short_seq_len, short_steps=short_steps, **options)


def _one_length(tokens: Texts, **options: Any) -> Batches | PackedBatches | MixedBatches:
    return MixedBatches(tokens, **options) if isinstance(tokens, Mapping) else one_source(tokens, **options)


def validation_batches(text: Text, *, batch_size: int, seq_len: int) -> Iterator[tuple[Ids, ...]]:
    """Yield batches that cover every target of a text once, in order; ``IGNORE`` where a row is filled up.

    Args:
        batch_size: rows of a batch, B.
        seq_len: tokens of a row, T; examples are packed already.
    """
    if isinstance(text, PackedExamples):
        yield from packed_batches(text, batch_size=batch_size)
        return
    for inputs, targets, weights in sequential_batches(text, batch_size=batch_size, seq_len=seq_len):
        yield inputs, np.where(weights > 0, targets, IGNORE)
