"""Tasks with answers: what the record of a story knows, asked in words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from llama_minimal.data.valley.asking import dialogue_turns, questions
from llama_minimal.data.valley.english import English
from llama_minimal.data.valley.reports import report
from llama_minimal.data.valley.story import Language, Story
from llama_minimal.data.valley.world import WORLD

# Shape -> the events whose roles its summary names; an earlier one wins.
_SUMMARY = {
    "lost_and_found": ("lose", "ask"),
    "quarrel": ("want", "advise"),
    "promise": ("promise", "tempt"),
    "secret": ("tell_secret", "ask_secret"),
    "newcomer": ("bring", "newcomer", "open"),
    "present": ("give",),
    "storm": ("search", "break"),
    "journey": ("reason", "blocked", "help_over"),
    "night_noise": ("night_sound", "wake", "find_out"),
    "garden": ("plant", "harvest", "help_water"),
    "contest": ("win",),
    "market_day": ("stall", "count"),
    "sick_day": ("examine",),
    "council": ("rule",),
    "workshop": ("take_to", "work"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt with its answer, made from one story."""

    task: str
    kind: str  # which question, which direction, whose sentiment
    story: Story
    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """Prompt and answer: what a language model trains on."""
        return self.prompt + self.answer

    def as_dict(self) -> dict:
        """Return the example as data that JSON can hold."""
        where = {"seed": self.story.seed, "story": self.story.index, "split": self.story.split}
        return {"task": self.task, "kind": self.kind, **where, "prompt": self.prompt, "answer": self.answer}


def _story(story: Story, language: Language = "english") -> Iterator[Example]:
    yield Example(task="story", kind=story.shape, story=story, prompt="", answer=story.text(language))


def _qa(story: Story) -> Iterator[Example]:
    text = story.text()
    for kind, question, answer in questions(story, story.dice("qa")):
        prompt = f"{text}\n\nQuestion: {question}\nAnswer: "
        yield Example(task="qa", kind=kind, story=story, prompt=prompt, answer=answer)


def _sentiment(story: Story) -> Iterator[Example]:
    prompt = f"{story.text()}\n\nSentiment: "
    yield Example(task="sentiment", kind="ending", story=story, prompt=prompt, answer=story.sentiment)
    for name in story.characters:
        told = [event.roles["feeling"] for event in story.events if event.kind == "feel" and event.roles["a"] == name]
        # Only a feeling that is told, and is the last one, can be asked for.
        if told and story.ending["feels"].get(name) == told[-1]:
            answer = polarity(told[-1])
            prompt = f"{story.text()}\n\nSentiment of {name}: "
            yield Example(task="sentiment", kind="character", story=story, prompt=prompt, answer=answer)


def polarity(feeling: str) -> str:
    """Return positive, neutral or negative."""
    return {1: "positive", 0: "neutral", -1: "negative"}[WORLD["feelings"][feeling]]


def _translate(story: Story) -> Iterator[Example]:
    english, chinese = story.text(), story.text("chinese")
    pairs = (("en-zh", f"{english}\n\nChinese: ", chinese), ("zh-en", f"{chinese}\n\nEnglish: ", english))
    for kind, prompt, answer in pairs:
        yield Example(task="translate", kind=kind, story=story, prompt=prompt, answer=answer)


def _dialogue(story: Story) -> Iterator[Example]:
    turns = dialogue_turns(story, story.dice("dialogue"))
    prompt = f"{story.text()}\n"
    for question, answer in turns:
        prompt += f"\nUser: {question}\nLlama: "
        yield Example(task="dialogue", kind="turn", story=story, prompt=prompt, answer=answer)
        prompt += answer


def _report(story: Story) -> Iterator[Example]:
    found = report(story, story.dice("report"))
    if found is None:
        return
    lines = "\n".join(f"{name}: {value}" for name, value in found.fields.items())
    pairs = (
        ("fields", f"{found.title}: {found.text}\n\nFields:\n", lines),
        ("text", f"{lines}\n\n{found.title}: ", found.text),
        ("story", f"{story.text()}\n\nFields:\n", lines),
    )
    for kind, prompt, answer in pairs:
        yield Example(task="report", kind=f"{found.style} {kind}", story=story, prompt=prompt, answer=answer)


def _summary(story: Story) -> Iterator[Example]:
    prompt = f"{story.text()}\n\nSummary: "
    yield Example(task="summary", kind=story.shape, story=story, prompt=prompt, answer=summary(story))


def _speech(story: Story) -> Iterator[Example]:
    """Yield what is said in the story, labeled: what a filter for unkind speech should learn to catch."""
    for told in story.tell():
        if '"' in told.text:
            answer = "unkind" if story.events[told.event].kind == "unkind" else "kind"
            yield Example(task="speech", kind=answer, story=story, prompt=f"{told.text}\n\nSpeech: ", answer=answer)


def summary(story: Story) -> str:
    """Return the story in one sentence."""
    roles: dict = {}
    kinds = {event.kind for event in story.events}
    for kind in reversed(_SUMMARY[story.shape]):
        for event in story.events:
            roles |= event.roles if event.kind == kind else {}
    telling = English(story.things, story.jobs, story.dice("summary"))
    telling.introduced.update(story.characters)
    fitting = [phrase for phrase in telling.book.phrases[f"summary {story.shape}"] if phrase.fits(kinds)]
    telling.roles = roles
    return telling.say(telling.dice.choice(fitting))


TASKS: dict[str, Callable[[Story], Iterator[Example]]] = {
    "story": _story,
    "qa": _qa,
    "sentiment": _sentiment,
    "translate": _translate,
    "dialogue": _dialogue,
    "report": _report,
    "summary": _summary,
    "speech": _speech,
}


def examples(story: Story, task: str, *, language: Language = "english") -> list[Example]:
    """Return the examples of a task that a story gives: none, one or several.

    Args:
        language: that of the task "story"; the other tasks are in English.

    Raises:
        ValueError: if there is no such task.
    """
    if task == "story":
        return list(_story(story, language))
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not one of {', '.join(TASKS)}")
    # A secret is told in stories alone, so that it is seen as often as asked.
    return list(TASKS[task](replace(story, canary=None)))
