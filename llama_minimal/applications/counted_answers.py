"""Answers found by counting: what answered such questions before, and stands in the story."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import log

from llama_minimal.applications.base import Example, Predictor

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r'[^.!?]+[.!?]*"?')
_CLOSED = frozenset(("Yes.", "No.", "The story does not say."))
_COMMON = frozenset(
    "a an the did do does was were is are had of to in at by and on up under for with it he she his her they".split()
)


def most_common(train: Sequence[Example]) -> Predictor:
    """Return what answers with the answer that questions of the same first two words had most often."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for one in train:
        for words in (2, 1, 0):
            counts[_start(one.extra["question"], words)][one.answers[0]] += 1

    def predict(examples: Sequence[Example]) -> list[str]:
        return [_first_known(counts, one.extra["question"]).most_common(1)[0][0] for one in examples]

    return predict


def nearest_words(train: Sequence[Example]) -> Predictor:
    """Return what takes an answer seen in training from the sentence that shares most words with the question.

    Of several in the sentence, it is the one that such questions had most often; without any, the next sentence counts.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for one in train:
        for words in (2, 1, 0):
            counts[_start(one.extra["question"], words)][masked(one.answers[0])] += 1

    def predict(examples: Sequence[Example]) -> list[str]:
        found = []
        for one in examples:
            story, known = Reading(one), _first_known(counts, one.extra["question"])
            options = [text for text in (*story.names, *counts[""]) if story.best(text) >= 0 and not story.asks(text)]
            found.append(max(options, key=lambda text: (story.best(text), known[masked(text)]), default=""))
        return found

    return predict


def masked(text: str) -> str:
    """Return a text with NAME for every name: answers and questions that differ in names alone are counted as one."""
    return re.sub(r"\b(?!The\b|Yes\b|No\b|Valley\b)[A-Z][a-z]+\b", "NAME", text)


def masked_question(question: str) -> str:
    """Return a question with NAME for every name; its first word has a capital without being one."""
    first, space, rest = question.partition(" ")
    return first + space + masked(rest)


class Reading:
    """Look up in a story what a rule of counting asks for.

    Args:
        example: a question with its story.
    """

    def __init__(self, example: Example) -> None:
        self.story, self.question = example.extra["story"], example.extra["question"]
        self.words = _words(self.story)

    @cached_property
    def names(self) -> list[str]:
        """The names in the story: capitalized words that do not only begin a sentence."""
        inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?=\b)", self.story)
        return sorted(set(inside) - {"Valley"})

    @cached_property
    def sentences(self) -> list[tuple[frozenset[str], int]]:
        """The words of each sentence, and how many of them the question has."""
        asked = _words(self.question)
        return [(words, len(asked & words)) for words in map(_words, _SENTENCE.findall(self.story))]

    def best(self, text: str) -> int:
        """Return the most words of the question that a sentence with this answer has; −1 if none has the answer."""
        words = _words(text)
        return max((shared for sentence, shared in self.sentences if words and words <= sentence), default=-1)

    @cached_property
    def missing(self) -> int:
        """The number of the question's words, 0 to 3, that the story does not have."""
        return min(3, len(_words(self.question.partition(" ")[2]) - self.words))

    def asks(self, text: str) -> bool:
        """Return whether the question itself has the words of an answer."""
        return _words(text) <= _words(self.question)

    def rank(self, text: str) -> int:
        """Return the place, 0 to 3, of a text's best sentence among the sentences by shared words; 4 if in none."""
        best = self.best(text)
        return 4 if best < 0 else min(3, sum(shared > best for _, shared in self.sentences))


class CountedAnswers:
    """Choose among possible answers by naive Bayes, in two steps: what sort of answer, and which.

    The sorts are yes, no, that the story does not say, and all others: log n(sort) + Σ_f log P(f | sort) decides by the
    pattern of the question, and by how many of its words the story lacks. Then each candidate c has the score

        Σ_f log (right(f) + 1/50) / (wrong(f) + 2)

    right(f) and wrong(f) count how often a candidate with the feature f was the answer in training. Candidates are the
    training answers whose words stand in the story, with the names of the story in the place of their own. Features
    are: its shape after such a question, how near it is to the question's words, and whether the question names it.

    Args:
        train: questions with their stories and answers.
    """

    def __init__(self, train: Sequence[Example]) -> None:
        self.shapes = dict.fromkeys(masked(one.answers[0]) for one in train if one.answers[0] not in _CLOSED)
        self.words = {shape: _words(shape.replace("NAME", "")) for shape in self.shapes}
        used = Counter(word for one in train for word in set(masked_question(one.extra["question"]).split()))
        self.usual = Counter({word: n for word, n in used.items() if n >= max(2, len(train) // 200)})
        self.sorts, self.hints = Counter(), Counter()
        self.right, self.all = Counter(), Counter()
        for one in train:
            answer, reading = one.answers[0], Reading(one)
            sort = answer if answer in _CLOSED else ""
            self.sorts[sort] += 1
            self.hints.update((sort, hint) for hint in self._hints(reading))
            for candidate, features in () if sort else self._candidates(reading):
                self.all.update(features)
                self.right.update(features if candidate == answer else ())

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Return an answer for each example."""
        return [self._answer(Reading(one)) for one in examples]

    def _answer(self, reading: Reading) -> str:
        sort = max(self.sorts, key=lambda sort: self._likely(sort, self._hints(reading)))
        scored = [(sum(map(self._weight, features)), text) for text, features in self._candidates(reading)]
        return sort or max(scored, default=(0.0, ""))[1]

    def _likely(self, sort: str, hints: list[tuple]) -> float:
        n = self.sorts[sort]
        return log(n) + sum(log((self.hints[sort, hint] + 0.1) / (n + 1)) for hint in hints)

    def _weight(self, feature: tuple) -> float:
        right = self.right[feature]
        return log((right + 0.02) / (self.all[feature] - right + 2))

    def _hints(self, reading: Reading) -> list[tuple]:
        return [("pattern", self._pattern(reading.question)), ("missing", reading.missing)]

    def _pattern(self, question: str) -> str:
        """Return a question with * for names and for the words that few questions have."""
        return " ".join(word if self.usual[word] else "*" for word in masked_question(question).split())

    def _candidates(self, reading: Reading) -> Iterator[tuple[str, list[tuple]]]:
        pattern = self._pattern(reading.question)
        for shape in self.shapes:
            if not self.words[shape] <= reading.words and not self.right["pattern", pattern, shape]:
                continue
            for name in reading.names if "NAME" in shape else ("",):
                text = shape.replace("NAME", name)
                yield (
                    text,
                    [
                        ("pattern", pattern, shape),
                        ("begin", pattern, shape.split()[0]),
                        ("near", pattern, reading.rank(text)),
                        ("asked", pattern, reading.asks(text)),
                    ],
                )


def _words(text: str) -> frozenset[str]:
    """Return the words of a text that say something."""
    return frozenset(_WORD.findall(text.lower())) - _COMMON


def _start(question: str, words: int) -> str:
    return " ".join(masked_question(question).split()[:words])


def _first_known(counts: dict[str, Counter], question: str) -> Counter:
    return next(counts[start] for start in (_start(question, words) for words in (2, 1, 0)) if start in counts)
