"""Byte-pair encoding, the algorithm: the most frequent pair of neighbors becomes a token, again and again.

Sennrich et al. 2016 (algorithm 1), on bytes instead of characters as in GPT-2 (Radford et al. 2019, §2.2).
"""

import heapq
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]

N_BYTES = 256
LARGEST_VOCABULARY = sys.maxunicode + 1  # see ``_Pieces``


def merge_pair(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of ``pair``, from left to right, by ``new_id``.

    Example:
        >>> merge_pair([1, 1, 1, 2], (1, 1), 256)
        [256, 1, 2]
    """
    left, right = pair
    last = len(ids) - 1
    merged = []
    i = 0
    while i <= last:
        if ids[i] == left and i < last and ids[i + 1] == right:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def encode_piece(piece: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """Merge the bytes of one piece in the order in which the merges were learned.

    Args:
        piece: bytes of one piece.
        ranks: pair -> id of the token that it became; a smaller id was learned earlier.
    """
    ids = list(piece)
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: ranks.get(pair, float("inf")))
        if pair not in ranks:
            break
        ids = merge_pair(ids, pair, ranks[pair])
    return ids


def learn_merges(
    piece_counts: Mapping[bytes, int], n_merges: int, *, progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Learn up to ``n_merges`` merges: again and again the most frequent pair becomes a token.

    The n-th pair becomes id 256 + n. Of equally frequent pairs the smallest wins, so the result depends on the
    counts alone. It stops early when no pair occurs twice. Only the neighbors of a merged pair are counted again.

    Args:
        piece_counts: bytes of a piece -> how often it occurs.
        progress: called with (merges learned, merges wanted).
    """
    pieces = _Pieces(piece_counts)
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pair = pieces.most_frequent_pair()
        if pair is None:
            break
        pieces.merge(pair, chr(N_BYTES + len(merges)))
        merges.append((ord(pair[0]), ord(pair[1])))
        if progress is not None:
            progress(len(merges), n_merges)
    return merges


class _Pieces:
    """The pieces as they are merged so far, with the count of every neighboring pair kept up to date.

    A piece is a string of ids, ``chr(id)`` for each; a pair is two of them. So Python's own ``split`` finds a pair,
    from left to right as ``merge_pair`` does, and strings compare as their ids do.
    """

    def __init__(self, piece_counts: Mapping[bytes, int]) -> None:
        self.pieces = [piece.decode("latin-1") for piece in piece_counts]  # each byte as chr(byte)
        self.piece_counts = list(piece_counts.values())
        self.pair_counts: defaultdict[str, int] = defaultdict(int)
        # May name a piece that has lost the pair since; merging then changes nothing there.
        self.found_in: defaultdict[str, set[int]] = defaultdict(set)
        for index, piece in enumerate(self.pieces):
            for pair in map("".join, pairwise(piece)):
                self.pair_counts[pair] += self.piece_counts[index]
                self.found_in[pair].add(index)
        self.queue = [(-count, pair) for pair, count in self.pair_counts.items()]
        heapq.heapify(self.queue)

    def most_frequent_pair(self) -> str | None:
        """Return the pair with the highest count, the smallest of equals; None if no pair occurs twice."""
        while self.queue:
            negative, pair = heapq.heappop(self.queue)
            count = self.pair_counts[pair]
            if count == -negative:
                return pair if count > 1 else None
            # A count only falls after its pair was queued. So put the pair back where it belongs now.
            if count > 1:
                heapq.heappush(self.queue, (-count, pair))
        return None

    def merge(self, pair: str, new: str) -> None:
        """Merge ``pair`` wherever it occurs, and queue the pairs that ``new`` now forms with its neighbors."""
        fresh: set[str] = set()
        for index in self.found_in.pop(pair):
            count, parts = self.piece_counts[index], self.pieces[index].split(pair)
            self.pieces[index] = new.join(parts)
            for lost, found in _changed_pairs(parts, pair, new):
                self.pair_counts[lost] -= count
                self.pair_counts[found] += count
                self.found_in[found].add(index)
                fresh.add(found)
        del self.pair_counts[pair]
        # Their counts are final only now that every piece is merged.
        for found in fresh:
            heapq.heappush(self.queue, (-self.pair_counts[found], found))


def _changed_pairs(parts: Sequence[str], pair: str, new: str) -> Iterator[tuple[str, str]]:
    """Yield (pair before, pair after) for each neighbor of ``pair``, which stands between the parts of a piece."""
    left, right = pair
    last = len(parts) - 1
    for i, part in enumerate(parts):
        if part and i > 0:
            yield right + part[0], new + part[0]
        if part and i < last:
            yield part[-1] + left, part[-1] + new
        if not part and 0 < i < last:  # two in a row
            yield right + left, new + new
