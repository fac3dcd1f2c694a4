"""What chapter 20 asks the course model: who does which job, who is meant, and what is unkind."""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from llama_minimal.data.valley import Story, ValleySettings, stories
from llama_minimal.data.valley.chinese import Chinese
from llama_minimal.data.valley.dice import Dice
from llama_minimal.data.valley.world import CHARACTERS

NAMES = {
    pronoun: [f" {one.name}" for one in CHARACTERS.values() if one.pronoun == pronoun] for pronoun in ("she", "he")
}
"""Pronoun → the names that go with it, each as it stands after a word."""
WORKSHOP = ("smith", "carpenter", "tailor", "cobbler", "potter", "weaver", "baker")
JOBS = (*WORKSHOP, "vet", "judge")
HELD_OUT_SEED = 1000
_SHAPE = {"vet": "sick_day", "judge": "council"}
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?…]+[\"”’]*(?=\s)|[。！？]+[”’]*|(?=\n)|$)", re.DOTALL)


def workers(n: int, settings: ValleySettings | None = None) -> list[tuple[str, str]]:
    """Return the job and the name of every worker in n stories."""
    return [(job, name) for story in stories(n, settings) for name, job in story.jobs.items()]


@cache
def contexts(job: str, n: int = 16) -> tuple[str, ...]:
    """Return n beginnings of held-out stories, each up to where it names its worker of this job.

    In stories with a vet or a judge the plot tells whose turn it is. Those of the workshop say the job: "…people went
    to the smith,"; they are the same for all its jobs, but for this word.
    """
    found = []
    for story in stories(10**6, ValleySettings(seed=HELD_OUT_SEED), split="test"):
        if story.shape == _SHAPE.get(job, "workshop"):
            found.append(_before(story, job))
        if len(found) == n:
            break
    return tuple(found)


def _before(story: Story, job: str) -> str:
    if job in _SHAPE:
        (who,) = story.jobs
        return story.text().partition(f" {who}")[0]
    scenes: dict[int, list[str]] = {}
    for told in story.tell():
        if story.events[told.event].kind == "work":
            break
        scenes.setdefault(story.events[told.event].scene, []).append(told.text)
    text = "\n\n".join(" ".join(parts) for parts in scenes.values())
    return f"{text}\n\nIf something had to be done well, people went to the {job},"


class Mention(NamedTuple):
    """Hold a place where a story names someone again, and who of those that it has named it could be."""

    before: str
    who: str
    texts: dict[str, str]  # character → what their name looks like here


def mentions(language: str, n: int, *, settings: ValleySettings | None = None) -> list[Mention]:
    """Return n places in held-out stories, one in each, where one of at least two characters is named again."""
    settings, found = settings or ValleySettings(seed=HELD_OUT_SEED), []
    for story in stories(10**6, settings, split="test"):
        options = list(_again(story, language))
        if options:
            found.append(story.dice("mention").choice(options))
        if len(found) == n:
            break
    return found


def _again(story: Story, language: str) -> Iterator[Mention]:
    text, space = story.text(language), " " if language == "english" else ""
    names = {name: name if language == "english" else chinese_name(name) for name in story.characters}
    places = sorted((m.start(), name) for name, word in names.items() for m in re.finditer(re.escape(word), text))
    seen: dict[str, None] = {}
    for place, name in places:
        if name in seen and len(seen) > 1 and text[:place].endswith(space):
            yield Mention(text[: place - len(space)], name, {one: space + names[one] for one in seen})
        seen[name] = None


@cache
def chinese_name(name: str) -> str:
    """Return what a character is called in Chinese."""
    return Chinese({}, {}, Dice(0)).character(name, "name")


def chinese_names() -> dict[str, list[str]]:
    """Return what NAMES has, in Chinese: kind and name, as a story names someone first."""
    return {
        pronoun: [Chinese({}, {}, Dice(0)).character(name.strip(), "full") for name in names]
        for pronoun, names in NAMES.items()
    }


def chinese_contexts(job: str, n: int = 2, *, longest: int = 60) -> list[str]:
    """Return the ends of n beginnings of held-out stories in Chinese, each up to where it names its vet or judge.

    Args:
        longest: characters that are kept, for each of forty names of several tokens is read after them.
    """
    found = []
    for story in stories(10**6, ValleySettings(seed=HELD_OUT_SEED), split="test"):
        if story.shape == _SHAPE[job]:
            (who,) = story.jobs
            before, met, _ = story.text("chinese").partition(Chinese({}, {}, Dice(0)).character(who, "full"))
            found += [before[-longest:]] if met else []
        if len(found) == n:
            break
    return found


class Sentence(NamedTuple):
    """Hold a sentence of a story, what is before it, and which kind of insult it is: None if it is none."""

    before: str
    text: str
    insult: str | None


def sentences(n_unkind: int, n_others: int, *, seed: int, language: str = "english") -> list[Sentence]:
    """Return so many sentences with an insult, and so many others: all that is spoken, and one in four of the rest.

    Half of the quarrels have an insult. A sentence is one if it stands in the telling of an unkind event and is spoken.
    """
    unkind: list[Sentence] = []
    others: list[Sentence] = []
    for story in stories(10**6, ValleySettings(seed=seed, unkind=0.5), split=None):
        kinds = {event.roles["insult"] for event in story.events if event.kind == "unkind"}
        if kinds or len(others) < n_others:  # else the story need not be told
            for one in _told(story, language):
                (unkind if one.insult else others).append(one)
        if len(unkind) >= n_unkind and len(others) >= n_others:
            return unkind[:n_unkind] + others[:n_others]
    raise AssertionError("the valley has as many stories as one likes")


def _told(story: Story, language: str) -> Iterator[Sentence]:
    text, dice = story.text(language), story.dice("sentences")
    unkind = {
        told.text: str(story.events[told.event].roles["insult"])
        for told in story.tell(language)
        if story.events[told.event].kind == "unkind"
    }
    for match in _SENTENCE.finditer(text):
        one, spoken = match[0], re.search(r'["“”]', match[0]) is not None
        insult = next((kind for told, kind in unkind.items() if spoken and one.strip() in told), None)
        if spoken or dice.chance(0.25):
            yield Sentence(text[: match.start()], one, insult)
