"""Sums and copies over a ring of processes: each sends only to its right neighbor, and every byte is counted."""

# P processes, n numbers

from typing import NamedTuple

import numpy as np

from llama_minimal.reference._types import Array

Pieces = list[list[Array]]  # [rank][piece]


class Collective(NamedTuple):
    """What each rank holds in the end, and the bytes that it sent."""

    arrays: list[Array]
    sent: list[int]
    states: list[Pieces]  # before the first exchange and after each


def all_reduce(arrays: list[Array]) -> Collective:
    """Give every rank the sum of all arrays: reduce-scatter, then all-gather.

    Each rank sends 2(P − 1)/P of an array's bytes (with pieces of unequal size, a piece more or less), and all send
    exactly 2(P − 1) arrays.

    Args:
        arrays: one for each rank, of one shape and dtype.

    Returns:
        The sums, in the arrays' shape; their last bits may differ from those of a sum in the order of the ranks.

    Raises:
        ValueError: if there is no array, or they differ in shape or dtype.

    Source: Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
    """
    first = reduce_scatter(arrays)
    second = all_gather(first.arrays)
    sums = [whole.reshape(arrays[0].shape) for whole in second.arrays]
    sent = [a + b for a, b in zip(first.sent, second.sent, strict=True)]
    return Collective(sums, sent, first.states + second.states)


def reduce_scatter(arrays: list[Array]) -> Collective:
    """Give rank r the r-th piece of the sum of all arrays, cut as ``np.array_split`` cuts.

    In exchange s = 0 … P − 2, rank r sends piece r − 1 − s (modulo P) to rank r + 1, which adds it to its own. So
    piece c starts at rank c + 1, collects a term at every rank, and arrives, complete, at rank c.

    Args:
        arrays: one for each rank, of one shape and dtype; flattened before they are cut.

    Returns:
        P one-dimensional pieces.

    Raises:
        ValueError: if there is no array, or they differ in shape or dtype.
    """
    _check_alike(arrays)
    pieces = [np.array_split(array.ravel(), len(arrays)) for array in arrays]
    sent, states = [0] * len(arrays), [_copy(pieces)]
    for s in range(len(arrays) - 1):
        for left, c, piece in _outgoing(pieces, first=s + 1, sent=sent):
            right = (left + 1) % len(arrays)
            pieces[right][c] = pieces[right][c] + piece
        states.append(_copy(pieces))
    return Collective([pieces[rank][rank] for rank in range(len(arrays))], sent, states)


def all_gather(parts: list[Array]) -> Collective:
    """Give every rank all parts, joined in the order of the ranks.

    In exchange s = 0 … P − 2, rank r sends part r − s (modulo P) to rank r + 1, which keeps a copy.

    Args:
        parts: one for each rank, one-dimensional, of any sizes and of one dtype.

    Returns:
        P copies of the whole, one-dimensional.

    Raises:
        ValueError: if there is no part, or they differ in dtype.
    """
    _check_alike(parts, shapes=False)
    unknown = [np.zeros_like(part) for part in parts]
    pieces = [[part if c == rank else unknown[c] for c, part in enumerate(parts)] for rank in range(len(parts))]
    sent, states = [0] * len(parts), [_copy(pieces)]
    for s in range(len(parts) - 1):
        for left, c, piece in _outgoing(pieces, first=s, sent=sent):
            pieces[(left + 1) % len(parts)][c] = piece
        states.append(_copy(pieces))
    return Collective([np.concatenate(row) for row in pieces], sent, states)


def _outgoing(pieces: Pieces, *, first: int, sent: list[int]) -> list[tuple[int, int, Array]]:
    """Return what all ranks send at the same time, (rank, piece's number, piece): rank r sends piece r − first."""
    outgoing = []
    for rank, row in enumerate(pieces):
        c = (rank - first) % len(pieces)
        sent[rank] += row[c].nbytes
        outgoing.append((rank, c, row[c]))
    return outgoing


def _copy(pieces: Pieces) -> Pieces:
    return [[piece.copy() for piece in row] for row in pieces]


def _check_alike(arrays: list[Array], *, shapes: bool = True) -> None:
    if not arrays:
        raise ValueError("a collective needs an array for each rank, and was given none")
    kinds = {(array.shape if shapes else array.ndim, array.dtype.name) for array in arrays}
    if len(kinds) > 1 or (not shapes and arrays[0].ndim != 1):
        wanted = "of one shape and dtype" if shapes else "one-dimensional and of one dtype"
        raise ValueError(f"the arrays of all ranks must be {wanted}; these are {sorted(map(str, kinds))}")
