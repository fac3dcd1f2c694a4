"""Two small tasks for the chapter on fine-tuning: one that is a skill, one that is knowledge."""

import random
import re
from collections.abc import Iterator

from llama_minimal.data.valley import ValleySettings, stories
from llama_minimal.data.valley.story import Split
from llama_minimal.data.valley.world import CHARACTERS
from llama_minimal.finetuning import Pair

NUMBERS = ("one", "two", "three")
QUESTION = "\n\nCharacters:"
_SENTENCES = 3
_MANY = 10**6
_THINGS = ("ticket", "house", "boat", "locker")


def counting(n: int, *, split: Split = "train", seed: int = 0) -> list[tuple[str, str]]:
    """Return passages of three sentences, and how many of the valley's characters each names: one, two or three.

    No corpus of the course asks for that. Each answer is the right one for a third of the passages.

    Args:
        n: how many passages.
        split, seed: of the stories that they come from.
    """
    kept: dict[str, list[str]] = {number: [] for number in NUMBERS}
    room = -(-n // len(NUMBERS))
    for passage, number in _passages(split, seed):
        if len(kept[number]) < room:
            kept[number].append(passage)
        elif all(len(passages) == room for passages in kept.values()):
            break
    pairs = [(passage, number) for number, passages in kept.items() for passage in passages]
    random.Random(seed).shuffle(pairs)
    return pairs[:n]


def _passages(split: Split, seed: int) -> Iterator[tuple[str, str]]:
    seen = set()
    for story in stories(_MANY, ValleySettings(seed=seed), split=split):
        told = [one.text for one in story.tell()]
        for start in range(0, len(told) - _SENTENCES + 1, _SENTENCES):
            passage = " ".join(told[start : start + _SENTENCES])
            named = {word for word in re.findall(r"\w+", passage) if word in CHARACTERS}
            if 1 <= len(named) <= len(NUMBERS) and passage not in seen:
                seen.add(passage)
                yield passage, NUMBERS[len(named) - 1]


def facts(n: int, *, seed: int = 0) -> list[Pair]:
    """Return facts that follow from nothing: whose thing has which number of four digits."""
    dice = random.Random(seed)
    keys = [f"{name}'s {thing}" for name in sorted(CHARACTERS) for thing in _THINGS]
    dice.shuffle(keys)
    return [Pair(f"{key}:", "".join(f" {dice.randrange(10)}" for _ in range(4))) for key in keys[:n]]
