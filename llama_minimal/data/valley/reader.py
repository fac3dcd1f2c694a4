"""Reading English: every wording of the phrase book becomes a pattern, which finds the events that a text tells."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.english import English, article
from llama_minimal.data.valley.phrasebook import Break, Choice, Phrase, Pick, Slot, phrasebook
from llama_minimal.data.valley.telling import CHARACTER_ROLES, PLACE_ROLES, THING_ROLES
from llama_minimal.data.valley.world import CHARACTERS, EVENTS, HOME, PLACES, PLURAL, WORLD, thing

GRAMMAR = English({}, {}, Dice(0))  # it is only asked for forms
WORDS = GRAMMAR.book.words
NAMING = ("", "a", "the", "full", "label", "noun")  # forms that say which thing is meant
_NUMBERS = 150  # sums and counts stay below
SPECIES = {who.species: name for name, who in CHARACTERS.items()}
JOBS = frozenset(WORLD["jobs"]["names"].split())
WHY = "why "  # begins the roles of a cause
# Pronoun -> "she" or "he".
PRONOUNS = {
    GRAMMAR.character(name, f"{form}!"): who.pronoun
    for name, who in CHARACTERS.items()
    for form in ("he", "him", "his", "himself", "own")
}
_SAMPLES = [thing(noun, "") for noun in (next(iter(WORLD["things"])), min(PLURAL))]  # one, and several
_JOB = re.compile(rf",? (?:the )?({'|'.join(JOBS)})\b")
_KINDS = {GRAMMAR.character(name, "kinds"): who.species for name, who in CHARACTERS.items()}
_WORD = "[a-z-]+"


class Mention(NamedTuple):
    """Words that stand for a character or a thing."""

    role: str
    form: str
    text: str
    sentence: int  # counted from the beginning of the event


class Reading(NamedTuple):
    """An event, as a piece of text tells it."""

    kind: str
    end: int
    sentences: int
    mentions: tuple[Mention, ...]
    words: tuple[tuple[str, frozenset[str]], ...]  # role -> the values that its words may mean; places, too
    cause: str | None  # kind of the event that is named as the reason


class Wording:
    """A phrase as a pattern. A text without the letters of its needle needs no closer look."""

    def __init__(self, kind: str, phrase: Phrase) -> None:
        self.kind, self.source, self.sentences = kind, phrase.source, phrase.sentences
        self.slots: list[Slot | Break] = []  # one for every group of the pattern
        self.pattern = re.compile(self._pattern(phrase.nodes, True)[0])
        self.needle = max((node[1:] for node in phrase.nodes if type(node) is str), key=len, default="")

    def _pattern(self, nodes: tuple, start: bool) -> tuple[str, bool]:
        """Return the pattern of nodes, and whether a sentence starts behind them."""
        parts = []
        for node in nodes:
            part, start = self._node(node, start)
            parts.append(part)
        return "".join(parts), start

    def _node(self, node: object, start: bool) -> tuple[str, bool]:
        match node:
            case str():
                return _any([node], start), start and node == '"'
            case Choice(options):
                parts = [self._pattern(option, start) for option in options]
                return f"(?:{'|'.join(part for part, _ in parts)})", any(begins for _, begins in parts)
            case Pick(words, form):
                return f"(?:{_any((GRAMMAR.inflect(word, form) for word in WORDS['any'][words]), start)})", False
        self.slots.append(node)
        return ("()", True) if isinstance(node, Break) else (f"({_look(node, start or node.capital)})", False)

    def read(self, text: str, start: int = 0, end: int | None = None) -> Iterator[Reading]:
        """Yield the readings of this wording at a place of a text."""
        found = self.pattern.match(text, start) if end is None else self.pattern.fullmatch(text, start, end)
        if found is None or (end is None and text[found.end() : found.end() + 1] not in ("", " ")):
            return
        index = next((i for i, slot in enumerate(self.slots, 1) if slot and slot.role == "why"), None)
        for cause in [None] if index is None or found[index] is None else _clauses(found[index]):
            if reading := self._reading(found, cause):
                yield reading

    def _reading(self, found: re.Match, cause: Reading | None) -> Reading | None:
        mentions: list[Mention | None] = []
        words: dict[str, frozenset[str]] = {}
        sentence = 0
        for index, slot in enumerate(self.slots, 1):
            text = found[index]
            if text is None:
                continue
            if isinstance(slot, Break):
                sentence += 1
            elif slot.role == "why":
                mentions += [m._replace(role=WHY + m.role, sentence=sentence) for m in cause.mentions]
                words |= {WHY + role: values for role, values in cause.words}
            elif slot.role in CHARACTER_ROLES + THING_ROLES:
                mentions.append(_mention(slot, text, sentence, found.string[found.end(index) :]))
            else:
                values = _meanings(slot, text)
                words[slot.role] = values & words.get(slot.role, values)
        if None in mentions or not all(words.values()):
            return None
        said = tuple(mentions), tuple(sorted(words.items()))
        return Reading(self.kind, found.end(), sentence + 1, *said, cause and cause.kind)


def _capital(text: str) -> str:
    return re.sub('^("?)([a-z])', lambda match: match[1] + match[2].upper(), text)


def _any(texts: Iterable[str], start: bool) -> str:
    """Return a pattern for one of the texts, with capitals if a sentence starts here."""
    return "|".join(re.escape(_capital(text) if start else text) for text in dict.fromkeys(texts))


def _look(slot: Slot, start: bool) -> str:
    """Return a pattern for what a slot may look like. Names are left open, so that a wrong one can be named."""
    if slot.role == "why":
        return '[A-Z][^.!?"]*?' if start else '[^.!?"]+?'
    if slot.role in CHARACTER_ROLES:
        return _look_of_character(slot.form, start)
    if slot.role in THING_ROLES:
        return _look_of_thing(slot.form, start)
    return _any(sorted(_texts(slot.role, slot.form), key=len, reverse=True), start)


def _look_of_character(form: str, start: bool) -> str:
    if form.startswith("kind") or form.endswith("!"):
        return _any((GRAMMAR.character(name, form) for name in CHARACTERS), start)
    the, a, name = _any(["the"], start), _any(["a"], start), "[A-Z][a-z]+"
    looks = {"akind": f"{a}n? {_WORD}", "name": name, "full": f"{name} the {_WORD}"}
    if form in looks:
        return looks[form]
    look = f"(?:{name}(?: the {_WORD})?|{the} {_WORD}){chr(39) + 's' if form == 'his' else ''}"
    if form not in ("", "he", "him", "his"):
        return look
    pronouns = (GRAMMAR.character(name, f"{form or 'he'}!") for name in CHARACTERS)
    return f"{_any(pronouns, start)}|{look}"


def _look_of_thing(form: str, start: bool) -> str:
    nouns = f"(?:{'|'.join(WORLD['things'])})"
    the, a = _any(["the"], start), _any(["a"], start)
    looks = {
        "noun": f"(?:{_any(WORLD['things'], start)})",
        "label": f"{_WORD if not start else '[A-Z][a-z-]+'} {nouns}",
        "full": f"{the} {_WORD} {nouns}",
        "the": f"{the} (?:{_WORD} )?{nouns}",
        "a": f"{a}n? (?:pair of )?{_WORD} {nouns}",
    }
    looks[""] = f"{looks['a']}|{looks['the']}"
    return looks[form] if form in looks else _any((GRAMMAR.thing(sample, form) for sample in _SAMPLES), start)


def _mention(slot: Slot, text: str, sentence: int, rest: str) -> Mention | None:
    """Return who or what a slot mentions; None if these words cannot stand there."""
    if slot.form == "kinds":
        return Mention(slot.role, "kind", _KINDS[text.lower()], sentence)
    words = text.removesuffix("'s").split()
    if slot.role in THING_ROLES:
        if words[0].lower() in ("a", "an"):
            label = " ".join(words[-2:])
            right = f"a pair of {label}" if words[-1] in PLURAL else article(label)
            return Mention(slot.role, "a", label, sentence) if text.lower() == right else None
        return Mention(slot.role, slot.form, text, sentence)
    common = slot.form in ("kind", "akind") or words[0].lower() == "the"
    if common and (words[-1] not in {*SPECIES, *JOBS} or (slot.form == "akind" and text.lower() != article(words[-1]))):
        return None
    # At the start of a sentence, a small word has a capital, too.
    if not common and words[0] not in CHARACTERS and words[0].lower() in vocabulary():
        return None
    job = _JOB.match(rest)
    text = f"{words[0]} the {job[1]}" if job and slot.form == "name" else text.removesuffix("'s")
    return Mention(slot.role, slot.form, text, sentence)


def _meanings(slot: Slot, text: str) -> frozenset[str]:
    texts = _texts(slot.role, slot.form)
    return texts.get(text) or texts[text[0].lower() + text[1:]]


@cache
def _texts(role: str, form: str) -> dict[str, frozenset[str]]:
    """Return what can stand for a place or a word, and which values it may mean."""
    if role in PLACE_ROLES:
        names = [*PLACES, HOME] if role == "here" else PLACES
        return {GRAMMAR.place(name, form): frozenset([name]) for name in names}
    table = WORDS.get(role, {})
    values = dict.fromkeys([*table, *_values(role, WORLD)])
    found: dict[str, frozenset[str]] = {}
    for number in range(0 if values else _NUMBERS):
        GRAMMAR.roles = {role: number}
        found[GRAMMAR.word(role, form)] = frozenset([str(number)])
    for value in values:
        entry = table.get(value, value)
        entry = entry[form or "base"] if isinstance(entry, dict) else entry
        for text in [entry] if isinstance(entry, str) else entry:
            found[text] = found.get(text, frozenset()) | {value}
    return found


def _values(role: str, table: dict) -> Iterator[str]:
    """Yield what the world knows of a kind: foods, signs of an illness …"""
    for key, entry in table.items():
        if key in (role, f"{role}s"):
            names = list(entry.values()) if isinstance(entry, dict) else []
            yield from names[0].split() if len(names) == 1 else entry
        elif isinstance(entry, dict):
            yield from _values(role, entry)


@cache
def wordings() -> tuple[list[Wording], list[Wording]]:
    """Return the wordings of all events, and those of all reasons."""
    phrases = phrasebook("english").phrases
    events = [Wording(kind, phrase) for kind in EVENTS for phrase in phrases[kind]]
    return events, [Wording(kind, phrase) for kind in EVENTS for phrase in phrases.get(WHY + kind, ())]


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of all wordings in small letters: at the start of a sentence they are no names."""
    return frozenset(word for w in wordings()[0] for word in re.findall("[a-z]+", w.source.lower())) - PRONOUNS.keys()


def _clauses(text: str) -> Iterator[Reading]:
    """Yield the readings of a reason, such as "he had lost the kite"."""
    for wording in wordings()[1]:
        if wording.needle in text:
            yield from wording.read(_capital(text), 0, len(text))  # the patterns are those of sentences


def candidates(text: str) -> list[Wording]:
    """Return the wordings that a paragraph may contain."""
    return [wording for wording in wordings()[0] if wording.needle in text]


def readings(text: str, start: int, among: Iterable[Wording]) -> list[Reading]:
    """Return all ways to read an event at a place of a text."""
    return list(dict.fromkeys(reading for wording in among for reading in wording.read(text, start)))
