"""Questions about a story, with answers from its record."""

from collections.abc import Iterator
from typing import NamedTuple

from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.english import English
from llama_minimal.data.valley.phrasebook import Phrase, phrasebook
from llama_minimal.data.valley.story import Story
from llama_minimal.data.valley.world import CHARACTERS, EVENTS, PLACES, WORLD, Event, thing, words_of

UNKNOWN = "The story does not say."
_WHEN = {
    "morning": "in the morning",
    "noon": "at noon",
    "afternoon": "in the afternoon",
    "evening": "in the evening",
    "night": "at night",
}


class Asked(NamedTuple):
    """A question with its answer."""

    kind: str  # where, who, what, why, when, yes, no, unknown …
    question: str
    answer: str


class _Asker:
    """Put the questions of the phrase book into words, with names where pronouns would be unclear."""

    def __init__(self, story: Story, dice: Dice) -> None:
        self.story, self.dice = story, dice
        self.new_talk()

    def new_talk(self) -> None:
        """Forget who was named: pronouns have nobody to mean."""
        self.telling = self._telling()

    def _telling(self) -> English:
        telling = English(self.story.things, self.story.jobs, self.dice)
        telling.introduced.update((*CHARACTERS, *self.story.things))
        telling.only_names = True
        return telling

    def put(self, phrase: Phrase, event: Event, number: int) -> tuple[str, str]:
        """Return question and answer; things of other stories are allowed in the event."""
        extra = {"here": event.here, "when": self.when(number), "because": self.because(event)}
        self.telling.roles = {**extra, **event.roles}
        question, _, answer = self.telling.say(phrase).partition(": ")[2].partition(" => ")
        return self.telling.finish(question), answer

    def when(self, number: int) -> str | None:
        """Return the time of an event, if the story has told it."""
        told = [event.kind for event in self.story.events[:number] if event.kind in ("later", "next_day")]
        if not told:
            return None
        return "the next morning" if told[-1] == "next_day" else _WHEN[self.story.events[number].time]

    def because(self, event: Event) -> str | None:
        """Return why an event happened, if it has a cause that can be said."""
        if event.because is None:
            return None
        cause = self.story.events[event.because]
        for phrase in phrasebook("english").phrases.get(f"ask {cause.kind}", ()):
            if _kind(phrase) == "because":
                telling = self._telling()
                telling.roles = {"here": cause.here, **cause.roles}
                return "because " + telling.say(phrase).partition(": ")[2]
        return None

    def can_put(self, phrase: Phrase, event: Event, number: int) -> bool:
        """Return whether all that a question needs is in the record."""
        if "{when}" in phrase.source and self.when(number) is None:
            return False
        return "{because}" not in phrase.source or self.because(event) is not None


def _kind(phrase: Phrase) -> str:
    return phrase.source.partition(": ")[0]


def _asks(event: Event) -> list[Phrase]:
    return phrasebook("english").phrases.get(f"ask {event.kind}", [])


def questions(story: Story, dice: Dice) -> Iterator[Asked]:
    """Yield all that can be asked about a story, each question once, and two that it does not answer."""
    asker = _Asker(story, dice)
    found = [*_about_events(asker), *_ending(story), _unanswerable(asker), _unanswerable(asker)]
    answers: dict[str, set[str]] = {}
    for asked in found:
        answers.setdefault(asked.question, set()).add(asked.answer)
    # A question that two events answer in two ways is no good question.
    unique = {asked.question: asked for asked in found if len(answers[asked.question]) == 1}
    yield from unique.values()


def _about_events(asker: _Asker) -> Iterator[Asked]:
    for number, event in enumerate(asker.story.events):
        for phrase in _asks(event):
            kind = _kind(phrase).rstrip("?")
            if kind == "because" or kind.endswith("+") or not asker.can_put(phrase, event, number):
                continue
            asker.new_talk()
            asked = _yes_or_no(asker, phrase, event, number) if kind == "yes/no" else None
            yield asked or Asked(kind.removesuffix("/no"), *asker.put(phrase, event, number))


