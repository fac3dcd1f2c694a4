"""Encode each different piece of a text once: few pieces make up most of it (Zipf's law)."""

from collections.abc import Callable, Iterable
from itertools import chain

_SIZE = 1 << 17


class PieceCache(dict[str, list[int]]):
    """Remember the ids of pieces.

    Args:
        encode: gives the ids of a piece that was not met before.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, piece: str) -> list[int]:
        """Encode a piece, and remember it."""
        # A cache emptied now and then is soon useful again.
        if len(self) >= _SIZE:
            self.clear()
        ids = self[piece] = self.encode(piece)
        return ids

    def ids(self, pieces: Iterable[str]) -> list[int]:
        """Return the ids of pieces, one after another."""
        return list(chain.from_iterable(map(self.__getitem__, pieces)))
