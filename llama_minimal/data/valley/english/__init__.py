"""English: how characters, things and places are named. The wordings are in the text files beside this one."""

import re

from llama_minimal.data.valley.telling import Telling
from llama_minimal.data.valley.world import CHARACTERS, Thing

_CAPITALS = re.compile(r'(^"?|[.!?] "?|\." "?)([a-z])')
_PRONOUNS = {
    "she": {"": "she", "he": "she", "him": "her", "his": "her", "himself": "herself", "own": "hers"},
    "he": {"": "he", "he": "he", "him": "him", "his": "his", "himself": "himself", "own": "his"},
}
# Words that begin with a vowel letter but not with a vowel, and the other way round.
_A = ("use", "uni", "one", "eu")
_AN = ("hour", "honest")

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_UNITS = {"price": "coin", "sum": "coin", "coins": "coin", "total": "coin", "left": "coin", "days": "day"}


def article(word: str) -> str:
    """Return a word with "a" or "an" before it.

    >>> article("owl"), article("red kite"), article("hour")
    ('an owl', 'a red kite', 'an hour')
    """
    vowel = word.startswith(_AN) or (word[0] in "aeiou" and not word.startswith(_A))
    return f"{'an' if vowel else 'a'} {word}"


def number(n: int) -> str:
    """Return a number below 200 in words.

    >>> number(7), number(24), number(108)
    ('seven', 'twenty-four', 'one hundred and eight')
    """
    if n >= 100:
        return "one hundred" + (f" and {number(n - 100)}" if n > 100 else "")
    if n < 20:
        return _SMALL[n]
    return _TENS[n // 10] + (f"-{_SMALL[n % 10]}" if n % 10 else "")


class English(Telling):
    """Names, pronouns, articles and agreement.

    Forms of a character: none and he (subject), him, his: a pronoun where it is clear whom it means, and a name
    elsewhere; he!, him!, his!, himself!: always a pronoun; who: never one; name; full ("Otto the badger"); kind
    ("badger"); akind ("a badger").
    Forms of a thing: none ("a red kite", later "the kite"), a, the, label ("red kite"), full ("the red kite"), noun,
    it and they (object and subject pronoun), was, is, has, this, its, s (the ending of a verb).
    Forms of a place: none ("the river"), at ("by the river"), to ("to the river").
    """

    language = "english"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.only_names = False  # never "the badger"

    def character(self, name: str, form: str) -> str:
        who = CHARACTERS[name]
        if form == "kind":
            return who.species
        if form == "kinds":
            return self.book.words["kinds"].get(who.species, f"{who.species}s")
        if form == "akind":
            self.mentioned[name] = self.sentence
            return article(who.species)
        if form.endswith("!"):
            return _PRONOUNS[who.pronoun][form[:-1]]
        pronoun = form in ("", "he", "him", "his") and self.wants_pronoun(name)
        again = self.mentioned.get(name) == self.sentence
        self.mentioned[name] = self.sentence
        if pronoun:
            self.run += 1
            return _PRONOUNS[who.pronoun][form]
        self.run = 0
        text = self._name(name, "name" if again and name in self.introduced else form)
        return f"{text}'s" if form == "his" else text

    def _name(self, name: str, form: str) -> str:
        new = name not in self.introduced
        self.introduced.add(name)
        if form == "full" or (new and form != "name"):
            return f"{name} the {CHARACTERS[name].species}"
        if form == "name" or self.only_names or not self.dice.chance(0.15):
            return name
        if name in self.jobs and self.dice.chance(0.5):
            return f"the {self.jobs[name]}"
        return f"the {CHARACTERS[name].species}"

    def thing(self, thing: Thing, form: str) -> str:
        number = _MANY if thing.plural else _ONE
        if form in number:
            return number[form]
        if form == "label":
            self.introduced.add(thing.label)
            return thing.label
        if form in ("noun", "full"):
            return thing.noun if form == "noun" else f"the {thing.label}"
        new = thing.label not in self.introduced
        self.introduced.add(thing.label)
        if form == "a" or (new and form == ""):
            return f"a pair of {thing.label}" if thing.plural else article(thing.label)
        return f"the {thing.label}" if new or self.dice.chance(0.35) else f"the {thing.noun}"

    def place(self, name: str, form: str) -> str:
        return self.book.words["place"][name][{"": 0, "at": 1, "to": 2}[form]]

    def word(self, role: str, form: str) -> str:
        value = self.roles[role]
        if role in ("count", "pieces"):
            return number(value)
        if role in _UNITS:
            return f"{number(value)} {_UNITS[role]}{'' if value == 1 else 's'}"
        return super().word(role, form)

    def inflect(self, word: str, form: str) -> str:
        return article(word) if form == "a" else word

    def finish(self, text: str) -> str:
        return _CAPITALS.sub(lambda match: match[1] + match[2].upper(), text)


_ONE = {"it": "it", "they": "it", "was": "was", "is": "is", "has": "has", "this": "this", "its": "its", "s": "s"}
_MANY = {"it": "them", "they": "they", "was": "were", "is": "are", "has": "have", "this": "these", "its": "their"}
_MANY |= {"s": ""}
