"""Telling a record in a language: choose wordings, and fill in their roles. What a role looks like is its grammar's."""

from collections.abc import Mapping

from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.phrasebook import Break, Choice, Phrase, Pick, Slot, phrasebook
from llama_minimal.data.valley.world import CHARACTERS, HOME, PLACES, Event, Thing

CHARACTER_ROLES = ("a", "b", "c")
THING_ROLES = ("x", "y")
PLACE_ROLES = ("p", "q", "here")
LONGEST = 18  # sentences, where the wordings allow it


class Telling:
    """Tell one story. A language is a subclass that says how characters, things and places are named.

    Args:
        things, jobs: those of the record.
        dice: chooses among wordings.
    """

    language = ""
    between_events = " "

    def __init__(self, things: Mapping[str, Thing], jobs: Mapping[str, str], dice: Dice) -> None:
        self.book = phrasebook(self.language)
        self.things, self.jobs, self.dice = things, jobs, dice
        self.introduced: set[str] = set()
        self.used: set[int] = set()  # ids of the wordings so far
        self.roles: dict[str, str | int] = {}
        self.cause: Event | None = None
        self.mentioned: dict[str, int] = {}  # character -> sentence of the latest mention
        self.run = 0  # pronouns since the latest name
        self.weather = ""
        self.sentence = 0  # number of the sentence that is being told
        self.spoken: list[str] = []

    # ---- what a language says

    def character(self, name: str, form: str) -> str:
        """Return a character in a form."""
        raise NotImplementedError

    def thing(self, thing: Thing, form: str) -> str:
        """Return a thing in a form."""
        raise NotImplementedError

    def place(self, name: str, form: str) -> str:
        """Return a place in a form."""
        raise NotImplementedError

    def finish(self, text: str) -> str:
        """Return a told event with capitals and spaces in order."""
        raise NotImplementedError

    def inflect(self, word: str, form: str) -> str:
        """Return a word of a list in a form."""
        return word

    # ---- what all languages share

    def wants_pronoun(self, name: str) -> bool:
        """Return whether a pronoun means this one clearly, and reads well."""
        latest = self.mentioned.get(name, -9)
        if latest < self.sentence - 1 or not self._only_one(name):
            return False
        return latest == self.sentence or (self.run < 4 and self.dice.chance(0.7))

    def _only_one(self, name: str) -> bool:
        pronoun = CHARACTERS[name].pronoun
        return not any(
            other != name and sentence >= self.sentence - 1 and CHARACTERS[other].pronoun == pronoun
            for other, sentence in self.mentioned.items()
        )

    # ---- telling

    def tell(self, number: int, events: list[Event]) -> str:
        """Return one event in words, in few of them if the story grows long."""
        event = events[number]
        self.roles = {"here": event.here, **event.roles}
        self.cause = events[event.because] if event.because is not None else None
        tags = self._tags(event)
        fitting = [phrase for phrase in self.book.phrases[event.kind] if phrase.fits(tags)]
        fresh = [phrase for phrase in fitting if id(phrase) not in self.used] or fitting
        if not fresh:
            raise ValueError(f"{self.language}: no wording of {event.kind!r} fits {sorted(tags)}")
        longest = max(self._room(len(events) - number), min(phrase.sentences for phrase in fresh))
        phrase = self.dice.choice([phrase for phrase in fresh if phrase.sentences <= longest])
        self.used.add(id(phrase))
        return self.say(phrase)

    def _room(self, left: int) -> int:
        """Return how many sentences the next of the events that are left may take: long stories have few to spare."""
        spare = LONGEST - self.sentence - left
        return 1 + min(spare, 2) if spare > 0 and self.dice.chance(2 * spare / left) else 1

    def say(self, phrase: Phrase) -> str:
        """Return a wording, filled in."""
        self.spoken = []
        self._write(phrase.nodes)
        self.sentence += 1
        return self.finish("".join(self.spoken))

    def word(self, role: str, form: str) -> str:
        """Return the word that stands for a role's value, such as a food or a sum."""
        value = self.roles[role]
        if form == "id":
            return str(value)
        found = self.book.words.get(role, {}).get(str(value), value)
        if isinstance(found, dict):
            found = found[form or "base"]
        elif isinstance(found, list):
            found = self.dice.choice(found)
        return str(found)

    def _tags(self, event: Event) -> set[str]:
        if event.kind in ("weather", "next_day"):
            self.weather = self.roles.get("weather", "")
        tags = {event.time, self.weather, *(value for value in self.roles.values() if isinstance(value, str))}
        for role in ("p", "here"):
            tags |= PLACES.get(self.roles.get(role), frozenset())
        if self.cause is not None and f"why {self.cause.kind}" in self.book.phrases:
            tags.add("why")
        if event.here == HOME:
            tags.add("home")
        if "x" in self.roles and self.things[self.roles["x"]].plural:
            tags.add("plural")
        return tags

    def _write(self, nodes: tuple) -> None:
        for node in nodes:
            if type(node) is str:
                self.spoken.append(node)
            elif type(node) is Slot:
                text = self._fill(node.role, node.form)
                self.spoken.append(text[0].upper() + text[1:] if node.capital else text)
            elif type(node) is Choice:
                self._write(self.dice.choice(node.options))
            elif type(node) is Pick:
                self.spoken.append(self.inflect(self.dice.choice(self.book.words["any"][node.words]), node.form))
            elif type(node) is Break:
                self.sentence += 1

    def _fill(self, role: str, form: str) -> str:
        if role == "why":
            return self._why()
        if role not in self.roles:
            raise ValueError(f"{self.language}: a wording asks for {{{role}}}, which the event does not have")
        value = self.roles[role]
        if role in CHARACTER_ROLES:
            return self.character(value, form)
        if role in THING_ROLES:
            return self.thing(self.things[value], form)
        if role in PLACE_ROLES:
            return self.place(value, form)
        return self.word(role, form)

    def _why(self) -> str:
        """Return the cause of the event that is being told as a clause, in the roles of the cause."""
        roles, spoken = self.roles, self.spoken
        self.roles, self.spoken = {"here": self.cause.here, **self.cause.roles}, []
        self._write(self.dice.choice(self.book.phrases[f"why {self.cause.kind}"]).nodes)
        clause = "".join(self.spoken)
        self.roles, self.spoken = roles, spoken
        return clause
