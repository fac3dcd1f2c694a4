"""Byte-pair encoding, the algorithm: the most frequent pair of neighbors becomes a token, again and again.

Sennrich et al. 2016 (algorithm 1), on bytes instead of characters as in GPT-2 (Radford et al. 2019, §2.2).
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]

N_BYTES = 256


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
    counts alone. It stops early when no pair occurs twice. Only pieces that hold the merged pair are counted again.

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
        pieces.merge(pair, N_BYTES + len(merges))
        merges.append(pair)
        if progress is not None:
            progress(len(merges), n_merges)
    return merges


class _Pieces:
    """The pieces as they are merged so far, with the count of every neighboring pair kept up to date."""

    def __init__(self, piece_counts: Mapping[bytes, int]) -> None:
        self.pieces = [list(piece) for piece in piece_counts]
        self.piece_counts = list(piece_counts.values())
        self.pair_counts: Counter[Pair] = Counter()
        # May name a piece that has lost the pair since; merging then changes nothing there.
        self.found_in: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, piece in enumerate(self.pieces):
            self._count(piece, index, self.piece_counts[index])
        self.queue = [(-count, pair) for pair, count in self.pair_counts.items()]
        heapq.heapify(self.queue)

    def most_frequent_pair(self) -> Pair | None:
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

    def merge(self, pair: Pair, new_id: int) -> None:
        """Merge ``pair`` wherever it occurs, and queue the pairs that ``new_id`` now forms with its neighbors."""
        fresh: set[Pair] = set()
        for index in self.found_in.pop(pair):
            before, count = self.pieces[index], self.piece_counts[index]
            after = merge_pair(before, pair, new_id)
            for old in pairwise(before):
                self.pair_counts[old] -= count
            self._count(after, index, count)
            fresh.update(found for found in pairwise(after) if new_id in found)
            self.pieces[index] = after
        # Their counts are final only now that every piece is merged.
        for found in fresh:
            heapq.heappush(self.queue, (-self.pair_counts[found], found))

    def _count(self, piece: list[int], index: int, count: int) -> None:
        for pair in pairwise(piece):
            self.pair_counts[pair] += count
            self.found_in[pair].add(index)
