"""Questions about one of many stories, more than fit into a context: a retrieval has to find what they are about."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal, get_args

from llama_minimal.applications.base import Example, check_request, split_stories
from llama_minimal.applications.question_answering import as_prompt
from llama_minimal.data import valley
from llama_minimal.data.valley.world import CHARACTERS, WORLD
from llama_minimal.retrieval import Index, Match

Unit = Literal["story", "paragraph", "sentence"]
KINDS = frozenset(("who", "what", "where", "how many", "how much"))  # asked of an event that is told in one place
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+|(?<=[.!?]")\s+')


class Library:
    """Hold many stories, and find in them.

    Args:
        stories: texts.
        unit: what is found at once. A sentence alone says "she" and "the kite"; a story says who and which.

    Raises:
        ValueError: if there is no such unit.
    """

    def __init__(self, stories: Sequence[str], *, unit: Unit = "story") -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"unit={unit!r} is not one of {', '.join(get_args(Unit))}")
        self.stories, self.unit = stories, unit
        parts = [(part, place) for place, text in enumerate(self.stories) for part in _parts(text, unit)]
        self.place_of = [place for _, place in parts]
        self.index = Index([part for part, _ in parts])

    def search(self, question: str, k: int) -> list[Match]:
        """Return the k units that share most with a question by BM25, the best first."""
        return self.index.search(question, k)


def retrieve(question: str, library: Library, k: int = 1) -> str:
    """Return the prompt that asks a question about the k units of a library that BM25 finds.

    They stand in the order of the library. If nothing is found, it is the question alone.
    """
    joint = " " if library.unit == "sentence" else "\n\n"
    found = sorted(library.search(question, k), key=lambda match: match.index)
    return as_prompt(joint.join(match.text for match in found), question)


def ask_libraries(n: int, *, n_stories: int = 100, split: str = "test", seed: int = 0) -> list[Example]:
    """Return n questions that are asked without their story, each about one of many.

    A question is taken only if who and what it names are together in a single story of the library, so that it has one
    answer; and if it asks for what one event tells. ``extra`` has the ``question``, the ``stories`` of the library, and
    the ``place`` of the right one; ``story`` is what the model is given: nothing.

    Args:
        n_stories: stories of a library; when its questions are used up, another library follows.

    Raises:
        ValueError: if n or n_stories is out of range.
    """
    check_request(n, split)
    if n_stories < 1:
        raise ValueError(f"n_stories={n_stories} must be at least 1")
    source = split_stories(split, seed)
    found: list[Example] = []
    while len(found) < n:
        found += _questions(list(islice(source, n_stories)))
    return found[:n]


def with_retrieved(examples: Sequence[Example], *, k: int = 1, unit: Unit = "story") -> list[Example]:
    """Return the questions of ``ask_libraries`` with what is found in their libraries."""
    found = _retrieved(examples, k, unit)
    return [replace(one, prompt=prompt, extra={**one.extra, "story": story}) for one, prompt, story, _ in found]


def found_share(examples: Sequence[Example], *, k: int = 1, unit: Unit = "story") -> float:
    """Return for how many questions of a hundred a part of the right story is among the k units that are found."""
    return 100 * sum(hit for *_, hit in _retrieved(examples, k, unit)) / len(examples)


def _retrieved(examples: Sequence[Example], k: int, unit: Unit) -> Iterator[tuple[Example, str, str, bool]]:
    library = None
    for one in examples:
        stories, question = one.extra["stories"], one.extra["question"]
        if library is None or library.stories is not stories:
            library = Library(stories, unit=unit)
        prompt = retrieve(question, library, k)
        places = {library.place_of[match.index] for match in library.search(question, k)}
        yield one, prompt, prompt.rpartition("Question: ")[0].strip(), one.extra["place"] in places


def _questions(told: list[valley.Story]) -> Iterator[Example]:
    texts = [story.text() for story in told]
    for place, story in enumerate(told):
        for one in valley.examples(story, "qa"):
            question = one.prompt.rpartition("Question: ")[2].removesuffix("\nAnswer: ")
            named = names_in(question)
            if one.kind in KINDS and named and [all(map(text.__contains__, named)) for text in texts].count(True) == 1:
                extra = {"question": question, "story": "", "stories": texts, "place": place}
                yield Example(as_prompt("", question), f" {one.answer}", one.kind, extra=extra)


def names_in(question: str) -> list[str]:
    """Return who and what a question names: characters, and things with their adjectives."""
    words = set(re.findall(r"\w+", question))
    labels = (f"{adjective} {noun}" for noun in words & WORLD["things"].keys() for adjective in _adjectives(noun))
    return [name for name in CHARACTERS if name in words] + [label for label in labels if label in question]


def _adjectives(noun: str) -> list[str]:
    return WORLD["things"][noun].split()


def _parts(text: str, unit: Unit) -> list[str]:
    if unit == "story":
        return [text]
    return text.split("\n\n") if unit == "paragraph" else _SENTENCE_END.split(text)
