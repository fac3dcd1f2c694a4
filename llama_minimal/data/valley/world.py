"""The world of the Llama Valley: who and what there is, what is true now, and what happened."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

DATA = files(__package__)
WORLD = tomllib.loads((DATA / "world.toml").read_text("utf-8"))


class Character(NamedTuple):
    """Someone who lives in the valley."""

    name: str
    species: str
    pronoun: str  # "she" or "he"


class Thing(NamedTuple):
    """Something to own; its label, such as "red kite", is unique within a story."""

    label: str
    noun: str
    adjective: str
    plural: bool


class Definition(NamedTuple):
    """What an event needs and makes true; facts are tuples such as ("holds", "a", "x")."""

    roles: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    makes: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Event:
    """Something that happened: an entry of a story's record."""

    kind: str
    roles: dict[str, str | int]
    time: str
    here: str  # where its first character was when it was over
    because: int | None  # index of the event that caused it
    scene: int


def _definitions() -> dict[str, Definition]:
    found = {}
    for line in (DATA / "events.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            head, needs, makes = line.split("|")
            kind, _, roles = head.partition(":")
            found[kind] = Definition(tuple(roles.split()), _facts(needs), _facts(makes))
    return found


def _facts(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fact.split()) for fact in text.split(";") if fact.strip())


CHARACTERS = {name: Character(name, *text.split()) for name, text in WORLD["characters"].items()}
PLACES = {name: frozenset(tags.split()) for name, tags in WORLD["places"].items()}
PLURAL = frozenset(WORLD["plural"]["things"].split())
EVENTS = _definitions()
HOME = "home"  # everyone has one of their own


def words_of(kind: str) -> list[str]:
    """Return what there is of a kind: the foods, the sounds, the contests …"""
    table = WORLD[kind]
    return table["names"].split() if "names" in table else list(table)


def thing(noun: str, adjective: str) -> Thing:
    """Return a thing by its words."""
    return Thing(f"{adjective} {noun}", noun, adjective, noun in PLURAL)


class Impossible(Exception):  # noqa: N818 - the name says it
    """An event whose needs are not met."""


class State:
    """What is true at one moment. Facts are read with ``is_true(fact)`` and changed with ``make(fact)``."""

    def __init__(self) -> None:
        self.place: dict[str, str] = {}  # of characters
        self.holder: dict[str, str] = {}  # of things that someone has
        self.lies: dict[str, str] = {}  # of things that lie somewhere
        self.feels: dict[str, str] = {}
        self.facts: dict[tuple[str, ...], None] = {}  # the rest, in the order in which they came true

    def is_true(self, fact: tuple[str, ...]) -> bool:
        """Return whether a fact, with its roles filled in, is true now."""
        name, *who = fact
        match name:
            case "not":
                return not self.is_true(fact[1:])
            case "at":
                return self.place.get(who[0]) == who[1]
            case "together":
                place = self.place.get(who[0])
                return place is not None and place == self.place.get(who[1]) and place != HOME
            case "holds":
                return self.holder.get(who[1]) == who[0]
            case "lies":
                return self.lies.get(who[0]) == who[1]
            case "near":
                return who[1] in self.lies and self.lies[who[1]] == self.place.get(who[0])
            case "cross" | "friends":
                return (name, *who) in self.facts or (name, *who[::-1]) in self.facts
        return fact in self.facts

    def make(self, fact: tuple[str, ...]) -> None:
        """Make a fact true."""
        name, *who = fact
        match name:
            case "not":
                self.facts.pop(fact[1:], None)
                self.facts.pop((who[0], *who[:0:-1]), None)
            case "at":
                self.place[who[0]] = who[1]
            case "home":
                self.place[who[0]] = HOME
            case "holds":
                self.holder[who[1]] = who[0]
                self.lies.pop(who[1], None)
            case "lies":
                self.lies[who[0]] = who[1]
                self.holder.pop(who[0], None)
            case "feels":
                self.feels[who[0]] = who[1]
            case _:
                self.facts[fact] = None

    def apply(self, kind: str, roles: dict[str, str | int]) -> None:
        """Let an event happen.

        Raises:
            Impossible: if what it needs is not true; the state is then unchanged.
        """
        definition = EVENTS[kind]
        for fact in definition.needs:
            if not self.is_true(_fill(fact, roles)):
                raise Impossible(f"{kind} needs {' '.join(map(str, _fill(fact, roles)))}, which is not so")
        for fact in definition.makes:
            self.make(_fill(fact, roles))


def _fill(fact: tuple[str, ...], roles: dict[str, str | int]) -> tuple[str, ...]:
    # FEELING is the one word that an event passes on to a fact.
    return tuple(roles["feeling"] if word == "FEELING" else roles.get(word, word) for word in fact)
