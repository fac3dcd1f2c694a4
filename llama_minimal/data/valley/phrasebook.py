"""Phrase books: the wordings of events in one language, read from plain text.

A section ``[lose]`` holds the wordings of an event, one per line. ``@evening,!rainy`` in front of a line says when it
fits: every tag must be true (or, with "!", untrue) of the event. Within a line,

    {a}  {x.the}  {p.at}     a role, in a form that the language knows (see its grammar)
    {=bird}                  any word of a list in words.toml
    [soon|after a while|]    one of these, perhaps nothing; may be nested

Sections ``[why lose]`` hold the same event as a reason, for {why} in the event that it caused.
"""

import re
import tomllib
from functools import cache
from typing import NamedTuple

from llama_minimal.data.valley.world import DATA

_TOKEN = re.compile(r"\{[^{}]*\}|[\[\]|]|[^\[\]{}|]+")
# A sentence ends at a full stop, and at "!" or "?" before a capital: '"Stop!" said the fox' goes on.
_SENTENCE_END = re.compile(r"(?<=[.!?] )|(?<=\.\" )|(?<=[!?]\" )(?=[A-Z\"])")


class Slot(NamedTuple):
    """A place for a role."""

    role: str
    form: str
    capital: bool


class Pick(NamedTuple):
    """A place for any word of a list."""

    words: str
    form: str


class Choice(NamedTuple):
    """A place for one of several continuations."""

    options: tuple[tuple, ...]


class Break(NamedTuple):
    """The end of a sentence."""


class Phrase(NamedTuple):
    """One wording of an event."""

    nodes: tuple
    tags: frozenset[str]
    without: frozenset[str]
    sentences: int  # at most
    source: str

    def fits(self, tags: set[str]) -> bool:
        """Return whether the wording can be used where these tags are true."""
        return self.tags <= tags and self.without.isdisjoint(tags)


class Phrasebook(NamedTuple):
    """All wordings and words of a language."""

    phrases: dict[str, list[Phrase]]
    words: dict


@cache
def phrasebook(language: str) -> Phrasebook:
    """Read the phrase book of a language: the ``.txt`` files and ``words.toml`` in its folder."""
    folder = DATA / language
    phrases: dict[str, list[Phrase]] = {}
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name):
        section = None
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            if line.startswith("[") and line.endswith("]") and "|" not in line:
                section = phrases.setdefault(line[1:-1], [])
            elif line and not line.startswith("#"):
                try:
                    section.append(_phrase(line))
                except (ValueError, AttributeError) as error:
                    raise ValueError(f"{language}/{file.name}, line {number}: {error}") from None
    return Phrasebook(phrases, tomllib.loads((folder / "words.toml").read_text("utf-8")))


def _phrase(line: str) -> Phrase:
    tags = []
    text = line
    if line.startswith("@"):
        head, _, text = line.partition(" ")
        tags = head[1:].split(",")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"a brace is not closed in {text!r}")
    nodes, end = _parse(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"a bracket is not opened, or a bar stands outside of one, in {text!r}")
    return Phrase(
        nodes,
        frozenset(tag for tag in tags if not tag.startswith("!")),
        frozenset(tag[1:] for tag in tags if tag.startswith("!")),
        1 + _breaks(nodes),
        text,
    )


def _breaks(nodes: tuple) -> int:
    """Return the most sentence ends that a wording can have within."""
    choices = (node for node in nodes if isinstance(node, Choice))
    return sum(isinstance(node, Break) for node in nodes) + sum(max(map(_breaks, node.options)) for node in choices)


def _parse(tokens: list[str], start: int) -> tuple[tuple, int]:
    """Return the nodes up to a closing bracket or a bar, and where that is."""
    nodes: list = []
    while start < len(tokens) and tokens[start] not in ("]", "|"):
        token = tokens[start]
        if token == "[":
            options = []
            while True:
                option, start = _parse(tokens, start + 1)
                options.append(option)
                if start == len(tokens):
                    raise ValueError("a bracket is not closed")
                if tokens[start] == "]":
                    break
            nodes.append(Choice(tuple(options)))
        elif token[0] == "{":
            nodes.append(_slot(token[1:-1]))
        else:
            for part in _SENTENCE_END.split(token):
                nodes += [part, Break()]
            nodes.pop()
        start += 1
    return tuple(node for node in nodes if node != ""), start


def _slot(text: str) -> Slot | Pick:
    name, _, form = text.partition(".")
    if name.startswith("="):
        return Pick(name[1:], form)
    return Slot(name[0].lower() + name[1:], form, name[0].isupper())
