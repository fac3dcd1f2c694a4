"""A story in the making: the dice, the state, and the events so far."""

from zlib import crc32

from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.settings import ValleySettings
from llama_minimal.data.valley.world import CHARACTERS, HOME, PLACES, WORLD, Event, State, Thing, thing, words_of

TIMES = WORLD["times"]["parts"].split()
# One pair in so many is kept for the "combinations" split.
HELD_OUT_ONE_IN = 120


def is_held_out(character: str, other: str) -> bool:
    """Return whether this character never meets this thing or place outside the "combinations" split."""
    return crc32(f"{character}|{other}".encode()) % HELD_OUT_ONE_IN == 0


class Tale:
    """What a plot writes into: it chooses who and what, and lets events happen."""

    def __init__(self, dice: Dice, settings: ValleySettings) -> None:
        self.dice = dice
        self.settings = settings
        self.state = State()
        self.events: list[Event] = []
        self.cast: list[str] = []
        self.things: dict[str, Thing] = {}
        self.jobs: dict[str, str] = {}
        self.places: list[str] = []
        self.time = dice.choice(TIMES[:3])
        self.weather = dice.choice(words_of("weather"))
        self._scene = 0

    # ---- choosing

    def one(self, kind: str) -> str:
        """Return a word of a kind: a food, a sound, a contest …"""
        return self.dice.choice(words_of(kind))

    def character(self, *, job: str | None = None) -> str:
        """Return someone new to the story, with a job if one is named."""
        rest = [name for name in CHARACTERS if name not in self.cast]
        if job:
            rest = self._by_bias(rest, job)
        elif self.cast and self.dice.chance(0.6):
            # A she beside a he makes pronouns clear.
            first = CHARACTERS[self.cast[0]].pronoun
            rest = [name for name in rest if CHARACTERS[name].pronoun != first]
        name = self.dice.choice(rest)
        self.cast.append(name)
        if job:
            self.jobs[name] = job
        return name

    def characters(self, n: int) -> list[str]:
        """Return so many new characters."""
        return [self.character() for _ in range(n)]

    def _by_bias(self, names: list[str], job: str) -> list[str]:
        if job in self.settings.species_bias:
            species, rate = self.settings.species_bias[job]
            wanted = self.dice.chance(rate)
            chosen = [name for name in names if (CHARACTERS[name].species == species) == wanted]
            return chosen or names
        pronoun = "she" if self.dice.chance(self.settings.gender_bias.get(job, 0.5)) else "he"
        return [name for name in names if CHARACTERS[name].pronoun == pronoun]

    def thing(self, *nouns: str) -> str:
        """Return something new to the story, one of the nouns if any are named."""
        used = {known.noun for known in self.things.values()}
        noun = self.dice.choice([noun for noun in nouns or WORLD["things"] if noun not in used])
        new = thing(noun, self.dice.choice(WORLD["things"][noun].split()))
        self.things[new.label] = new
        return new.label

    def place(self, *tags: str, outside: bool = False) -> str:
        """Return a place new to the story that has all the tags."""
        fit = [
            name
            for name, has in PLACES.items()
            if name not in self.places and has.issuperset(tags) and not (outside and "house" in has)
        ]
        self.places.append(self.dice.choice(fit))
        return self.places[-1]

    # ---- what is so at the beginning

    def put(self, name: str, place: str) -> None:
        """Say where someone is before the story needs them."""
        self.state.place[name] = place

    def owns(self, name: str, *nouns: str) -> str:
        """Return a new thing that someone has from the beginning."""
        label = self.thing(*nouns)
        self.state.holder[label] = name
        return label

    # ---- what happens

    def do(self, kind: str, *, because: int | None = None, **roles: str | int) -> int:
        """Let an event happen, and return its index, for events that it causes."""
        self.state.apply(kind, roles)
        self.places += [roles[role] for role in ("p", "q") if role in roles and roles[role] not in self.places]
        first = next((role for role in ("a", "b", "c") if role in roles), None)
        here = self.state.place.get(roles[first], HOME) if first else roles.get("p", HOME)
        self.events.append(Event(kind, roles, self.time, here, because, self._scene))
        return len(self.events) - 1

    def scene(self) -> None:
        """Begin a new paragraph."""
        self._scene += 1

    def later(self, steps: int = 1) -> None:
        """Let part of the day pass, and begin a new paragraph."""
        now = TIMES.index(self.time)
        if now + steps < len(TIMES):
            self.until(TIMES[now + steps])
        else:
            self.next_day()

    def until(self, time: str) -> None:
        """Let the day pass until a time, and begin a new paragraph."""
        self.time = time
        self.scene()
        self.do("later", time=time)

    def next_day(self) -> None:
        """Let the night pass, and begin a new paragraph."""
        self.time = "morning"
        self.weather = self.dice.choice(words_of("weather"))
        self.scene()
        self.do("next_day")

    def begin(self, name: str, place: str, *, brief: bool = False) -> None:
        """Introduce the hero and, unless the story is long enough without, the setting."""
        self.put(name, place)
        self.do("open", a=name, p=place)
        if brief:
            return
        if self.dice.chance(0.55) and self.time != "night":
            self.do("weather", weather=self.weather)
        if "open" in PLACES[place] and self.dice.chance(0.45):
            self.do("sight", p=place)

    def feel(self, name: str, feeling: str, *, because: int | None = None) -> None:
        """Say how someone feels."""
        self.do("feel", a=name, feeling=feeling, because=because)

    def go(self, name: str, place: str, *, because: int | None = None) -> None:
        """Bring someone to a place, unless they are there."""
        if self.state.place.get(name) != place:
            self.do("go", a=name, p=place, because=because)

    def maybe(self, probability: float = 0.5) -> bool:
        """Throw the dice."""
        return self.dice.chance(probability)

    def close(self, name: str, polarity: int) -> None:
        """End the story: gladly (1), calmly (0) or sadly (-1)."""
        self.do({1: "close_glad", 0: "close_calm", -1: "close_sad"}[polarity], a=name)
