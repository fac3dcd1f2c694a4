"""Listening to a story: who and what its words mean, by what was said before."""

import re
from copy import copy
from typing import Any, Self

from llama_minimal.data.valley.belief import Belief, said
from llama_minimal.data.valley.reader import GRAMMAR, JOBS, NAMING, PRONOUNS, SPECIES, WHY, Mention, Reading
from llama_minimal.data.valley.telling import CHARACTER_ROLES, THING_ROLES
from llama_minimal.data.valley.world import CHARACTERS, WORLD, thing

_NAME = re.compile(rf"\b({'|'.join(CHARACTERS)})\b(?: the ([a-z]+))?")
_THING = re.compile(rf"\b([a-z]+) ({'|'.join(WORLD['things'])})\b")


class Listener(Belief):
    """What is known, and what was mentioned. ``after`` and ``without`` return a new one."""

    def __init__(self) -> None:
        super().__init__()
        self.mentioned: dict[str, int] = {}  # character -> sentence of the latest mention
        self.jobs: dict[str, str] = {}  # job -> character
        self.things: dict[str, str] = {}  # noun -> label
        self.latest: str | None = None  # label
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.sentence = 0

    def _copy(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__ = {name: copy(value) for name, value in vars(self).items()}
        return new

    def after(self, reading: Reading) -> Self:
        """Return what is believed when an event was read."""
        new = self._copy()
        roles = new._bind(reading)
        causes = {role.removeprefix(WHY): value for role, value in roles.items() if role.startswith(WHY)}
        roles = {role: value for role, value in roles.items() if not role.startswith(WHY)}
        if reading.cause and not self.gaps and not any(_may_be(reading.cause, causes, told) for told in self.told):
            new.doubt("facts", f"the reason was not told before: {reading.cause} {said(causes)}")
        new.happen(reading.kind, roles)
        new.told.append((reading.kind, roles))
        new.sentence += reading.sentences
        return new

    def without(self, text: str, excused: bool) -> Self:
        """Return what is believed when a sentence was not understood: it may have moved whom and what it names."""
        new = self._copy()
        if not excused:
            new.doubt("reads", text)
        new.gaps = True
        for name, kind in _NAME.findall(text):
            new._named(Mention("", "full", f"{name} the {kind}" if kind in SPECIES else name, 0), introduced=True)
            new.place.pop(name, None)
        for adjective, noun in _THING.findall(text):
            if adjective in WORLD["things"][noun].split():
                new.things.setdefault(noun, f"{adjective} {noun}")
            for known in (new.holder, new.lies):
                known.pop(new.things.get(noun), None)
        new.sentence += 1
        return new

    # ---- who and what is meant

    def _bind(self, reading: Reading) -> dict[str, Any]:
        """Return who and what has which role."""
        roles: dict[str, Any] = dict(reading.words)
        later = []
        for mention in reading.mentions:
            role = mention.role.removeprefix(WHY)
            if role in THING_ROLES and mention.form not in NAMING:
                later.append(mention)  # "Here it is: the kite!"
                continue
            known = roles.get(mention.role)
            value = self._label(mention) if role in THING_ROLES else self._character(mention, known, reading)
            if value and known and value != known:
                self.doubt("objects" if role in THING_ROLES else "names", f"{value} takes the part of {known}")
            if value:
                roles.setdefault(mention.role, value)
        for mention in later:
            self._agree_in_number(mention, roles)
        people = [value for role, value in roles.items() if role in CHARACTER_ROLES]
        if len(set(people)) < len(people):
            self.doubt("names", f"someone takes two parts in {reading.kind} {said(roles)}")
        return roles

    def _character(self, mention: Mention, known: str | None, reading: Reading) -> str | None:
        gender = PRONOUNS.get(mention.text.lower())
        now = self.sentence + mention.sentence
        if gender is None:
            kinds = any(m.role == mention.role and m.form in ("kind", "akind", "full") for m in reading.mentions)
            name = self._named(mention, introduced=kinds or any(role == "job" for role, _ in reading.words))
        elif mention.form.endswith("!"):
            if known and CHARACTERS[known].pronoun != gender:
                self.doubt("pronouns", f"{mention.text} is not {known}")
            return known
        else:
            name = self._meant(mention, gender, known, now)
        if name and mention.form != "kind":
            self.mentioned[name] = now
        return name

    def _meant(self, mention: Mention, gender: str, known: str | None, now: int) -> str | None:
        """Return whom a pronoun means."""
        recent = [n for n, when in self.mentioned.items() if when >= now - 1 and CHARACTERS[n].pronoun == gender]
        if len(recent) == 1:
            return recent[0]
        self.doubt("pronouns", f"{mention.text} may mean {' or '.join(recent) or 'nobody'}")
        return known if known in recent else max(recent, key=self.mentioned.get, default=None)

    def _named(self, mention: Mention, *, introduced: bool) -> str | None:
        """Return whom a name, a species or a job means."""
        words = mention.text.split()
        first, last = words[0], words[-1]
        if mention.form in ("kind", "akind"):
            return SPECIES.get(last)
        if first.lower() == "the":
            name = SPECIES.get(last) or self.jobs.get(last) or self._worker(last)
            if name not in self.cast:
                self.doubt("names", f"{mention.text} was not introduced")
            return name
        if first not in CHARACTERS:
            self.doubt("names", f"nobody is named {first}")
            return None
        if last in JOBS:
            self.jobs[last] = first
        elif last != first and last != CHARACTERS[first].species:
            self.doubt("names", f"{mention.text} is a {CHARACTERS[first].species}")
        if first not in self.cast and last == first and not introduced:
            self.doubt("names", f"{first} was not introduced")
        self.cast[first] = None
        return first

    def _worker(self, job: str) -> str | None:
        """Return who must be the one with a job: the latest who has none yet."""
        free = [name for name in self.cast if name not in self.jobs.values()]
        if free:
            self.jobs[job] = free[-1]
        return self.jobs.get(job)

    def _label(self, mention: Mention) -> str:
        """Return which thing is meant."""
        *_, adjective, noun = ["the", *mention.text.lower().split()]
        if mention.form == "noun" or adjective == "the":
            if noun not in self.things:
                self.doubt("objects", f"the {noun} was not introduced")
        else:
            label = f"{adjective} {noun}"
            if adjective not in WORLD["things"][noun].split():
                self.doubt("objects", f"there is no {label}")
            elif self.things.get(noun, label) != label:
                self.doubt("objects", f"the {self.things[noun]} becomes a {label}")
            self.things.setdefault(noun, label)
        self.latest = self.things.setdefault(noun, noun)
        return self.latest

    def _agree_in_number(self, mention: Mention, roles: dict[str, Any]) -> None:
        """Take "it" for the thing of the event, or else for the latest one; "were" and "them" must agree, too."""
        label = roles.setdefault(mention.role, self.latest)
        if label is None:
            self.doubt("objects", f"{mention.text} may mean nothing")
        elif GRAMMAR.thing(thing(label.split()[-1], ""), mention.form) != mention.text.lower():
            self.doubt("objects", f"{mention.text} does not agree with {label}")


def _may_be(kind: str, roles: dict[str, Any], told: tuple[str, dict[str, Any]]) -> bool:
    """Return whether an event may be the one that was told."""
    return kind == told[0] and all(_same(value, told[1].get(role, value)) for role, value in roles.items())


def _same(one: Any, other: Any) -> bool:
    return bool(one & other) if isinstance(one, frozenset) else one == other
