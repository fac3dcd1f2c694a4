"""Reports without a model: the nearest one seen, and rules learned by counting what stands around each field."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from llama_minimal.applications.base import Example, Predictor
from llama_minimal.applications.numbers import in_digits
from llama_minimal.data.valley.english import number
from llama_minimal.retrieval import Index

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SKIPPED = frozenset(("a", "an", "the", "coin", "coins", "pair", "of"))
_LONGEST = 14  # words of a value
_SALE = "sale"
_TEXT = re.compile(r"\n\n(?!Fields)\w+:\Z")  # how a prompt for a report's text ends


def tokens(text: str) -> list[str]:
    """Return the words and signs of a text, numbers as digits, without words that only join."""
    return [word for word in _TOKEN.findall(in_digits(text)) if word.lower() not in _SKIPPED]


def content_words(text: str) -> list[str]:
    """Return the words of a text in lower case, numbers as digits, without words that only join."""
    return [word.lower() for word in tokens(text) if word.isalnum()]


def is_within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Return whether the words of a part come in the whole in the same order."""
    rest = iter(whole)
    return all(word in rest for word in part)


def nearest_report(train: Sequence[Example]) -> Predictor:
    """Return what copies the answer of the training prompt that is most similar by BM25."""
    index = Index([one.prompt for one in train])

    def predict(examples: Sequence[Example]) -> list[str]:
        found = [index.search(one.prompt, k=1) for one in examples]
        return [train[best[0].index].answers[0] if best else "" for best in found]

    return predict


class FieldRules:
    """Find the value of a field between the words that stood around it in training.

    A rule is a field with two words before its value and the word after it. Of all values that the rules find, the one
    counts whose rules were right most often: Σ right² / used. Sales may be several, in the order of the text. Fields
    that no rule finds take their most common value, if nine of ten such reports have the field. A report's text is that
    of the training report with the same fields and the most values in common, with the others replaced.

    Args:
        train: reports, in all directions.
    """

    def __init__(self, train: Sequence[Example]) -> None:
        self.records = [one for one in train if not _TEXT.search(one.prompt)]
        self.texts = [one for one in train if _TEXT.search(one.prompt)]
        self.nearest = Index([one.prompt for one in self.records])
        self.surface: dict[str, str] = {}  # a value's words -> the value
        self.right: dict[tuple, Counter] = defaultdict(Counter)  # two words before -> (word after, field) -> times
        self.used: Counter = Counter()
        self.usual: dict[tuple, Counter] = defaultdict(Counter)  # style and field -> values
        read = [(tokens(one.extra["source"]), one.extra["fields"]) for one in self.records]
        for words, fields in read:
            self._learn(words, fields)
        for words, _ in read:
            self.used.update((left, right, field) for left, right, field, *_ in self._matches(words))

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Return a report for each example."""
        return [self._text(one) if _TEXT.search(one.prompt) else self._record(one) for one in examples]

    def _learn(self, words: list[str], fields: dict[str, str]) -> None:
        style = next(iter(fields))
        padded = ["^", "^", *words, "$"]
        for name, value in fields.items():
            field = name.split()[0] if name.startswith(_SALE) else name
            wanted = tokens(value)
            self.surface[" ".join(wanted)] = value
            self.usual[style, field][value] += 1
            for i in range(2, len(padded) - len(wanted)):
                if wanted and padded[i : i + len(wanted)] == wanted:
                    left, right = _masked(padded[i - 2 : i]), padded[i + len(wanted)]
                    self.right[left][right, field] += 1
        self.usual[style, ""][""] += 1

    def _matches(self, words: list[str]) -> Iterator[tuple[tuple, str, str, int, int]]:
        padded = ["^", "^", *words, "$"]
        for i in range(2, len(padded) - 1):
            left = _masked(padded[i - 2 : i])
            for right, field in self.right.get(left, ()):
                window = padded[i + 1 : i + 1 + _LONGEST]
                end = i + 1 + window.index(right) if right in window else i
                if end > i and all(word.isalnum() for word in padded[i:end]):
                    yield left, right, field, i, end

    def _record(self, example: Example) -> str:
        words = tokens(example.extra["source"])
        padded = ["^", "^", *words, "$"]
        votes: dict[str, Counter] = defaultdict(Counter)
        for left, right, field, start, end in self._matches(words):
            right_times = self.right[left][right, field]
            place = (start, " ".join(padded[start:end]))
            votes[field][place if field == _SALE else place[1]] += right_times**2 / self.used[left, right, field]
        found = self.nearest.search(example.prompt, k=1)
        style = next(iter(self.records[found[0].index].extra["fields"])) if found else ""
        lines = []
        for _, field in [key for key in self.usual if key[0] == style and key[1]]:
            lines += self._lines(style, field, votes[field])
        return "\n".join(lines)

    def _lines(self, style: str, field: str, votes: Counter) -> list[str]:
        if field == _SALE:
            likely = sorted(place for place, weight in votes.items() if weight >= 1 and len(place[1].split()) == 5)
            return [f"{_SALE} {i}: {self.surface.get(text, text)}" for i, (_, text) in enumerate(likely, start=1)]
        if votes:
            best = votes.most_common(1)[0][0]
            return [f"{field}: {self.surface.get(best, best)}"]
        if self.usual[style, field].total() < 0.9 * self.usual[style, ""].total():
            return []
        return [f"{field}: {self.usual[style, field].most_common(1)[0][0]}"]

    def _text(self, example: Example) -> str:
        fields = example.extra["fields"]
        same = [one for one in self.texts if one.extra["fields"].keys() == fields.keys()] or self.texts
        if not same:
            return ""
        best = max(same, key=lambda one: sum(one.extra["fields"].get(name) == value for name, value in fields.items()))
        text = best.answers[0]
        changes: dict[str, str] = {}
        for name, old in best.extra["fields"].items():
            for before, after in zip(_parts(old), _parts(fields.get(name, old)), strict=False):
                changes.setdefault(before, after)
        pattern = "|".join(sorted(map(re.escape, changes), key=len, reverse=True))
        return re.sub(rf"\b(?:{pattern})\b", lambda match: changes[match[0]], text)


def _masked(words: list[str]) -> tuple[str, ...]:
    return tuple("NAME" if word[0].isupper() and len(word) > 2 else word for word in words)


def _parts(value: str) -> list[str]:
    """Return a value in the parts that a text may have apart: numbers in words, names, and the rest."""
    parts = re.split(r" (?:to|for|and) ", value)
    return [number(int(part)) if part.isdigit() and int(part) < 36 else part for part in parts]
