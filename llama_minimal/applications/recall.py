"""Dialogues in which the user states a fact, speaks of other things, and then asks for it. The words: recall.toml."""

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from zlib import crc32

from llama_minimal.applications.base import check_request
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.phrasebook import phrasebook
from llama_minimal.data.valley.world import HOME, PLACES, WORLD, thing

Message = dict[str, str]
LONGEST_DISTANCE = 6  # turns between a fact and the question, where no other distance is asked for
_SWAPPED = 0.4  # share of the facts to study that have a value of another kind
_HELD_OUT = 6  # of a list's values every sixth is kept for the test, and another sixth for validation


class Fact(NamedTuple):
    """Something that a user can say of themselves."""

    kind: str
    values: tuple[str, ...]
    say: tuple[str, ...]
    ask: tuple[str, ...]


class Recall(NamedTuple):
    """A dialogue, whose last message answers a question about a fact."""

    messages: list[Message]
    kind: str
    """What the fact is about, such as ``name``."""
    distance: int
    """Turns between the fact and the question."""
    is_known: bool
    """Whether the fact was said at all."""


@cache
def words() -> dict:
    """Return what recall.toml holds."""
    return tomllib.loads((files(__package__) / "recall.toml").read_text("utf-8"))


@cache
def facts(split: str | None = None) -> dict[str, Fact]:
    """Return the facts by kind, with the values that a split may use; None: with all values.

    "strange" has values that the valley does not know, of the facts for which there are such.

    Which values of a fact are held out depends on the fact: one that is tested as a sister's name may be a dog's name
    in training.
    """
    found = {}
    for kind, entry in words()["fact"].items():
        if split == "strange":
            if strange := words()["strange"].get(entry["values"]):
                values = tuple(_plain(strange, entry))
                found[kind] = Fact(kind, values, tuple(entry["say"]), tuple(entry["ask"]))
            continue
        values = sorted(_values(entry), key=lambda value, kind=kind: crc32(f"{kind}/{value}".encode()))
        parts = {"test": (0,), "validation": (1,), "train": range(2, _HELD_OUT), None: range(_HELD_OUT)}[split]
        kept = tuple(value for i, value in enumerate(values) if i % _HELD_OUT in parts)
        found[kind] = Fact(kind, kept, tuple(entry["say"]), tuple(entry["ask"]))
    return found


def recall_dialogues(
    n: int, *, distance: int | None = None, unknown: float = 0.1, split: str = "train", seed: int = 0
) -> list[list[Message]]:
    """Return n dialogues as messages, of which the last answers a question about what the user said before.

    Args:
        distance: turns, of user and Llama together, between the fact and the question; None: 0 to 6, all equally often.
        unknown: share of dialogues that ask for what was never said, so that the answer is "I do not know."
        split: "train", "validation" or "test"; no fact has the same value in two of them. "strange" has values that
            no story of the valley has.

    Raises:
        ValueError: if an argument is out of range.
    """
    return [one.messages for one in recalls(n, distance=distance, unknown=unknown, split=split, seed=seed)]


def recalls(
    n: int, *, distance: int | None = None, unknown: float = 0.1, split: str = "train", seed: int = 0
) -> list[Recall]:
    """Return the dialogues of ``recall_dialogues`` with what is asked in them; arguments as there."""
    check_request(n, "test" if split == "strange" else split)
    if distance is not None and not 0 <= distance <= 20:
        raise ValueError(f"distance={distance} must be from 0 to 20 turns")
    if not 0 <= unknown <= 1:
        raise ValueError(f"unknown={unknown} is a share; it must be between 0 and 1")
    found = []
    for number in range(n):
        dice = Dice(crc32(f"recall/{split}/{seed}/{number}/{distance}".encode()))
        turns = dice.between(0, LONGEST_DISTANCE) if distance is None else distance
        found.append(_Talk(split, dice).recall(turns, is_known=not dice.chance(unknown)))
    return found


