"""What a model has to beat: the most frequent label, naive Bayes, the answer to the most similar prompt."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from math import log

from llama_minimal.retrieval import Index, terms


class Majority:
    """Give every text the most frequent label; of equals, the first.

    Raises:
        ValueError: if there are no labels.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        if not labels:
            raise ValueError("there are no labels; give at least one")
        self.label = Counter(labels).most_common(1)[0][0]

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return a label for each text."""
        return [self.label] * len(texts)


class NaiveBayes:
    """Count which terms each label has, and give a text the label under which it is most likely.

    label(text) = argmax_y log(n_y / n) + Σ_t f_t · log((c_ty + α) / (Σ_u c_uy + α·|V|))

    n_y of n texts have the label y, and c_ty times the term t is in them; f_t counts it in the text. Terms that are in
    no text that was counted, the vocabulary V, are left out. "Naive": as if each term were drawn on its own.

    Args:
        texts, labels: as many of each.
        smoothing: α, how often each term counts as seen beforehand, above 0.
        split: text → its terms.

    Raises:
        ValueError: if there are not as many labels as texts, or none, or α is not above 0.

    Source: Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 13.2.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        smoothing: float = 1.0,
        split: Callable[[str], Sequence[str]] = terms,
    ) -> None:
        _check_as_many("labels", texts, labels)
        if not 0 < smoothing < float("inf"):
            raise ValueError(f"smoothing={smoothing} must be above 0, such as 1.0")
        self._split = split
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(split(text))
        self._vocabulary = {term for each in counts.values() for term in each}
        priors = Counter(labels)
        self._priors = {label: log(priors[label] / len(labels)) for label in counts}
        # label → term → log of its probability; None: of a term that the label does not have
        self._logs: dict[str, dict[str | None, float]] = {}
        for label, each in counts.items():
            total = each.total() + smoothing * len(self._vocabulary)
            self._logs[label] = {term: log((n + smoothing) / total) for term, n in each.items()}
            self._logs[label][None] = log(smoothing / total) if total else 0.0

    def scores(self, text: str) -> dict[str, float]:
        """Return for each label the logarithm of its probability together with the text's terms."""
        found = Counter(term for term in self._split(text) if term in self._vocabulary)
        return {
            label: prior + sum(n * self._logs[label].get(term, self._logs[label][None]) for term, n in found.items())
            for label, prior in self._priors.items()
        }

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return a label for each text; of equals, the one that came first."""
        all_scores = map(self.scores, texts)
        return [max(scores, key=scores.__getitem__) for scores in all_scores]


class NearestPrompt:
    """Give each prompt the answer to the known prompt that is most similar by BM25; to none similar, the commonest.

    Raises:
        ValueError: if there are not as many answers as prompts, or none.
    """

    def __init__(self, prompts: Sequence[str], answers: Sequence[str]) -> None:
        _check_as_many("answers", prompts, answers)
        self._answers = list(answers)
        self._index = Index(prompts)
        self._usual = Majority(self._answers)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return an answer for each prompt."""
        found = [self._index.search(text, k=1) for text in texts]
        return [self._answers[best[0].index] if best else self._usual.label for best in found]


def _check_as_many(what: str, texts: Sequence[str], others: Sequence[str]) -> None:
    if isinstance(texts, str) or len(texts) != len(others) or not texts:
        given = "a single text was given" if isinstance(texts, str) else f"{len(others)} {what} for {len(texts)} texts"
        raise ValueError(f"{given}; give two lists of the same length, of one or more")
