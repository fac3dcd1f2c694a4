"""Many short examples in few rows: packed side by side, so that no example sees another and nothing is padded away."""

# R rows, T tokens of a row

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_minimal.data.batches import Ids, check_sharing, rows_of_step
from llama_minimal.prompts import IGNORE


class EncodedExample(NamedTuple):
    """One example as token ids, and which of them a model learns to write."""

    ids: list[int]
    learn: list[bool]
    """For each id, whether it is a target: the answer, not the question."""
    label: int | None = None
    """The label that is read at the last token, of an example that has one instead of targets."""

    def rows(self) -> tuple[list[int], list[int]]:
        """Return inputs and targets, equally long; ``IGNORE`` where nothing is learned."""
        if self.label is not None:
            return self.ids, [IGNORE] * (len(self.ids) - 1) + [self.label]
        targets = [token if learned else IGNORE for token, learned in zip(self.ids[1:], self.learn[1:], strict=True)]
        return self.ids[:-1], targets


@dataclass(frozen=True, slots=True)
class PackedExamples:
    """Hold examples in rows of T tokens, each row with as many as fit.

    ``Llama.forward`` keeps the documents of a row apart, so the losses are those of the examples one by one.
    """

    inputs: Ids
    """(R, T); filled up with ``pad_id``."""
    targets: Ids
    """(R, T); ``IGNORE`` where nothing is learned."""
    documents: Ids
    """(R, T): 1, 2 … for the examples of a row, 0 where it is filled up."""

    @classmethod
    def pack(cls, examples: Sequence[EncodedExample], *, seq_len: int, pad_id: int = 0) -> "PackedExamples":
        """Fill rows, the longest examples first, each into the fullest row that has room (best fit).

        Args:
            examples: in any order.
            seq_len: tokens of a row, T.
            pad_id: fills what is left of a row.

        Raises:
            ValueError: if there is no example, or one has more tokens than a row or nothing to learn.
        """
        if not examples:
            raise ValueError("there is no example to pack; give at least one")
        pairs = [example.rows() for example in examples]
        for i, (inputs, targets) in enumerate(pairs):
            if len(inputs) > seq_len:
                raise ValueError(f"example {i} has {len(inputs)} tokens, more than seq_len={seq_len}; leave it out")
            if all(target == IGNORE for target in targets):
                raise ValueError(f"example {i} has no token to learn; leave it out")
        rows = best_fit([len(inputs) for inputs, _ in pairs], seq_len)
        packed = cls(*(np.full((len(rows), seq_len), fill, np.int64) for fill in (pad_id, IGNORE, 0)))
        for row, members in enumerate(rows):
            start = 0
            for number, member in enumerate(members, start=1):
                inputs, targets = pairs[member]
                where = slice(start, start := start + len(inputs))
                packed.inputs[row, where], packed.targets[row, where] = inputs, targets
                packed.documents[row, where] = number
        return packed

    @property
    def n_examples(self) -> int:
        """How many examples there are."""
        return int(self.documents.max(axis=1).sum())

    @property
    def n_targets(self) -> int:
        """How many tokens (or labels) are learned."""
        return int((self.targets != IGNORE).sum())

    @property
    def seq_len(self) -> int:
        """Tokens of a row."""
        return self.inputs.shape[1]

    def __len__(self) -> int:
        """Return how many tokens are read, without what fills rows up."""
        return int((self.documents > 0).sum())

    def rows(self, which: Sequence[int] | slice) -> tuple[Ids, Ids, Ids]:
        """Return inputs, targets and documents of some rows."""
        return self.inputs[which], self.targets[which], self.documents[which]


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return which items go into which bin: the longest first, each where it leaves the least room.

    Args:
        lengths: of the items, none above ``room``.
        room: of a bin.

    Example:
        >>> best_fit([3, 2, 6, 4], 8)
        [[2, 1], [3, 0]]
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(room + 1)]  # bins by what room they have left
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        left = next((left for left in range(lengths[item], room + 1) if with_room[left]), None)
        if left is None:
            bins.append([])
            left, chosen = room, len(bins) - 1
        else:
            chosen = with_room[left].pop()
        bins[chosen].append(item)
        with_room[left - lengths[item]].append(chosen)
    return bins


class PackedBatches:
    """Give the batch of any step, without memory of the steps before: every epoch shuffles the rows.

    Args:
        examples: packed in rows of ``seq_len`` tokens.
        batch_size: rows in a step, over all ranks together.
        seed: not negative.
        rank, world_size: this process gets rows rank, rank + world_size, ... of the step.

    Raises:
        ValueError: if rows have another length, or the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        examples: PackedExamples,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_sharing(batch_size, rank, world_size)
        if seq_len != examples.seq_len:
            raise ValueError(f"the examples are packed in rows of {examples.seq_len} tokens, but seq_len={seq_len}")
        self.examples, self.batch_size, self.seq_len, self.seed = examples, batch_size, seq_len, seed
        self.rank, self.world_size = rank, world_size
        self.windows_per_epoch = len(examples.inputs)
        self._epochs: dict[int, Ids] = {}

    def batch(self, step: int) -> tuple[Ids, Ids, Ids]:
        """Return inputs, targets and documents of one step, each (B / world_size, T)."""
        rows = rows_of_step(step, self.batch_size, self.rank, self.world_size)
        return self.examples.rows(
            [self._order(row // self.windows_per_epoch)[row % self.windows_per_epoch] for row in rows]
        )

    def seq_len_at(self, step: int) -> int:
        """Return how long the rows of a step are, in tokens."""
        return self.seq_len

    def epochs(self, step: int) -> float:
        """Return how many epochs ``step`` steps make."""
        return step * self.batch_size / self.windows_per_epoch

    def _order(self, epoch: int) -> Ids:
        if epoch not in self._epochs:
            random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._epochs = {epoch: random.permutation(self.windows_per_epoch)}
        return self._epochs[epoch]


def packed_batches(examples: PackedExamples, *, batch_size: int) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Yield inputs, targets and documents of all rows in order, (B, T): for validation; the last may be fewer."""
    for start in range(0, len(examples.inputs), batch_size):
        yield examples.rows(slice(start, start + batch_size))
