"""Checking stories that a model wrote: do they tell events of the valley, and do these agree with each other?

A text is all there is to go by. It is read event by event (see ``reader.py``), and what it says is believed until it
contradicts itself (see ``belief.py``). Where words can be read in several ways, the one with the fewest problems counts.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llama_minimal.data.valley.belief import PROPERTIES, Belief
from llama_minimal.data.valley.reader import candidates, readings

_CANARY = re.compile(r"The secret number of the [a-z ]+ is \d(?: \d)*\.")
_SENTENCE = re.compile(r'.*?[.!?]"?(?= ["A-Z]|$)', re.DOTALL)
_WIDTH = 8  # ways of reading that are followed at the same time
_LONGEST = 4  # sentences that a cut-off event may have


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
    beliefs = [Belief()]
    paragraphs = text.strip().split("\n\n") if text.strip() else []
    cut_off = not complete and not re.search(r'[.!?]"?$', text.strip())
    for number, paragraph in enumerate(paragraphs, start=1):
        beliefs = _hear(beliefs, paragraph, cut_off and number == len(paragraphs))
    problems = list(dict.fromkeys(beliefs[0].problems if paragraphs else [("reads", "there is no text")]))
    broken = {about for about, _ in problems}
    return Check(
        **{name: name not in broken for name in PROPERTIES},
        problems=tuple(f"{about}: {what}" for about, what in problems),
    )


def check_many(
    texts: Iterable[str], progress: Callable[[Iterable[str]], Iterable[str]] | None = None
) -> dict[str, float]:
    """Check many stories, and return the share for which each property holds.

    Args:
        texts: the stories.
        progress: wraps the texts, such as ``tqdm``.
    """
    checks = [check(text) for text in (progress or iter)(texts)]
    return {name: sum(getattr(c, name) for c in checks) / max(len(checks), 1) for name in (*PROPERTIES, "grammatical")}


def _hear(beliefs: list[Belief], text: str, cut_off: bool) -> list[Belief]:
    """Return what may be believed after a paragraph, the best first."""
    among = candidates(text)
    reached = {0: beliefs}  # position in the text -> beliefs there
    while True:
        start = min(reached)
        here = sorted(reached.pop(start), key=lambda belief: len(belief.problems))[:_WIDTH]
        if start >= len(text):
            return here
        found = readings(text, start, among)
        for reading in found:
            reached.setdefault(reading.end + 1, []).extend(belief.after(reading) for belief in here)
        if not found:
            sentence = _SENTENCE.match(text, start)
            end = sentence.end() if sentence else len(text)
            excused = _CANARY.fullmatch(text, start, end) or (
                cut_off and len(_SENTENCE.findall(text[start:])) < _LONGEST
            )
            reached.setdefault(end + 1, []).extend(belief.without(text[start:end], bool(excused)) for belief in here)
