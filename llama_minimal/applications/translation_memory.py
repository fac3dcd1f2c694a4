"""Translation without a model: a dictionary learned by counting, and a memory of translated sentences."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from llama_minimal.applications.base import Example
from llama_minimal.retrieval import Index

_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_LONGEST = 4  # units of an entry
_SURE = 0.4  # entries below this Dice coefficient are not said


def units(text: str) -> list[str]:
    """Return the words of a text in their order, and of Chinese the characters."""
    return _UNIT.findall(text)


class Dictionary:
    """Translate word by word, with entries that are learned from translated sentences by counting.

    A word's entry is the run of one to four units that is most often in the translations of the word's sentences, and
    seldom in others, by the Dice coefficient

        2 · n(word, run) / (n(word) + n(run)),

    where n counts sentences; of equals the longer run. Words without a sure entry are left out.

    Args:
        train: sentences with translations.
    """

    def __init__(self, train: Sequence[Example]) -> None:
        self.joint = "" if _is_chinese(train[0].answers[0]) else " "
        words, runs, both = Counter(), Counter(), defaultdict(Counter)
        for one in train:
            found = set(_runs(one.answers[0], self.joint))
            runs.update(found)
            for word in set(units(one.extra["source"])):
                words[word] += 1
                both[word].update(found)
        self.entries: dict[str, tuple[str, float]] = {}
        for word, counts in both.items():
            sure, _, run = max((2 * n / (words[word] + runs[run]), len(run), run) for run, n in counts.items())
            self.entries[word] = (run, sure)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Return a translation for each example."""
        return [self.translate(one.extra["source"]) for one in examples]

    def translate(self, text: str) -> str:
        """Return the sure entries of a text's words, in the order of the words, each once."""
        found = (self.entries.get(word, ("", 0.0)) for word in units(text))
        return self.joint.join(dict.fromkeys(run for run, sure in found if sure >= _SURE))


class Memory:
    """Give a sentence the translation of the training sentence that is most similar by BM25.

    With a dictionary, words that the two sentences do not share are exchanged in it, where both have a sure entry and
    the translation has that of the one.

    Args:
        train: sentences with translations.
        dictionary: None: the translation stays as it is.
    """

    def __init__(self, train: Sequence[Example], dictionary: Dictionary | None = None) -> None:
        self.train, self.dictionary = list(train), dictionary
        self.index = Index([one.extra["source"] for one in train], split=units)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Return a translation for each example."""
        return [self._translate(one.extra["source"]) for one in examples]

    def _translate(self, text: str) -> str:
        found = self.index.search(text, k=1)
        if not found:
            return ""
        translation = self.train[found[0].index].answers[0]
        for old, new in self._exchanges(units(found[0].text), units(text)) if self.dictionary else ():
            translation = translation.replace(old, new)
        return translation

    def _exchanges(self, before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
        entries = self.dictionary.entries
        for what, i, end, j, until in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if what == "replace" and end - i == until - j:
                for old, new in zip(before[i:end], after[j:until], strict=True):
                    (a, sure_a), (b, sure_b) = entries.get(old, ("", 0.0)), entries.get(new, ("", 0.0))
                    if min(sure_a, sure_b) >= _SURE:
                        yield a, b


def _is_chinese(text: str) -> bool:
    return bool(re.search(r"[\u3400-\u9fff]", text))


def _runs(text: str, joint: str) -> Iterator[str]:
    found = units(text)
    for n in range(1, _LONGEST + 1):
        yield from (joint.join(found[i : i + n]) for i in range(len(found) - n + 1))
