"""Sentences in two languages that say the same: one event of a story, told alone, by its plainest wordings.

A story that is told twice chooses its words twice, so that the one telling is no translation of the other: who knew
every event would still not know the words. Here the target follows from the event: the plainest wording is the
reference, and each other wording that says no more than the source is right, too.
"""

from typing import NamedTuple

from llama_minimal.data.valley import LANGUAGES, Story
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.phrasebook import Choice, Phrase, Pick, Slot
from llama_minimal.data.valley.story import Language
from llama_minimal.data.valley.telling import CHARACTER_ROLES, THING_ROLES, Telling
from llama_minimal.data.valley.world import CHARACTERS, Event

_FRAME = frozenset(("open", "sight", "weather", "later", "next_day", "close_glad", "close_calm", "close_sad"))


class Sentence(NamedTuple):
    """One event in words, and what the words say of it."""

    text: str
    tags: frozenset[str]
    """What must be true of the event for the wording to fit, such as evening."""
    says: frozenset[str]
    """The roles in it; a thing's adjective counts as one."""
    color: int
    """How many of its words are drawn from lists, such as what bird is near: no other language repeats them."""


class _Plain(Dice):
    """Dice that always show the first side."""

    def __init__(self) -> None:
        self.random = lambda: 0.0

    def chance(self, probability: float) -> bool:
        return False


def translatable(story: Story) -> list[Event]:
    """Return the events of a story that somebody takes part in, without its frame: how it begins, ends, and goes on."""
    who = frozenset(CHARACTER_ROLES)
    return [event for event in story.events if event.kind not in _FRAME and who & event.roles.keys()]


def wordings(story: Story, event: Event, language: Language) -> list[Sentence]:
    """Return an event in all wordings of a language that fit it, the plainest first.

    Everyone is called by name, and of several words the first is taken. Plain is what has little color, then what is
    short.
    """
    telling = _telling(story, language)
    telling.roles = {"here": event.here, **event.roles}
    tags = telling._tags(event)
    fitting = [
        phrase for phrase in telling.book.phrases[event.kind] if phrase.fits(tags) and "{why}" not in phrase.source
    ]
    found = [_say(story, event, language, phrase) for phrase in fitting]
    return sorted(found, key=lambda sentence: (sentence.color, len(sentence.text), sentence.text))


def _telling(story: Story, language: Language) -> Telling:
    telling = LANGUAGES[language](story.things, story.jobs, _Plain())
    telling.introduced.update(CHARACTERS)
    telling.only_names = True
    return telling


def _say(story: Story, event: Event, language: Language, phrase: Phrase) -> Sentence:
    telling = _telling(story, language)
    telling.roles = {"here": event.here, **event.roles}
    text = telling.say(phrase)
    says = set()
    for slot in _slots(phrase.nodes):
        says.add(slot.role)
        if slot.role in THING_ROLES and slot.form in ("", "a", "the", "full", "label"):
            says.add(f"{slot.role} adjective")
    return Sentence(text, phrase.tags, frozenset(says), _picks(phrase.nodes))


def _slots(nodes: tuple) -> list[Slot]:
    """Return the places for roles in a wording, of several continuations those of the first."""
    found = []
    for node in nodes:
        found += [node] if isinstance(node, Slot) else _slots(node.options[0]) if isinstance(node, Choice) else []
    return found


def _picks(nodes: tuple) -> int:
    inner = [_picks(node.options[0]) for node in nodes if isinstance(node, Choice)]
    return sum(isinstance(node, Pick) for node in nodes) + sum(inner)
