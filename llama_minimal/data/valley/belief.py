"""What is known of a world after a part of a story, and where the story contradicts it."""

from itertools import permutations
from typing import Any

from llama_minimal.data.valley.telling import CHARACTER_ROLES
from llama_minimal.data.valley.world import EVENTS, HOME, State

_ABOUT = {"at": "places", "together": "places", "holds": "holding", "lies": "holding", "near": "holding"}
# A story has only one of each of these, and the place where it is stays the same.
_ONLY_ONE = frozenset("plant goods damage illness contest matter obstacle relative sound task".split())


class Belief(State):
    """What is known. Where someone or something is may be unknown; it is then taken to be where an event needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[str, None] = {}  # who was introduced, in that order
        self.words: dict[str, frozenset[str]] = {}  # which plant, goods … the story is about
        self.gaps = False  # whether a part was not understood
        self.problems: list[tuple[str, str]] = []

    def doubt(self, about: str, what: str) -> None:
        """Note a problem with one of the properties of a ``Check``."""
        self.problems.append((about, what))

    def happen(self, kind: str, roles: dict[str, Any]) -> None:
        """Check what an event needs, and believe what it makes true."""
        definition = EVENTS[kind]
        self._guess(kind, roles)
        for role in sorted(_ONLY_ONE & roles.keys()):
            if not self.words.setdefault(role, roles[role]) & roles[role]:
                self.doubt("objects", f"another {role} in {kind} {said(roles)}")
            for where in sorted({"p", "q"} & roles.keys()):
                if self.words.setdefault(f"{role} {where}", roles[where]) != roles[where]:
                    self.doubt("places", f"the {role} of {kind} moves: {said(roles)}")
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
            self.doubt(about, f"{kind} needs {' '.join(fact)}, which is not so")
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


def said(roles: dict[str, Any]) -> str:
    """Return roles as a text for a problem."""
    return ", ".join(f"{role} {'/'.join(sorted(v)) if isinstance(v, frozenset) else v}" for role, v in roles.items())
