"""Find the sentences of a collection that a question is about: tf-idf and BM25."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import fsum, log, sqrt
from typing import Literal, NamedTuple

# Chinese characters and kana, which are written without spaces; and runs of other letters and digits.
_CJK = "\u3005\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(f"([{_CJK}]+)|([^\\W_{_CJK}]+)")


class Match(NamedTuple):
    """A sentence that was found."""

    index: int
    """Its place in the collection, from 0."""
    score: float
    text: str


class Index:
    """Rank sentences by the terms that they share with a query.

    With n_t of N sentences that have the term t, and f times t in a sentence of d terms (d̄ on average):

    BM25:    Σ_t q_t · ln(1 + (N − n_t + ½) / (n_t + ½)) · f / (f + k1 · (1 − b + b · d/d̄))
    tf-idf:  cosine of the vectors q_t · w_t of the query and f · w_t of the sentence, w_t = ln((1 + N) / (1 + n_t)) + 1

    q_t counts t in the query. A rare term counts more, and in BM25 a term that comes again counts less each time and
    counts less in a long sentence. Both weights of a term are above 0, however common it is: with Robertson's
    ln((N − n_t + ½) / (n_t + ½)), a sentence that has a term of most sentences would lose by it.

    Args:
        sentences: the collection; none is a collection too, in which nothing is found.
        method: ``bm25`` or ``tfidf``.
        k1: how soon a term that comes again stops to count; 0 means at once.
        b: how much the length of a sentence matters, 0 to 1.
        split: text -> its terms, with repetitions.

    Raises:
        ValueError: if the sentences are one text, or an argument is out of range.

    Sources: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", section 3.4; the 1
    inside the logarithm is that of Lucene's BM25Similarity, which also leaves out the constant factor k1 + 1. The
    tf-idf is that of scikit-learn's TfidfVectorizer with its defaults.
    """

    def __init__(
        self,
        sentences: Iterable[str],
        *,
        method: Literal["bm25", "tfidf"] = "bm25",
        k1: float = 1.2,
        b: float = 0.75,
        split: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        if isinstance(sentences, str):
            raise ValueError("sentences is one text; give a list of sentences")
        if method not in ("bm25", "tfidf"):
            raise ValueError(f"method={method!r} is not one of bm25, tfidf")
        if not (k1 >= 0 and 0 <= b <= 1):
            raise ValueError(f"k1={k1} must be 0 or more, and b={b} must be between 0 and 1")
        self.sentences = list(sentences)
        self.method = method
        self._split = terms if split is None else split
        counts = [Counter(self._split(_text(sentence))) for sentence in self.sentences]
        n_with = Counter(term for each in counts for term in each)
        weigh = _tfidf if method == "tfidf" else lambda counts, n_with: _bm25(counts, n_with, k1, b)
        self._term_weights, rows = weigh(counts, n_with)
        # term -> where it occurs, and what it is worth there
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for i, row in enumerate(rows):
            for term, weight in row.items():
                self._postings[term].append((i, weight))

    def search(self, query: str, k: int = 5) -> list[Match]:
        """Return the ``k`` best sentences, the best first; of equals, the earlier first.

        A sentence without any term of the query is not among them, so there may be fewer, or none.

        Raises:
            ValueError: if the query is no text, or k is below 1.
        """
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        counts = Counter(term for term in self._split(_text(query)) if term in self._postings)
        found: dict[int, list[float]] = defaultdict(list)
        for term, n in counts.items():
            for i, weight in self._postings[term]:
                found[i].append(n * self._term_weights[term] * weight)
        # A cosine asks for the query's length too. fsum: equal sentences stay equal, in whatever order terms come.
        length = sqrt(fsum((n * self._term_weights[term]) ** 2 for term, n in counts.items()))
        norm = length if self.method == "tfidf" else 1.0
        scores = sorted((-fsum(parts) / norm, i) for i, parts in found.items())
        return [Match(i, -score, self.sentences[i]) for score, i in scores[:k]]


def terms(text: str) -> list[str]:
    """Return the terms of a text: its words in lower case; of Chinese, each character and each pair of neighbors.

    Example: "Bo's 2 Hats" gives bo, s, 2, hats; "小羊驼" gives 小, 羊, 驼, 小羊, 羊驼. Full-width letters are read as
    the usual ones. A pair tells words from characters that stand together by chance, and a single character still
    finds the words in which it is.
    """
    found: list[str] = []
    for run, word in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold()):
        found += [word] if word else [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
    return found


def _bm25(counts: list[Counter], n_with: Counter, k1: float, b: float) -> tuple[dict[str, float], list[dict]]:
    """Return the weight of every term, and what each is worth in each sentence."""
    lengths = [each.total() for each in counts]
    mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
    rarity = {term: log(1 + (len(counts) - n + 0.5) / (n + 0.5)) for term, n in n_with.items()}
    rows = []
    for each, length in zip(counts, lengths, strict=True):
        half = k1 * (1 - b + b * length / mean)  # so many occurrences are worth half of infinitely many
        rows.append({term: f / (f + half) for term, f in each.items()})
    return rarity, rows


def _tfidf(counts: list[Counter], n_with: Counter) -> tuple[dict[str, float], list[dict]]:
    """Return the weight of every term, and the unit vector of each sentence."""
    rarity = {term: log((1 + len(counts)) / (1 + n)) + 1 for term, n in n_with.items()}
    rows = []
    for each in counts:
        length = sqrt(fsum((f * rarity[term]) ** 2 for term, f in each.items()))
        rows.append({term: f * rarity[term] / length for term, f in each.items()})
    return rarity, rows


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; sentences and queries are texts")
    return value
