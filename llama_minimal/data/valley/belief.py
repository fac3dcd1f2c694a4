"""What a reader of a story believes: who is meant, what is known, and where the story contradicts itself."""

import re
from copy import copy
from itertools import permutations
from typing import Any

from llama_minimal.data.valley.reader import GRAMMAR, JOBS, NAMING, PRONOUNS, SPECIES, WHY, Mention, Reading
from llama_minimal.data.valley.telling import CHARACTER_ROLES, THING_ROLES
from llama_minimal.data.valley.world import CHARACTERS, EVENTS, HOME, PLURAL, WORLD, State, thing

PROPERTIES = ("reads", "names", "pronouns", "objects", "places", "holding", "facts")
_ABOUT = {"at": "places", "together": "places", "holds": "holding", "lies": "holding", "near": "holding"}
# A story has only one of each of these.
_ONLY_ONE = frozenset("plant goods damage illness contest matter obstacle relative sound task".split())
_NAME = re.compile(rf"\b({'|'.join(CHARACTERS)})\b(?: the ([a-z]+))?")
_THING = re.compile(rf"\b([a-z]+) ({'|'.join(WORLD['things'])})\b")


class Belief(State):
    """What is known after a part of a story. What is unknown is taken for true where an event needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[str, None] = {}  # who was introduced, in that order
        self.mentioned: dict[str, int] = {}  # character -> sentence of the latest mention
        self.jobs: dict[str, str] = {}  # job -> character
        self.things: dict[str, str] = {}  # noun -> label
        self.latest: str | None = None  # label
        self.words: dict[str, frozenset[str]] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.sentence = 0
        self.gaps = False  # whether a part was not understood
        self.problems: list[tuple[str, str]] = []

    def after(self, reading: Reading) -> "Belief":
        """Return what is believed when an event was read."""
        new = object.__new__(Belief)
        new.__dict__ = {name: copy(value) for name, value in vars(self).items()}
        roles = new._bind(reading)
        causes = {role.removeprefix(WHY): value for role, value in roles.items() if role.startswith(WHY)}
        roles = {role: value for role, value in roles.items() if not role.startswith(WHY)}
        if reading.cause and not self.gaps and not any(_agree(reading.cause, causes, told) for told in self.told):
            new._object("facts", f"the reason was not told before: {reading.cause} {_said(causes)}")
        new._happen(reading.kind, roles)
        new.told.append((reading.kind, roles))
        new.sentence += reading.sentences
        return new

    def without(self, text: str, excused: bool) -> "Belief":
        """Return what is believed when a sentence was not understood: it may have moved whom and what it names."""
        new = object.__new__(Belief)
        new.__dict__ = {name: copy(value) for name, value in vars(self).items()}
        if not excused:
            new._object("reads", text)
        new.gaps = True
        for name, kind in _NAME.findall(text):
            new._named(Mention("", "full", f"{name} the {kind}" if kind else name, 0), introduced=True)
            new.place.pop(name, None)
        for adjective, noun in _THING.findall(text):
            if adjective in WORLD["things"][noun].split():
                new.things.setdefault(noun, f"{adjective} {noun}")
            for known in (new.holder, new.lies):
                known.pop(new.things.get(noun), None)
        new.sentence += 1
        return new

    def _object(self, about: str, what: str) -> None:
        self.problems.append((about, what))

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
                self._object("objects" if role in THING_ROLES else "names", f"{value} takes the part of {known}")
            if value:
                roles.setdefault(mention.role, value)
        for mention in later:
            self._agree_in_number(mention, roles)
        people = [value for role, value in roles.items() if role in CHARACTER_ROLES]
        if len(set(people)) < len(people):
            self._object("names", f"someone takes two parts in {reading.kind} {_said(roles)}")
        return roles

    def _character(self, mention: Mention, known: str | None, reading: Reading) -> str | None:
        gender = PRONOUNS.get(mention.text.lower())
        now = self.sentence + mention.sentence
        if gender is None:
            kinds = any(m.role == mention.role and m.form in ("kind", "akind", "full") for m in reading.mentions)
            name = self._named(mention, introduced=kinds or any(role == "job" for role, _ in reading.words))
        elif mention.form.endswith("!"):
            if known and CHARACTERS[known].pronoun != gender:
                self._object("pronouns", f"{mention.text} is not {known}")
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
        self._object("pronouns", f"{mention.text} may mean {' or '.join(recent) or 'nobody'}")
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
                self._object("names", f"{mention.text} was not introduced")
            return name
        if first not in CHARACTERS:
            self._object("names", f"nobody is named {first}")
            return None
        if last in JOBS:
            self.jobs[last] = first
        elif last != first and last != CHARACTERS[first].species:
            self._object("names", f"{mention.text} is a {CHARACTERS[first].species}")
        if first not in self.cast and last == first and not introduced:
            self._object("names", f"{first} was not introduced")
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
                self._object("objects", f"the {noun} was not introduced")
        else:
            label = f"{adjective} {noun}"
            if adjective not in WORLD["things"][noun].split():
                self._object("objects", f"there is no {label}")
            elif self.things.get(noun, label) != label:
                self._object("objects", f"the {self.things[noun]} becomes a {label}")
            self.things.setdefault(noun, label)
        self.latest = self.things.setdefault(noun, noun)
        return self.latest

    def _agree_in_number(self, mention: Mention, roles: dict[str, Any]) -> None:
        """Take "it" for the thing of the event, or else for the latest one; "were" and "them" must agree, too."""
        label = roles.setdefault(mention.role, self.latest)
        if label is None:
            self._object("objects", f"{mention.text} may mean nothing")
        elif GRAMMAR.thing(thing(label.split()[-1], ""), mention.form) != mention.text.lower():
            self._object("objects", f"{mention.text} does not agree with {label}")

    # ---- what is so

    def _happen(self, kind: str, roles: dict[str, Any]) -> None:
        """Check what an event needs, and believe what it makes true."""
        definition = EVENTS[kind]
        self._guess(kind, roles)
        for role in _ONLY_ONE & roles.keys():
            if not self.words.setdefault(role, roles[role]) & roles[role]:
                self._object("objects", f"another {role} in {kind} {_said(roles)}")
            for where in {"p", "q"} & roles.keys():
                if self.words.setdefault(f"{role} {where}", roles[where]) != roles[where]:
                    self._object("places", f"the {role} of {kind} moves: {_said(roles)}")
        for fact in definition.needs:
            self._need(_fill(fact, roles), kind)
        for fact in definition.makes:
            self._learn(_fill(fact, roles))
        first = next((roles.get(role) for role in ("a", "b", "c") if role in definition.roles), None)
        if first and "here" in roles:
            self._need(_fill(("at", first, "here"), roles), kind)

    def _guess(self, kind: str, roles: dict[str, Any]) -> None:
        """Fill in who and where, if the words do not say it and there is only one possibility."""
        definition = EVENTS[kind]
        unsaid = [role for role in definition.roles if role in CHARACTER_ROLES and role not in roles]
        others = [name for name in self.cast if name not in roles.values()]
        if len(unsaid) == len(others):
            ways = [dict(roles, **dict(zip(unsaid, order, strict=True))) for order in permutations(others)]
            roles.update(
                min(ways, key=lambda way: sum(self._is_refuted(_fill(need, way)) for need in definition.needs))
            )
        for name, *who in definition.needs:
            if name == "at" and who[1] not in roles and roles.get(who[0]) in self.place:
                roles[who[1]] = frozenset([self.place[roles[who[0]]]])

    def _need(self, fact: tuple[Any, ...], kind: str) -> None:
        if None in fact:
            return
        if self._is_refuted(fact):
            about = _ABOUT.get(fact[1] if fact[0] == "not" else fact[0], "facts")
            self._object(about, f"{kind} needs {' '.join(fact)}, which is not so")
        match fact:
            case ("together", one, other):
                for name, friend in ((one, other), (other, one)):
                    if friend in self.place:
                        self.place.setdefault(name, self.place[friend])
            case ("near", name, label):
                if label in self.lies:
                    self.place[name] = self.lies[label]
                elif name in self.place:
                    self.make(("lies", label, self.place[name]))
            case ("not", "at" | "near" | "holds" | "together", *_):
                pass
            case _:
                self._learn(fact)

    def _is_refuted(self, fact: tuple[str, ...]) -> bool:
        """Return whether a fact is known to be untrue."""
        if None in fact:
            return False
        name, *who = fact
        match name:
            case "not":
                return self.is_true(tuple(who))
            case "at":
                return self.place.get(who[0], who[1]) != who[1]
            case "together":
                places = {self.place[one] for one in who if one in self.place}
                return len(places) > 1 or HOME in places
            case "holds":
                return self.holder.get(who[1], who[0]) != who[0] or who[1] in self.lies
            case "lies":
                return self.lies.get(who[0], who[1]) != who[1] or who[0] in self.holder
            case "near":
                lies, place = self.lies.get(who[1]), self.place.get(who[0])
                return who[1] in self.holder or bool(lies and place and lies != place)
        # Nobody is ill, owes anything or has a secret before the story says so.
        return not (self.gaps or self.is_true(fact) or any(known[0] == name and None in known for known in self.facts))

    def _learn(self, fact: tuple[Any, ...]) -> None:
        """Believe a fact; if a part of it is unknown, forget what it changes."""
        name, *who = fact
        if None not in fact:
            self.make(fact)
        elif name == "at":
            for one in [who[0]] if who[0] else list(self.place):
                self.place.pop(one, None)
        elif name in ("holds", "lies"):
            label = who[1] if name == "holds" else who[0]
            for one in [label] if label else [*self.holder, *self.lies]:
                self.holder.pop(one, None)
                self.lies.pop(one, None)
        elif name != "not":
            self.facts[fact] = None


def _fill(fact: tuple[str, ...], roles: dict[str, Any]) -> tuple[Any, ...]:
    """Return a fact with its roles filled in, None where the words do not say."""
    name, *who = fact
    if name == "not":
        return (name, *_fill(tuple(who), roles))
    values = [roles.get(word) if len(word) == 1 or word == "here" else word for word in who]
    return (name, *(next(iter(value)) if isinstance(value, frozenset) else value for value in values))


def _agree(kind: str, roles: dict[str, Any], told: tuple[str, dict[str, Any]]) -> bool:
    """Return whether an event may be the one that was told."""
    return kind == told[0] and all(_same(value, told[1].get(role, value)) for role, value in roles.items())


def _same(one: Any, other: Any) -> bool:
    return bool(one & other) if isinstance(one, frozenset) else one == other


def _said(roles: dict[str, Any]) -> str:
    return ", ".join(f"{role} {'/'.join(sorted(v)) if isinstance(v, frozenset) else v}" for role, v in roles.items())
