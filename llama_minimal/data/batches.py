"""Cut a long row of tokens into training batches: which tokens a step sees depends on its number alone."""

# B batch, T time

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Batches:
    """Give the batch of any step of training, without memory of the steps before.

    An epoch shuffles windows of ``seq_len`` tokens that do not overlap, so it shows each token once; fewer than
    2 · ``seq_len`` at the ends are left over. Every epoch cuts at another offset and shuffles anew. A batch may reach
    into the next epoch. Since ``batch`` keeps no state, a resumed run sees what an unbroken one would have seen.

    With ``document_start`` every window begins with a document instead, and the documents after it fill it up: no
    story is told from its middle. Each document begins one window of an epoch, so windows overlap.

    Args:
        tokens: (n_tokens,), of any integer type, for instance a memory map.
        batch_size: sequences in a step, over all ranks together.
        seq_len: tokens in a sequence, T.
        document_start: the token that begins every document, such as BOS; None cuts windows anywhere.
        seed: not negative.
        rank, world_size: this process gets rows rank, rank + world_size, ... of the step.

    Raises:
        ValueError: if the text is too short, no document begins early enough, or the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        tokens: NDArray[np.integer],
        *,
        batch_size: int,
        seq_len: int,
        document_start: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_sizes(tokens, batch_size, seq_len, n_needed=seq_len + 1)
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        check_sharing(batch_size, rank, world_size)
        self.tokens = tokens
        self.batch_size, self.seq_len, self.seed = batch_size, seq_len, seed
        self.rank, self.world_size = rank, world_size
        self._documents = None if document_start is None else _documents(tokens, document_start, seq_len)
        # One window fewer than would fit leaves room for every offset, so all epochs have the same number of windows.
        self.windows_per_epoch = (
            max(1, (len(tokens) - seq_len) // seq_len) if self._documents is None else len(self._documents)
        )
        self._epochs: dict[int, Ids] = {}

    def batch(self, step: int) -> tuple[Ids, Ids]:
        """Return inputs and targets of one step, each (B / world_size, T); a target is the token after its input.

        Raises:
            ValueError: if the step is negative.
        """
        rows = rows_of_step(step, self.batch_size, self.rank, self.world_size)
        starts = [self._starts(row // self.windows_per_epoch)[row % self.windows_per_epoch] for row in rows]
        windows = np.stack([self.tokens[start : start + self.seq_len + 1] for start in starts]).astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def seq_len_at(self, step: int) -> int:
        """Return how long the sequences of a step are, in tokens."""
        return self.seq_len

    def epochs(self, step: int) -> float:
        """Return how many epochs ``step`` steps make."""
        return step * self.batch_size / self.windows_per_epoch

    def _starts(self, epoch: int) -> Ids:
        # A shuffle of millions is slow, so it is kept while steps stay in its epoch. It is no state: any step can
        # make it again.
        if epoch not in self._epochs:
            random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            if self._documents is None:
                room = len(self.tokens) - self.windows_per_epoch * self.seq_len
                offset = random.integers(min(room, self.seq_len))
                starts = offset + self.seq_len * random.permutation(self.windows_per_epoch)
            else:
                starts = random.permutation(self._documents)
            self._epochs = {epoch: starts}
        return self._epochs[epoch]


def check_sharing(batch_size: int, rank: int, world_size: int) -> None:
    """Raise ValueError if this is no rank, or the ranks cannot share a batch evenly."""
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must be one of 0 to world_size-1, and world_size={world_size} at least 1")
    if batch_size % world_size:
        raise ValueError(
            f"batch_size={batch_size} is not divisible by world_size={world_size}; "
            f"use a multiple, such as {batch_size + world_size - batch_size % world_size}"
        )


def rows_of_step(step: int, batch_size: int, rank: int, world_size: int) -> range:
    """Return the numbers of a rank's rows in a step, counted from the beginning of training.

    Raises:
        ValueError: if the step is negative.
    """
    if step < 0:
        raise ValueError(f"step={step} must not be negative")
    first = step * batch_size
    return range(first + rank, first + batch_size, world_size)


def _documents(tokens: NDArray[np.integer], document_start: int, seq_len: int) -> Ids:
    """Return where documents begin that have a whole window before the end of the text."""
    found = np.flatnonzero(tokens[: len(tokens) - seq_len] == document_start)
    if not len(found):
        raise ValueError(
            f"no document begins {seq_len} tokens or more before the end of the text; use more text or less seq_len"
        )
    return found


def sequential_batches(
    tokens: NDArray[np.integer], *, batch_size: int, seq_len: int
) -> Iterator[tuple[Ids, Ids, NDArray[np.float32]]]:
    """Yield inputs, targets and weights that cover every target of a text once, in order: for validation.

    Every token but the first is a target. The last window is filled up with zeros of weight 0; the last batch may
    have fewer rows.

    Args:
        tokens: (n_tokens,), of any integer type.
        batch_size: rows of a batch, B.
        seq_len: tokens of a row, T.

    Returns:
        Iterator of inputs, targets (int64) and weights (float32, 1 or 0), each (B, T).

    Raises:
        ValueError: if there are fewer than two tokens.
    """
    _check_sizes(tokens, batch_size, seq_len, n_needed=2)
    return _sequential(tokens, batch_size, seq_len)


def _sequential(
    tokens: NDArray[np.integer], batch_size: int, seq_len: int
) -> Iterator[tuple[Ids, Ids, NDArray[np.float32]]]:
    n_targets = len(tokens) - 1
    for start in range(0, n_targets, batch_size * seq_len):
        n = min(batch_size * seq_len, n_targets - start)
        shape = (-(-n // seq_len), seq_len)
        inputs, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        weights = np.zeros(shape, np.float32)
        inputs.flat[:n] = tokens[start : start + n]
        targets.flat[:n] = tokens[start + 1 : start + n + 1]
        weights.flat[:n] = 1
        yield inputs, targets, weights


def _check_sizes(tokens: NDArray[np.integer], batch_size: int, seq_len: int, *, n_needed: int) -> None:
    for name, value in (("batch_size", batch_size), ("seq_len", seq_len)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if len(tokens) < n_needed:
        raise ValueError(
            f"the text has {len(tokens)} tokens, but {n_needed} are needed; use more text or a smaller seq_len"
        )
