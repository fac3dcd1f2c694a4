"""Chinese, in simplified characters: a second telling of the same events. The wordings are in the text files here."""

import re

from llama_minimal.data.valley.phrasebook import Phrase
from llama_minimal.data.valley.telling import Telling
from llama_minimal.data.valley.world import CHARACTERS, Thing

# A sentence ends here, except inside of a quotation: “站住！”狐狸说 goes on.
_SENTENCE_END = re.compile(r"[。！？](?!”)")
_PRONOUNS = {"she": "她", "he": "他"}
_DIGITS = "零一二三四五六七八九"


def numeral(number: int) -> str:
    """Return a number as it is said before a measure word.

    >>> numeral(2), numeral(10), numeral(12), numeral(36), numeral(108), numeral(112)
    ('两', '十', '十二', '三十六', '一百零八', '一百一十二')
    """
    if not 0 <= number < 200:
        raise ValueError(f"number={number} must be from 0 to 199")
    if number == 2:
        return "两"
    if number >= 100:
        rest = number - 100
        return "一百" + ("零" if 0 < rest < 10 else "一" if 10 <= rest < 20 else "") + (_digits(rest) if rest else "")
    return _digits(number)


def _digits(number: int) -> str:
    tens, ones = divmod(number, 10)
    head = ("" if tens == 1 else _DIGITS[tens]) + "十" if tens else ""
    return head + (_DIGITS[ones] if ones or not tens else "")


class Chinese(Telling):
    """Names, pronouns, measure words and numerals.

    Forms of a character: none (他 or 她 where it is clear whom it means, and a name elsewhere); z: the same, but
    nothing after another mention in the same sentence; ta: always 他 or 她; who: never one; name; full (羊驼莉拉);
    kind (羊驼); akind (一只羊驼); m (只).
    Forms of a thing: none (一只红风筝, later 风筝), a, the, label (红风筝), noun, m (只), this (这只风筝),
    it (它).
    Forms of a place: none (草地), in (草地上), at (在草地上), to (what follows 去 and 来到).
    A number brings its measure word along, if its table in [unit] has one.
    """

    language = "chinese"
    between_events = ""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.effect = ""  # {a} of the event whose {why} is being told

    def entry(self, table: str, key: str, form: str = "") -> str:
        """Return a word of words.toml.

        Raises:
            ValueError: if it is not there; English must never show in a Chinese story.
        """
        found = self.book.words.get(table, {}).get(key)
        if isinstance(found, dict):
            found = found.get(form or "base")
        elif isinstance(found, list):
            found = self.dice.choice(found)
        if found is None:
            raise ValueError(f"chinese/words.toml has no word for {key!r} in [{table}]{form and f', form {form!r}'}")
        return found

    def character(self, name: str, form: str) -> str:
        who = CHARACTERS[name]
        if form in ("kind", "m"):
            return self.entry("species", who.species, form)
        if form not in ("", "s", "ta", "who", "name", "full", "akind"):
            raise ValueError(f"chinese: a character has no form {form!r}")
        if form == "s" and name == self.effect:
            return ""
        pronoun = form == "ta" or (form in ("", "s") and self.wants_pronoun(name))
        self.mentioned[name] = self.sentence
        if form == "akind":
            return f"一{self.entry('species', who.species, 'm')}{self.entry('species', who.species, 'kind')}"
        self.run = self.run + 1 if pronoun else 0
        return _PRONOUNS[who.pronoun] if pronoun else self._name(name, form)

    def _name(self, name: str, form: str) -> str:
        new = name not in self.introduced
        self.introduced.add(name)
        called, kind = self.entry("character", name), self.entry("species", CHARACTERS[name].species, "kind")
        if form == "full" or (new and form != "name"):
            return kind + called
        if form == "name" or not self.dice.chance(0.15):
            return called
        if name in self.jobs and self.dice.chance(0.5):
            return self.entry("job", self.jobs[name])
        return kind

    def thing(self, thing: Thing, form: str) -> str:
        noun, measure = self.entry("thing", thing.noun), self.entry("thing", thing.noun, "m")
        if form == "it":
            return "它们" if thing.plural else "它"
        if form == "this":
            return f"这{measure}{noun}"
        if form in ("noun", "m"):
            return noun if form == "noun" else measure
        if form not in ("", "a", "the", "label"):
            raise ValueError(f"chinese: a thing has no form {form!r}")
        new = thing.label not in self.introduced
        self.introduced.add(thing.label)
        label = self._label(thing)
        if form == "label":
            return label
        if form == "a" or (new and form == ""):
            return f"一{measure}{label}"
        if new or self.dice.chance(0.2):
            return f"那{measure}{label}"
        return label if self.dice.chance(0.2) else noun

    def _label(self, thing: Thing) -> str:
        if thing.label in self.book.words["label"]:
            return self.entry("label", thing.label)
        return self.entry("adjective", thing.adjective) + self.entry("thing", thing.noun)

    def place(self, name: str, form: str) -> str:
        return ("在" if form == "at" else "") + self.entry("place", name, {"at": "in"}.get(form, form))

    def word(self, role: str, form: str) -> str:
        value = self.roles[role]
        if isinstance(value, int):
            return numeral(value) + self.entry("unit", role)
        return self.entry(role, value, form)

    def finish(self, text: str) -> str:
        return text

    def _why(self) -> str:
        self.effect = self.roles.get("a", "")
        return super()._why()

    # ---- sentences end at full-width marks here

    def say(self, phrase: Phrase) -> str:
        text = super().say(phrase)
        if _SENTENCE_END.match(text[-1]):
            self.sentence -= 1  # the last one was counted twice
        return text

    def _write(self, nodes: tuple) -> None:
        for node in nodes:
            super()._write((node,))
            if isinstance(node, str):
                self.sentence += len(_SENTENCE_END.findall(node))
