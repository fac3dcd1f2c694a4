"""N-gram language models: predicting by counting, the baseline that a neural model has to beat."""

# n tokens, V vocabulary, k length of an n-gram; h history, w the token after it

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEY_BITS = 63  # an n-gram is one non-negative int64, so that sorting and searching it is fast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NGram:
    """Predict each token from the ``order`` − 1 before it, with interpolated Kneser-Ney smoothing.

    p(w|h) = (max(c(hw) − D, 0) + D · types(h) · p(w|h′)) / Σ_w c(hw)

    The discount D that every seen n-gram pays goes to the shorter history h′, which lacks the oldest token of h;
    types(h) is how many different tokens follow h. After the shortest history comes the uniform 1/V. At the
    highest order c counts occurrences. Below it c counts the different tokens seen before hw: "Francisco" is
    frequent but follows only "San", so it is a poor guess after anything else.

    A history never reaches beyond the ``bos_id`` that its document starts with. An n-gram that has nothing before
    it, because it starts there, counts its occurrences at every order.

    Sources: Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Ney, Essen and Kneser 1994,
    "On structuring probabilistic dependences in stochastic language modelling" (the discount); Chen and Goodman
    1999, "An empirical study of smoothing techniques for language modeling" (the interpolated form); Heafield et
    al. 2013, "Scalable modified Kneser-Ney language model estimation" (the counts at a document's start).
    """

    order: int
    vocab_size: int
    bos_id: int | None
    unigram: np.ndarray  # (V,) p(w) without a history
    levels: "list[_Level]"  # for 2, 3, ... tokens; fewer than order − 1 if no document is that long

    @classmethod
    def train(cls, tokens: np.ndarray, *, order: int, vocab_size: int, bos_id: int | None = None) -> "NGram":
        """Count the n-grams of a stream. Order 1 is the frequency of each token, add-one smoothed.

        Args:
            tokens: (n,) token ids; a document is what lies between two ``bos_id``.
            order: length of the longest n-gram, 1 or more.
            bos_id: None if the stream is one document.
        """
        if order < 1:
            raise ValueError(f"order={order}; an n-gram has 1 token or more")
        if vocab_size < 1:
            raise ValueError(f"vocab_size={vocab_size}; give the number of different token ids, 1 or more")
        if bos_id is not None and not 0 <= bos_id < vocab_size:
            raise ValueError(f"bos_id={bos_id} is not a token id below vocab_size={vocab_size}; give one, or None")
        bits = _bits(vocab_size)
        if order * bits > KEY_BITS:
            raise ValueError(
                f"{order} tokens of {bits} bits (vocab_size={vocab_size}) do not fit the {KEY_BITS} bits of a key; "
                f"use order={KEY_BITS // bits} or less, or a smaller vocabulary"
            )
        packed, lengths = _windows(_checked(tokens, vocab_size), order, bits, bos_id)
        highest = int(lengths.max()) + 1
        keys, counts = np.unique(packed[lengths == highest - 1] & _mask(highest, bits), return_counts=True)
        levels = []
        for k in range(highest - 1, 0, -1):
            levels.insert(0, _Level.build(keys, counts, bits))
            # One vote from each different token before the n-gram, and one from each occurrence with none before it.
            votes = np.concatenate([keys & _mask(k, bits), packed[lengths == k - 1] & _mask(k, bits)])
            keys, counts = np.unique(votes, return_counts=True)
        unigram = _unigram(np.bincount(keys, counts, minlength=vocab_size), add_one=order == 1)
        return cls(order=order, vocab_size=vocab_size, bos_id=bos_id, unigram=unigram, levels=levels)

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Return the log-probability of each token but the first given its history, (n,) -> (n − 1,), in nats."""
        bits = _bits(self.vocab_size)
        packed, lengths = _windows(_checked(tokens, self.vocab_size), self.order, bits, self.bos_id)
        packed, lengths = packed[1:], lengths[1:]
        probability = self.unigram[packed & _mask(1, bits)]
        for k, level in enumerate(self.levels, start=2):
            rows = lengths >= k - 1
            probability[rows] = level.refine(packed[rows] & _mask(k, bits), probability[rows], bits)
        return np.log(probability)

    def next_probs(self, history: Sequence[int]) -> np.ndarray:
        """Return the probability of every token after a history of any length, (V,)."""
        history = [int(token) for token in history[max(0, len(history) - self.order + 1) :]]
        if not all(0 <= token < self.vocab_size for token in history):
            raise ValueError(f"history ends with {history}; ids must be at least 0 and below {self.vocab_size}")
        probability, bits, key = self.unigram.copy(), _bits(self.vocab_size), 0
        for distance, (token, level) in enumerate(zip(reversed(history), self.levels, strict=False)):
            key |= token << (bits * distance)
            if not level.spread(key, probability, bits):
                break  # as at a bos: no n-gram was counted across one
        return probability

    def sample(
        self,
        prompt: Sequence[int],
        n_tokens: int,
        *,
        rng: np.random.Generator,
        temperature: float = 1.0,
        stop_id: int | None = None,
    ) -> list[int]:
        """Draw up to ``n_tokens`` new ids after a prompt, without the prompt and without ``stop_id``.

        Temperature τ draws from p^(1/τ), normalized; 0 takes the most likely token.
        """
        if not 0 <= temperature < np.inf:
            raise ValueError(f"temperature={temperature}; give 0 (the most likely token) or a positive number")
        tokens = list(prompt)
        for _ in range(n_tokens):
            probability = self.next_probs(tokens)
            if temperature == 0:
                token = int(probability.argmax())
            else:
                cumulative = ((probability / probability.max()) ** (1 / temperature)).cumsum()
                # Without the last border, rounding cannot lead beyond the last token.
                token = int(cumulative[:-1].searchsorted(rng.random() * cumulative[-1], side="right"))
            if token == stop_id:
                break
            tokens.append(token)
        return tokens[len(prompt) :]


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The n-grams of one length: a sorted table, in which those with the same history stand together."""

    keys: np.ndarray  # (m,) packed n-grams, the oldest token in the highest bits
    counts: np.ndarray  # (m,) c(hw)
    histories: np.ndarray  # (r,) packed, sorted
    starts: np.ndarray  # (r + 1,) where each history's n-grams start in keys
    totals: np.ndarray  # (r,) Σ_w c(hw)
    discount: float  # D

    @classmethod
    def build(cls, keys: np.ndarray, counts: np.ndarray, bits: int) -> "_Level":
        histories, starts = np.unique(keys >> bits, return_index=True)
        totals = np.add.reduceat(counts, starts)
        starts = np.append(starts, len(keys))
        return cls(keys, counts.astype(np.uint32), histories, starts, totals, _discount(counts))

    def refine(self, keys: np.ndarray, lower: np.ndarray, bits: int) -> np.ndarray:
        """Return p(w|h) for n-grams hw, given p(w|h′); they are equal where h was never seen."""
        h, known = _find(self.histories, keys >> bits)
        hw, seen = _find(self.keys, keys)
        kept = np.where(seen, self.counts[hw] - self.discount, 0)
        types = self.starts[h + 1] - self.starts[h]
        return np.where(known, (kept + self.discount * types * lower) / self.totals[h], lower)

    def spread(self, history: int, lower: np.ndarray, bits: int) -> bool:
        """Turn p(·|h′) into p(·|h) in place, (V,); return whether h was ever seen."""
        h = int(self.histories.searchsorted(history))
        if h == len(self.histories) or self.histories[h] != history:
            return False
        followers = slice(self.starts[h], self.starts[h + 1])
        lower *= self.discount * (followers.stop - followers.start) / self.totals[h]
        lower[self.keys[followers] & _mask(1, bits)] += (self.counts[followers] - self.discount) / self.totals[h]
        return True


