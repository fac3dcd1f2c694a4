"""Draw the rows of every batch from several sources by weight: which rows a step sees depends on its number alone."""

# B batch, T time

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_minimal.config.checks import is_number
from llama_minimal.data.batches import Batches, Ids, check_sharing, rows_of_step
from llama_minimal.data.packing import PackedBatches, PackedExamples

PARTS = 10_000
Text = NDArray[np.integer] | PackedExamples
"""A row of tokens, or examples."""
Texts = Text | Mapping[str, Text]
"""One text, or several sources by name."""


class MixedBatches:
    """Give batches whose rows come from several sources, as ``Batches`` does from one.

    Of the first n rows of training, source s gives weight_s · n to within one row, whatever n is. A source that is
    at its end begins its next epoch, each for itself.

    Args:
        tokens: source → its tokens, (n_tokens,), or its examples.
        weights: of the sources, in their order; only their proportions count, rounded to ten-thousandths of the whole.
            None: each weighs as much as it has tokens, so that all are read equally often.
        batch_size: sequences in a step, over all ranks and sources together.
        options: what ``Batches`` takes.

    Raises:
        ValueError: if there is no source, the weights do not fit the sources, a source is too short, the ranks cannot
            share a batch, or only some sources bring more than a document with each token.

    Example:
        >>> texts = {"stories": np.arange(100), "docs": np.arange(500, 700)}
        >>> batches = MixedBatches(texts, weights=(0.75, 0.25), batch_size=4, seq_len=8)
        >>> [int(row[0] >= 500) for row in batches.batch(0)[0]]
        [0, 0, 0, 1]
    """

    def __init__(
        self,
        tokens: Mapping[str, Text],
        *,
        weights: Sequence[float] | None = None,
        batch_size: int,
        seq_len: int,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        check_sharing(batch_size, rank, world_size)
        if not tokens:
            raise ValueError("there is no source to draw from; give at least one, such as {'stories': tokens}")
        self.tokens = tokens
        self.batch_size, self.seq_len, self.rank, self.world_size = batch_size, seq_len, rank, world_size
        self._sources = [_batches(name, part, seq_len=seq_len, **options) for name, part in tokens.items()]
        _check_alike(dict(zip(tokens, self._sources, strict=True)))
        self._packed = any(isinstance(part, PackedExamples) for part in tokens.values())
        self._parts = parts(tokens, weights)
        self._order = order(self._parts)
        self._before = np.zeros_like(self._order)  # rows of the same source before this one
        for source in range(len(self._parts)):
            mine = self._order == source
            self._before[mine] = np.arange(mine.sum())

    def batch(self, step: int) -> tuple[Ids, ...]:
        """Return inputs and targets of one step, each (B / world_size, T), as ``Batches.batch`` does.

        Where a source is examples, also documents; a row of plain text is one.
        """
        rows = [self._row(row) for row in rows_of_step(step, self.batch_size, self.rank, self.world_size)]
        if self._packed:
            rows = [row if len(row) > 2 else (*row, np.zeros_like(row[0])) for row in rows]
        return tuple(np.concatenate(part) for part in zip(*rows, strict=True))

    def seq_len_at(self, step: int) -> int:
        """Return how long the sequences of a step are, in tokens."""
        return self.seq_len

    def shares(self) -> dict[str, float]:
        """Return the share of the rows that each source gives."""
        return {name: part / sum(self._parts) for name, part in zip(self.tokens, self._parts, strict=True)}

    def rows(self, step: int) -> dict[str, int]:
        """Return how many rows of each source ``step`` steps read."""
        periods, rest = divmod(step * self.batch_size, len(self._order))
        counts = np.bincount(self._order[:rest], minlength=len(self._parts))
        return {name: periods * part + int(n) for name, part, n in zip(self.tokens, self._parts, counts, strict=True)}

    def epochs(self, step: int) -> dict[str, float]:
        """Return how many epochs of each source ``step`` steps make."""
        rows = self.rows(step).items()
        return {name: n / source.windows_per_epoch for (name, n), source in zip(rows, self._sources, strict=True)}

    def _row(self, row: int) -> tuple[Ids, ...]:
        period, place = divmod(row, len(self._order))
        source = self._order[place]
        return self._sources[source].batch(period * self._parts[source] + int(self._before[place]))


def parts(tokens: Mapping[str, Text], weights: Sequence[float] | None = None) -> list[int]:
    """Return weights as the smallest whole numbers in the same proportions, to ten-thousandths of the whole.

    Example:
        >>> parts({"stories": np.arange(9), "docs": np.arange(9)}, (0.7, 0.3))
        [7, 3]

    Raises:
        ValueError: if there are more or fewer weights than sources, or one is not positive.
    """
    if isinstance(weights, str):
        raise ValueError(f"weights={weights!r} must be numbers, one for each source, such as (0.7, 0.3)")
    if weights is None:
        weights = [len(part) for part in tokens.values()]
    elif len(weights) != len(tokens):
        raise ValueError(
            f"{len(weights)} weights for {len(tokens)} sources, {', '.join(tokens)}: give one weight to each, or none"
        )
    if not all(is_number(weight) and 0 < weight < math.inf for weight in weights):
        raise ValueError(
            f"weights={tuple(weights)} must be positive numbers; leave out a source that is not to be read"
        )
    total = sum(weights)
    rounded = [max(1, round(PARTS * weight / total)) for weight in weights]
    common = math.gcd(*rounded)
    return [part // common for part in rounded]


def order(parts: Sequence[int]) -> NDArray[np.int64]:
    """Return which source each row of a period comes from, (sum(parts),).

    After any number of rows n, every source has had its share, parts_s / sum(parts) · n, to within one row: a source
    may have its next row once its share has passed a whole number, and must have it before the next. Whoever must
    have it first gets it, which keeps all these deadlines if any order does.
    """
    period, done = sum(parts), [0] * len(parts)
    chosen = np.empty(period, np.int64)
    for row in range(period):
        ready = [source for source, part in enumerate(parts) if done[source] * period < part * (row + 1)]
        chosen[row] = min(ready, key=lambda source: -(-(done[source] + 1) * period // parts[source]))
        done[chosen[row]] += 1
    return chosen


def one_source(text: Text, *, document_start: int | None = None, **options: Any) -> Batches | PackedBatches:
    """Return the batches of one text: windows of its tokens, or rows of its examples.

    Raises:
        ValueError: as ``Batches`` and ``PackedBatches``.
    """
    if isinstance(text, PackedExamples):
        return PackedBatches(text, **options)
    return Batches(text, document_start=document_start, **options)


def _batches(name: str, text: Text, **options: Any) -> Batches | PackedBatches:
    try:
        return one_source(text, batch_size=1, **options)
    except ValueError as error:
        raise ValueError(f"source {name}: {error}") from None


def _check_alike(sources: Mapping[str, Batches | PackedBatches]) -> None:
    """Refuse rows that cannot stand in one batch: with a teacher's probabilities, say, and without."""
    more = {name: [part.shape[2:] for part in source.batch(0)[3:]] for name, source in sources.items()}
    first = next(iter(more))
    for name, shapes in more.items():
        if shapes != more[first]:
            raise ValueError(
                f"sources {first} and {name} cannot be mixed: they do not bring the same with each token, such as what "
                f"a teacher thinks of it; give both a cache of the same k, or neither"
            )
