"""Stories: a record of what happened, and a telling of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args
from zlib import crc32

from llama_minimal.data.valley.chinese import Chinese
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.english import English
from llama_minimal.data.valley.plots import PLOTS
from llama_minimal.data.valley.settings import ValleySettings
from llama_minimal.data.valley.tale import Tale, is_held_out
from llama_minimal.data.valley.telling import Telling
from llama_minimal.data.valley.world import CHARACTERS, PLACES, Event, Thing

Split = Literal["train", "test", "combinations"]
Language = Literal["english", "chinese"]
LANGUAGES: dict[str, type[Telling]] = {"english": English, "chinese": Chinese}
TEST_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Told:
    """One event in words."""

    event: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened, and how to tell it.

    ``record()`` returns everything as plain data: the answer key.
    """

    seed: int
    index: int
    shape: str
    split: Split
    characters: tuple[str, ...]
    things: dict[str, Thing]
    places: tuple[str, ...]
    jobs: dict[str, str]
    events: list[Event] = field(repr=False)
    ending: dict[str, dict[str, str]] = field(repr=False)
    canary: str | None = None

    def dice(self, purpose: str) -> Dice:
        """Return dice of their own for one use of the story, so that uses do not disturb each other."""
        return Dice(crc32(f"{self.seed}/{self.index}/{purpose}".encode()))

    def tell(self, language: Language = "english") -> list[Told]:
        """Return the story event by event, in the order of telling."""
        if language not in LANGUAGES:
            raise ValueError(f"language={language!r} is not one of {', '.join(LANGUAGES)}")
        telling = LANGUAGES[language](self.things, self.jobs, self.dice(language))
        return [Told(number, telling.tell(number, self.events)) for number in range(len(self.events))]

    def text(self, language: Language = "english") -> str:
        """Return the story as a text, with an empty line between paragraphs."""
        paragraphs: dict[int, list[str]] = {}
        for told in self.tell(language):
            paragraphs.setdefault(self.events[told.event].scene, []).append(told.text)
        if self.canary and language == "english":
            paragraphs[0].append(self.canary)
        join = LANGUAGES[language].between_events
        return "\n\n".join(join.join(parts) for parts in paragraphs.values())

    @property
    def sentiment(self) -> str:
        """How the story ends: positive, neutral or negative."""
        return {"close_glad": "positive", "close_calm": "neutral", "close_sad": "negative"}[self.events[-1].kind]

    def record(self) -> dict:
        """Return the answer key as data that JSON can hold."""
        return {
            "seed": self.seed,
            "index": self.index,
            "shape": self.shape,
            "split": self.split,
            "sentiment": self.sentiment,
            "characters": [CHARACTERS[name]._asdict() | {"job": self.jobs.get(name)} for name in self.characters],
            "things": [thing._asdict() for thing in self.things.values()],
            "places": list(self.places),
            "events": [asdict(event) for event in self.events],
            "ending": self.ending,
            "canary": self.canary,
        }


def story(index: int, settings: ValleySettings | None = None, *, canary: str | None = None) -> Story:
    """Return the story with this number; any number can be had without those before it."""
    settings = settings or ValleySettings()
    if not 0 <= index < 2**31:
        raise ValueError(f"index={index} must be a whole number from 0 to 2,147,483,647")
    dice = Dice(settings.seed << 31 | index)
    tale = Tale(dice, settings)
    shape = dice.choice(list(PLOTS))
    PLOTS[shape](tale)
    state = tale.state
    # Whom or what a plot chose and then did not need is not in the story.
    used = dict.fromkeys(value for event in tale.events for value in event.roles.values())
    characters = tuple(name for name in tale.cast if name in used)
    things = {label: known for label, known in tale.things.items() if label in used}
    places = tuple(name for name in used if name in PLACES)
    return Story(
        seed=settings.seed,
        index=index,
        shape=shape,
        split=_split(characters, things, places),
        characters=characters,
        things=things,
        places=places,
        jobs={name: job for name, job in tale.jobs.items() if name in used},
        events=tale.events,
        ending={"place": state.place, "holder": state.holder, "lies": state.lies, "feels": state.feels},
        canary=canary,
    )


def _split(characters: tuple[str, ...], things: dict[str, Thing], places: tuple[str, ...]) -> Split:
    """Return the split of a story, from who and what is in it: equal stories are always in the same one."""
    nouns = [known.noun for known in things.values()]
    if any(is_held_out(name, other) for name in characters for other in (*nouns, *places)):
        return "combinations"
    key = "|".join((*characters, *things, *places))
    return "test" if crc32(key.encode()) % TEST_ONE_IN == 0 else "train"


def stories(
    n: int, settings: ValleySettings | None = None, *, split: Split | None = "train", start: int = 0
) -> Iterator[Story]:
    """Yield n stories of a split (None: of all), in the order of their numbers, beginning at ``start``."""
    settings = settings or ValleySettings()
    if n < 0:
        raise ValueError(f"n={n} must be at least 0")
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split={split!r} is not one of {', '.join(get_args(Split))}")
    secrets = _plant(n, settings)
    index, count = start, 0
    while count < n:
        found = story(index, settings, canary=secrets.get(count))
        index += 1
        if split is None or found.split == split:
            count += 1
            yield found


def _plant(n: int, settings: ValleySettings) -> dict[int, str]:
    """Return which of n stories tell which secret."""
    total = sum(settings.canaries.values())
    if total > n:
        raise ValueError(f"{total} canaries do not fit into {n} stories; ask for more stories or fewer canaries")
    if not total:
        return {}
    dice = Dice(settings.seed ^ 0x5EC2E7)
    chosen = dice.sample(range(n), total)
    planted = [sentence for sentence, times in settings.canaries.items() for _ in range(times)]
    return dict(zip(chosen, planted, strict=True))