def _unigram(counts: np.ndarray, *, add_one: bool) -> np.ndarray:
    """Return p(w) from the counts of all V tokens, (V,)."""
    if add_one:
        return (counts + 1) / (counts.sum() + len(counts))
    discount = _discount(counts)
    kept = np.maximum(counts - discount, 0)
    return (kept + discount * np.count_nonzero(counts) / len(counts)) / counts.sum()


def _discount(counts: np.ndarray) -> float:
    """Return D = n₁ / (n₁ + 2n₂), where n_r is how many n-grams have the count r."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once and twice else 0.5  # D of 0 or 1 would forbid or forget too much


def _windows(tokens: np.ndarray, order: int, bits: int, bos_id: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return each token packed with the order − 1 before it, and how many of those its history may use, (n,) each."""
    packed = tokens.copy()
    for distance in range(1, order):
        packed[distance:] |= tokens[:-distance] << (bits * distance)
    position = np.arange(len(tokens))
    start = np.maximum.accumulate(np.where(tokens == (-1 if bos_id is None else bos_id), position, 0))
    start = np.append(0, start[:-1])  # a bos as a target still has the document before it as its history
    return packed, np.minimum(position - start, order - 1)


def _find(table: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each value stands in a sorted table, and whether it is there at all."""
    order = wanted.argsort()  # searches in rising order touch neighboring memory, which is many times faster
    found = np.empty(len(wanted), dtype=np.int64)
    found[order] = np.minimum(table.searchsorted(wanted[order]), len(table) - 1)
    return found, table[found] == wanted


def _bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def _mask(k: int, bits: int) -> int:
    return (1 << k * bits) - 1  # keeps the last k tokens of a packed n-gram


def _checked(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) == 0 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens is {tokens.dtype} of shape {tokens.shape}; give one non-empty row of integer ids")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"token ids run from {tokens.min()} to {tokens.max()}; "
            f"they must be at least 0 and below vocab_size={vocab_size}"
        )
    return tokens.astype(np.int64)
