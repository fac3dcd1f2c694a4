"""What an example asks and answers, of which task it is, and which examples say nearly the same."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llama_minimal.data.duplicates import Duplicates
from llama_minimal.finetuning.kinds import Chat, Example, Labeled, Pair

# Answers are labels if there are at most so many, each of at most so many characters, and each given so often.
_MOST_LABELS, _LONGEST_LABEL, _LEAST_EACH = 50, 40, 5
_ROWS = 6  # values that two signatures must share in one place to be compared at all, as Duplicates does


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a list of examples asks for.

    Args:
        kind: ``labels``, ``pairs`` or ``chat``.
        labels: the answers, where there are few of them; the most frequent first. Of pairs this says that they are
            labels in disguise.
        sentence: what was recognized, in words.
    """

    kind: Literal["labels", "pairs", "chat"]
    labels: tuple[str, ...] = ()
    sentence: str


def recognize(examples: Sequence[Example]) -> Task:
    """Return what the examples ask for.

    Pairs with at most 50 different completions, of at most 40 characters, which come 5 times each on average, are
    labels in disguise: ``as_labels`` makes them what they are.

    Raises:
        ValueError: if there are none, or they are of several kinds.
    """
    kinds = Counter(type(example) for example in examples)
    if len(kinds) != 1:
        given = ", ".join(f"{n} {kind.__name__}" for kind, n in kinds.items()) or "none"
        raise ValueError(f"the examples are {given}; give a list of one kind, Pair, Chat or Labeled")
    if Chat in kinds:
        turns = sum(message["role"] == "assistant" for example in examples for message in example.messages)
        return Task(kind="chat", sentence=f"{len(examples):,} dialogues with {turns:,} answers of the assistant")
    answers = Counter(answer_of(example) for example in examples)
    labels = tuple(answer for answer, _ in answers.most_common())
    if Labeled in kinds:
        return Task(kind="labels", labels=labels, sentence=f"{len(examples):,} texts with {len(labels):,} labels")
    if _closed(answers):
        sentence = (
            f"{len(examples):,} prompts with only {len(labels)} different completions: labels in disguise, which a "
            "classification head learns with less"
        )
        return Task(kind="pairs", labels=labels, sentence=sentence)
    return Task(
        kind="pairs", sentence=f"{len(examples):,} prompts with completions, {len(labels):,} of which are different"
    )


def as_labels(examples: Iterable[Example]) -> list[Labeled]:
    """Return pairs as texts with labels: the completion, without white space around, is the label."""
    return [one if isinstance(one, Labeled) else Labeled(prompt_of(one), answer_of(one)) for one in examples]


def prompt_of(example: Example) -> str:
    """Return what stands before the answer; of a chat, all before the assistant's last turn."""
    if isinstance(example, Pair):
        return example.prompt
    if isinstance(example, Labeled):
        return example.text
    return "\n".join(message["content"] for message in example.messages[: _last_answer(example)])


def answer_of(example: Example) -> str:
    """Return the answer: a label as it is, else the completion or the assistant's last turn, without space around."""
    if isinstance(example, Labeled):
        return example.label
    return (
        example.completion if isinstance(example, Pair) else example.messages[_last_answer(example)]["content"]
    ).strip()


def plain(text: str) -> str:
    """Return a text as duplicates are compared: in small letters, with one space between words."""
    return " ".join(text.casefold().split())


class Groups:
    """Put things into groups, which grow together when any two of them belong together."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def join(self, a: int, b: int) -> None:
        """Make one group of the two in which ``a`` and ``b`` are."""
        a, b = self.of(a), self.of(b)
        self._parents[max(a, b)] = min(a, b)

    def join_equal(self, keys: Iterable[Hashable | None]) -> None:
        """Join all whose keys are equal, but for None."""
        first: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, i), i)

    def of(self, i: int) -> int:
        """Return the first member of the group of ``i``."""
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i

    def members(self) -> list[list[int]]:
        """Return the groups, each in order, in the order of their first members."""
        found = defaultdict(list)
        for i in range(len(self._parents)):
            found[self.of(i)].append(i)
        return list(found.values())


def exact_groups(examples: Sequence[Example]) -> Groups:
    """Group what is equal, prompt and answer, but for capital letters and white space."""
    groups = Groups(len(examples))
    groups.join_equal((plain(prompt_of(one)), plain(answer_of(one))) for one in examples)
    return groups


def near_groups(examples: Sequence[Example], *, threshold: float = 0.8) -> Groups:
    """Group what is nearly equal: runs of five words, of which a share of ``threshold`` or more is in both.

    What all prompts have in common at their beginning and end, such as an instruction, does not count.

    Source: as ``data.Duplicates``, whose signatures are compared; here each with each that agrees in six values.
    """
    texts = _without_common([prompt_of(one) for one in examples])
    sketch = Duplicates(threshold=threshold)
    groups = exact_groups(examples)
    signatures: dict[int, np.ndarray] = {}
    bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for group in groups.members():
        i = group[0]
        signature = sketch.signature(f"{texts[i]} {answer_of(examples[i])}")
        if signature is None:
            continue
        signatures[i] = signature
        for number, band in enumerate(signature.reshape(-1, _ROWS)):
            for other in bands[number, band.tobytes()]:
                if groups.of(other) != groups.of(i) and (signatures[other] == signature).mean() >= threshold:
                    groups.join(other, i)
            bands[number, band.tobytes()].append(i)
    return groups


def _without_common(texts: list[str]) -> list[str]:
    start = _n_common(texts)
    end = _n_common([text[start:][::-1] for text in texts])
    return [text[start : len(text) - end] for text in texts]


def _n_common(texts: list[str]) -> int:
    """Return with how many characters all texts begin; 0 if they are all the same."""
    first, last = min(texts, default=""), max(texts, default="")  # what these two share, all between them share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)


def _closed(answers: Counter[str]) -> bool:
    few = 2 <= len(answers) <= min(_MOST_LABELS, answers.total() // _LEAST_EACH)
    return few and max(map(len, answers)) <= _LONGEST_LABEL and not any("\n" in answer for answer in answers)


def _last_answer(example: Chat) -> int:
    return max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