def study_dialogues(n: int, *, split: str = "train", seed: int = 0) -> list[list[Message]]:
    """Return n dialogues to learn recalling from: several facts are stated, then all are asked for, and one unknown.

    Some values are those of other facts ("My hat is Olga."), so that they must be copied and cannot be guessed. Each
    dialogue asks as often as five of ``recall_dialogues``, in the length of two.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_request(n, split)
    found = []
    for number in range(n):
        dice = Dice(crc32(f"study/{split}/{seed}/{number}".encode()))
        found.append(_Talk(split, dice).study(dice.between(3, 6)))
    return found


class _Talk:
    """Write one dialogue."""

    def __init__(self, split: str, dice: Dice) -> None:
        self.dice = dice
        self.facts = dice.sample(list(facts(split).values()), 12)  # each is used once, from the end
        self.messages: list[Message] = []
        self.used: set[str] = set()
        self.said: list[tuple[Fact, str]] = []  # what may be asked on the way
        self.talk = {name: dice.sample(list(words()[name].items()), 20) for name in ("talk", "valley")}
        if dice.chance(0.5):
            self.messages.append({"role": "system", "content": dice.choice(words()["system"])})

    def recall(self, distance: int, *, is_known: bool) -> Recall:
        """State a fact, or another one if it is to be unknown; talk of other things; ask."""
        if self.dice.chance(0.3):
            self.unrelated()
        asked = self.facts.pop()
        value = self.state(asked if is_known else self.facts.pop(), keep=False)
        for _ in range(distance):
            self.unrelated()
        self.turn(self.question(asked), value if is_known else words()["unknown"])
        return Recall(self.messages, asked.kind, distance, is_known)

    def study(self, n_facts: int) -> list[Message]:
        """State facts and ask for all of them in another order, with other things in between."""
        unknown = self.facts.pop()
        stated = [self.facts.pop() for _ in range(n_facts)]
        asked = [(unknown, words()["unknown"])]
        for fact in stated:
            if self.dice.chance(0.2):
                self.turn(*self.talk[self.dice.choice(["talk", "valley"])].pop())
            values = self.of_another_list(fact) if self.dice.chance(_SWAPPED) else fact.values
            asked.append((fact, self.state(fact._replace(values=values), keep=False)))
        for fact, answer in self.dice.sample(asked, len(asked)):
            if self.dice.chance(0.1):
                self.turn(*self.talk[self.dice.choice(["talk", "valley"])].pop())
            self.turn(self.question(fact), answer)
        return self.messages

    def of_another_list(self, fact: Fact) -> tuple[str, ...]:
        """Return all values of a list that is not this fact's: none of them is ever right for it in a test."""
        entries = words()["fact"]
        others = {entry["values"]: kind for kind, entry in entries.items()}
        del others[entries[fact.kind]["values"]]
        return facts()[self.dice.choice(sorted(others.values()))].values

    def turn(self, user: str, llama: str) -> None:
        """Add what the user says, and the answer."""
        self.messages += ({"role": "user", "content": user}, {"role": "assistant", "content": llama})

    def unrelated(self) -> None:
        """Add a turn about something else."""
        what = self.dice.random()
        if what < 0.3 and len(self.facts) > 2:
            self.state(self.facts.pop(), keep=True)
        elif what < 0.4 and self.said:
            fact, value = self.said.pop()
            self.turn(self.question(fact), value)
        else:
            self.turn(*self.talk["talk" if what < 0.75 else "valley"].pop())

    def state(self, fact: Fact, *, keep: bool) -> str:
        """Add a turn that states a fact, and return its value."""
        value = self.dice.choice([value for value in fact.values if value not in self.used] or fact.values)
        self.used.add(value)
        if keep:
            self.said.append((fact, value))
        opening = words()["opening" if any(one["role"] == "user" for one in self.messages) else "greeting"]
        said = self.after(self.dice.choice(opening), self.dice.choice(fact.say))
        heard = self.dice.choice(words()["heard"])
        self.turn(_filled(said, value), _filled(heard, value))
        return value

    def question(self, fact: Fact) -> str:
        """Return a question about a fact."""
        return self.after(self.dice.choice(words()["asking"]), self.dice.choice(fact.ask))

    def after(self, opening: str, text: str) -> str:
        """Return an opening and a sentence, with a small letter where the sentence goes on."""
        goes_on = opening.endswith((", ", ": ", " and ")) and not text.startswith("I ")
        return opening + (text[0].lower() + text[1:] if goes_on else text)


def _filled(text: str, value: str) -> str:
    text = text.replace("{v}", value)
    return text[0].upper() + text[1:]


def _values(entry: dict) -> Iterator[str]:
    match entry["values"]:
        case "things":
            labels = (thing(noun, adjective) for noun, line in WORLD["things"].items() for adjective in line.split())
            yield from (known.label if known.plural else _with_article(known.label) for known in labels)
        case "near":
            places = phrasebook("english").words["place"]
            yield from (places[name][1] for name in PLACES if name != HOME)
        case name:
            yield from _plain(words()["values"][name], entry)


def _plain(values: str, entry: dict) -> Iterator[str]:
    yield from map(_with_article, values.split()) if entry.get("article") else values.split()


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
