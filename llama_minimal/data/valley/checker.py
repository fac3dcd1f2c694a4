"""Checking stories that a model wrote: do they tell events of the valley, and do these agree with each other?

A text is all there is to go by. It is read event by event (see ``reader.py``), and what it says is believed until it
contradicts itself (see ``listener.py`` and ``belief.py``). Where words can be read in several ways, the way with the
fewest problems counts.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llama_minimal.data.valley.listener import Listener
from llama_minimal.data.valley.reader import Wording, candidates, readings, wordings

PROPERTIES = ("reads", "names", "pronouns", "objects", "places", "holding", "facts")
_CANARY = re.compile(r"The secret number of the [a-z ]+ is \d(?: \d)*\.")
_SENTENCE = re.compile(r'.+?(?:[.!?]"?(?= ["A-Z0-9])|\Z)', re.DOTALL)
_WIDTH = 8  # ways of reading that are followed at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What is right about a text, and what is not."""

    reads: bool
    """Every sentence tells an event of the valley."""
    names: bool
    """Everyone lives in the valley, is introduced, and is not taken for someone else."""
    pronouns: bool
    """Every pronoun means one character of its gender, who was mentioned just before."""
    objects: bool
    """Things are introduced and keep their adjectives; "it" and "them", "was" and "were" agree."""
    places: bool
    """Nobody is in two places, and who meets is in one."""
    holding: bool
    """Things are where they were left, and only who holds a thing gives, loses or breaks it."""
    facts: bool
    """Everything else that an event needs is true, and reasons were told before."""
    problems: tuple[str, ...]
    sentences: float = 1.0
    """Share of the sentences that could be read, from 0 to 1."""

    @property
    def grammatical(self) -> bool:
        """Whether all of these hold."""
        return not self.problems


def check(text: str, *, complete: bool = True) -> Check:
    """Check a story.

    Args:
        text: paragraphs, with an empty line between them.
        complete: whether the text should end; else its last event may be cut off.
    """
    listeners = [Listener()]
    paragraphs = text.strip().split("\n\n") if text.strip() else []
    cut_off = not complete and not re.search(r'[.!?]"?$', text.strip())
    for number, paragraph in enumerate(paragraphs, start=1):
        listeners = _hear(listeners, paragraph, cut_off and number == len(paragraphs))
    found = listeners[0].problems if paragraphs else [("reads", "there is no text")]
    problems = list(dict.fromkeys(found))
    unread = sum(about == "reads" for about, _ in found)
    share = max(0.0, 1 - unread / max(1, len(_SENTENCE.findall(text))))
    # What cannot be read cannot be right: nonsense must not pass for a story in which nobody is in two places.
    broken = {about for about, _ in problems} | (set(PROPERTIES) if share < 0.5 else set())
    return Check(
        **{name: name not in broken for name in PROPERTIES},
        sentences=share,
        problems=tuple(f"{about}: {what}" for about, what in problems),
    )


def check_many(
    texts: Iterable[str], progress: Callable[[Iterable[str]], Iterable[str]] | None = None
) -> dict[str, float]:
    """Check many stories, and return the share for which each property holds, and that of sentences that can be read.

    Args:
        texts: the stories.
        progress: wraps the texts, such as ``tqdm``.
    """
    checks = [check(text) for text in (progress or iter)(texts)]
    names = ("sentences", *PROPERTIES, "grammatical")
    return {name: sum(getattr(c, name) for c in checks) / max(len(checks), 1) for name in names}


def _hear(listeners: list[Listener], text: str, cut_off: bool) -> list[Listener]:
    """Return what may be known after a paragraph, the best first."""
    among = candidates(text)
    reached = {0: listeners}  # position in the text -> what may be known there
    while True:
        start = min(reached)
        here = sorted(reached.pop(start), key=lambda listener: len(listener.problems))[:_WIDTH]
        if start >= len(text):
            return here
        found = readings(text, start, among)
        for reading in found:
            reached.setdefault(reading.end + 1, []).extend(listener.after(reading) for listener in here)
        if not found:
            tail = cut_off and _is_cut_off(text, start, among)
            end = len(text) if tail else _SENTENCE.match(text, start).end()
            excused = tail or bool(_CANARY.fullmatch(text, start, end))
            reached.setdefault(end + 1, []).extend(listener.without(text[start:end], excused) for listener in here)


def _is_cut_off(text: str, start: int, among: list[Wording]) -> bool:
    """Return whether the rest of a text may be the beginning of one event."""
    starts = [sentence.end() + 1 for sentence in _SENTENCE.finditer(text, start)][:-1]
    short = len(starts) < max(wording.sentences for wording in wordings()[0])
    return short and not any(readings(text, start, among) for start in starts)