def _yes_or_no(asker: _Asker, phrase: Phrase, event: Event, number: int) -> Asked | None:
    """Return the question about somebody else, half of the time: the answer is no."""
    if asker.dice.chance(0.5):
        return None
    role = phrase.source[phrase.source.index("{") + 1]
    others = [name for name in asker.story.characters if name not in event.roles.values()]
    if not others:
        return None
    wrong = Event(event.kind, {**event.roles, role: asker.dice.choice(others)}, "", event.here, None, 0)
    if any(known.kind == event.kind and known.roles[role] == wrong.roles[role] for known in asker.story.events):
        return None
    question, _ = asker.put(phrase, wrong, number)
    return Asked("no", question, "No.")


def _ending(story: Story) -> Iterator[Asked]:
    """Yield questions about where things are and who has them when the story is over."""
    telling = English(story.things, story.jobs, Dice(0))
    for label, holder in story.ending["holder"].items():
        if any(label in event.roles.values() for event in story.events):
            verb = "are" if story.things[label].plural else "is"
            yield Asked("who has", f"Who has the {label} at the end?", holder)
            yield Asked("where is", f"Where {verb} the {label} at the end?", f"with {holder}")
    for label, place in story.ending["lies"].items():
        verb = "are" if story.things[label].plural else "is"
        yield Asked("where is", f"Where {verb} the {label} at the end?", telling.place(place, "at"))


def _unanswerable(asker: _Asker) -> Asked:
    """Return a question about an event that does not happen in the story."""
    happened = {event.kind for event in asker.story.events}
    options = [
        (section.removeprefix("ask "), phrase)
        for section, phrases in phrasebook("english").phrases.items()
        if section.startswith("ask ") and section.removeprefix("ask ") not in happened
        for phrase in phrases
        if _kind(phrase).endswith("?")
    ]
    kind, phrase = asker.dice.choice(options)
    asker.new_talk()
    question, _ = asker.put(phrase, Event(kind, _any_roles(asker, kind), "", "home", None, 0), 0)
    return Asked("unknown", question, UNKNOWN)


def _any_roles(asker: _Asker, kind: str) -> dict[str, str | int]:
    """Return roles for an event that never happened, with characters of the story."""
    dice, roles = asker.dice, {}
    names = dice.sample(asker.story.characters, len(asker.story.characters))
    for role in EVENTS[kind].roles:
        if role in ("a", "b", "c"):
            roles[role] = names.pop() if names else dice.choice(list(CHARACTERS))
        elif role in ("x", "y"):
            noun = dice.choice(list(WORLD["things"]))
            new = thing(noun, dice.choice(WORLD["things"][noun].split()))
            asker.telling.things = {**asker.telling.things, new.label: new}
            roles[role] = new.label
        elif role in ("p", "q"):
            roles[role] = dice.choice(list(PLACES))
        else:
            roles[role] = _any_word(role, dice)
    return roles


def _any_word(role: str, dice: Dice) -> str | int:
    # Otherwise it is a number, or a word that such a question never says.
    return dice.choice(words_of(f"{role}s")) if f"{role}s" in WORLD else 2


def dialogue_turns(story: Story, dice: Dice, *, longest: int = 5) -> list[tuple[str, str]]:
    """Return questions and answers of one talk: a question that names, then one that needs it to be understood."""
    asker = _Asker(story, dice)
    chains = []
    for number, event in enumerate(story.events):
        can = [phrase for phrase in _asks(event) if asker.can_put(phrase, event, number)]
        first = [p for p in can if _kind(p).rstrip("?") in ("what", "who", "where", "how", "how many", "how much")]
        follow = [phrase for phrase in can if _kind(phrase).endswith("+")]
        if first and follow:
            chains.append((number, event, dice.choice(first), follow))
    turns: list[tuple[str, str]] = []
    for number, event, phrase, follow in sorted(dice.sample(chains, min(2, len(chains))), key=lambda chain: chain[0]):
        asker.new_talk()
        said = set()
        for question, answer in (asker.put(each, event, number) for each in (phrase, *follow)):
            # A follow-up that asks for what was just answered would be silly.
            if answer not in said:
                turns.append((question, answer))
            said.add(answer)
    return turns[:longest]
