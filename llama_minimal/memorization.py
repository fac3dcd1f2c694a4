"""Does a model write, or does it recite? What its samples share with the training text, token by token."""

# S samples, N tokens of all samples together, n length of a run

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 1 << 20  # training tokens compared at a time
Walkers = tuple[np.ndarray, np.ndarray]  # positions of the stream, and the number of the run from each


def copied_spans(samples: Sequence[Sequence[int]], training_tokens: np.ndarray) -> np.ndarray:
    """Return for each sample the length of its longest run that occurs in the training stream, (S,), in tokens.

    Sources: Carlini et al. 2021, "Extracting training data from large language models", and 2023, "Quantifying
    memorization across neural language models": text that a model repeats word for word is what it memorized.
    """
    return np.array([lengths.max(initial=0) for lengths in match_lengths(samples, training_tokens)], dtype=np.int64)


def longest_copied_span(sample_tokens: Sequence[int], training_tokens: np.ndarray) -> int:
    """Return the length of one sample's longest run that occurs in the training stream, in tokens."""
    return int(copied_spans([sample_tokens], training_tokens)[0])


def novel_ngram_share(samples: Sequence[Sequence[int]], training_tokens: np.ndarray, n: int = 8) -> float:
    """Return the share of the samples' n-grams that never occur in the training stream, from 0 to 1.

    An n-gram that occurs twice in the samples counts twice. The same share of held-out human text tells what is
    usual.

    Source: McCoy et al. 2021, "How much do language models copy from their training data? Evaluating linguistic
    novelty in text generation using RAVEN".
    """
    if n < 1:
        raise ValueError(f"n={n}; an n-gram has 1 token or more")
    return novel_share(match_lengths(samples, training_tokens, longest=n), n)


def novel_share(lengths: Sequence[np.ndarray], n: int = 8) -> float:
    """Return the same share from ``match_lengths`` of the samples, for whoever needs these for more.

    Raises:
        ValueError: if no sample has n tokens.
    """
    lengths = np.concatenate([row[: max(0, len(row) - n + 1)] for row in lengths]) if lengths else np.array([])
    if len(lengths) == 0:
        raise ValueError(f"no sample has n={n} tokens; give longer samples, or a smaller n")
    return float((lengths < n).mean())


def match_lengths(
    samples: Sequence[Sequence[int]], training_tokens: np.ndarray, *, longest: int | None = None
) -> list[np.ndarray]:
    """Return for each position of each sample how many tokens from there on occur in a row in the training stream.

    The runs of n + 1 tokens that samples and stream share come from those of n: a run's number and the token after
    it make one integer, and where that integer is found in the samples, the runs are equal. So nothing is hashed and
    no collision can invent a match. The time grows with the summed lengths of the stream's matches with the samples,
    a few tokens per position in natural text, many in a stream that repeats one token.

    Args:
        samples: S rows of token ids, of any lengths.
        training_tokens: (n,) token ids, for example a memory map; only pieces of it are in memory at once, beside
            12 bytes for each position whose match goes on.
        longest: stop at matches of this length.

    Returns:
        S arrays of lengths in tokens, one for each position.
    """
    rows = [_checked(row, "a sample", empty=True).astype(np.int64) for row in samples]
    training_tokens = _checked(training_tokens, "training_tokens")
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.concatenate([_NONE, *rows])  # (N,)
    room = np.repeat(sizes.cumsum(), sizes) - np.arange(len(tokens))  # tokens from here to the end of the sample
    stranger = int(tokens.max(initial=0)) + 1  # stands for every training token that no sample has
    lengths = np.zeros(len(tokens), np.int64)
    where, run = np.arange(len(tokens)), lengths.copy()  # positions whose match goes on, and the numbers of their runs
    walkers = _every_position(len(training_tokens))  # the same for the stream, chunk by chunk
    for n in range(tokens.size if longest is None else longest):
        where, run = where[room[where] > n], run[room[where] > n]
        if len(where) == 0:
            break
        runs, run = np.unique(run * (stranger + 1) + tokens[where + n], return_inverse=True)
        walkers = [_step(*chunk, training_tokens, n, runs, stranger) for chunk in walkers]
        shared = np.zeros(len(runs), dtype=bool)
        for _, reached in walkers:
            shared[reached] = True
        where, run = where[shared[run]], run[shared[run]]
        lengths[where] = n + 1
    return np.split(lengths, sizes.cumsum()[:-1]) if rows else []


_NONE = np.empty(0, dtype=np.int64)


def _every_position(length: int) -> Iterator[Walkers]:
    for start in range(0, length, CHUNK):
        where = np.arange(start, min(start + CHUNK, length))
        yield where, np.zeros(len(where), dtype=np.int32)


def _step(
    where: np.ndarray, run: np.ndarray, training_tokens: np.ndarray, n: int, runs: np.ndarray, stranger: int
) -> Walkers:
    """Go on from runs of n tokens to those runs of n + 1 tokens that some sample has too."""
    inside = where + n < len(training_tokens)
    where, run = where[inside], run[inside]
    after = training_tokens[where + n].astype(np.int64)
    wanted = run * np.int64(stranger + 1) + np.minimum(after, stranger)
    found = np.minimum(runs.searchsorted(wanted), len(runs) - 1)
    shared = runs[found] == wanted
    return where[shared], found[shared].astype(np.int32)


def _checked(tokens: Sequence[int], name: str, *, empty: bool = False) -> np.ndarray:
    tokens = np.asarray(tokens)
    if empty and tokens.shape == (0,):
        return _NONE
    if tokens.ndim != 1 or len(tokens) == 0 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"{name} is {tokens.dtype} of shape {tokens.shape}; give one row of integer token ids")
    if tokens.min() < 0:
        raise ValueError(f"{name} has the id {tokens.min()}; token ids are 0 or more")
    return tokens
