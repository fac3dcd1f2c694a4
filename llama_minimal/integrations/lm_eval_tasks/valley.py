"""The examples of the tasks in this folder: made from the Valley's records, without a download and without a file.

Each function gives lm-eval the parts of a task: ``test`` to ask about, and ``train`` to take few-shot examples from,
of stories that have no text in common.
"""

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any
from zlib import crc32

from llama_minimal.applications import Example, application
from llama_minimal.applications.base import split_stories
from llama_minimal.data.valley.phrasebook import phrasebook
from llama_minimal.data.valley.story import Story

Row = dict[str, Any]
N_CHOICES = 4
_CLOSED = ("yes", "no", "unknown")  # questions that have the same few answers everywhere
_ENDS = "，。！？”"  # one of these stands behind a name that is asked for, and ends what a model writes
_POOL = 300  # questions that right and wrong answers are taken from, however many are asked
_LATER = 0.5  # a name that is asked for stands behind so much of its story


def questions(n: int = 100, **_: object) -> dict[str, Any]:
    """Return the parts of ``valley_questions``: a story, a question, and four answers one of which is right.

    The wrong answers are right ones of other questions of the same kind (where, who, what …), first of all those that
    the story names, too.

    Args:
        n: how many to ask.
    """
    return _parts(n, _choices)


def names(n: int = 100, **_: object) -> dict[str, Any]:
    """Return the parts of ``valley_names_zh``: a Chinese story up to a name that it has told before, and the name.

    Args:
        n: how many to ask.
    """
    return _parts(n, lambda n, split: _first(n, _names(split)))


def _parts(n: int, make: Any) -> dict[str, Any]:
    from datasets import Dataset  # of lm-eval's own requirements; it wants no plain list

    return {split: Dataset.from_list(make(size, split)) for split, size in (("train", 20), ("test", n))}


@cache
def _choices(n: int, split: str) -> list[Row]:
    asked = application("question_answering").examples(_POOL, split=split)
    asked = [one for one in asked if one.kind not in _CLOSED]
    answers: dict[str, list[str]] = {}
    for one in asked:
        answers.setdefault(one.kind, []).append(one.answers[0])
    rows = (_row(one, sorted(set(answers[one.kind]) - set(one.answers))) for one in asked)
    return _first(n, (row for row in rows if row))


def _row(one: Example, others: list[str]) -> Row | None:
    if len(others) < N_CHOICES - 1:
        return None
    dice = Random(crc32(one.prompt.encode()))
    dice.shuffle(others)
    others.sort(key=lambda text: text not in one.extra["story"])  # what the story names is harder to tell apart
    choices = [one.answers[0], *others[: N_CHOICES - 1]]
    dice.shuffle(choices)
    return {"prompt": one.prompt, "choices": choices, "right": choices.index(one.answers[0]), "kind": one.kind}


def _names(split: str) -> Iterator[Row]:
    for story in split_stories(split, seed=0):
        if row := _cut_at_a_name(story):
            yield row


def _cut_at_a_name(story: Story) -> Row | None:
    """Return a story up to a name in its second half that stands before, too."""
    text = story.text("chinese")
    names = "|".join(phrasebook("chinese").words["character"].values())
    found = re.finditer(f"({names})(?=[{_ENDS}])", text)
    later = [one for one in found if one.start() > _LATER * len(text) and one[0] in text[: one.start()]]
    if not later:
        return None
    chosen = story.dice("names").choice(later)
    return {"prompt": text[: chosen.start()], "name": chosen[0]}


def _first(n: int, rows: Iterator[Row]) -> list[Row]:
    found = [row for _, row in zip(range(n), rows, strict=False)]
    if len(found) < n:
        raise ValueError(f"n={n} examples, and there are {len(found)} of this kind; give at most so many")
    return found
