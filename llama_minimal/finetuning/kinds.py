"""The three kinds of examples with answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from llama_minimal.config.checks import settle

LONGEST_TEXT = 1_000_000  # characters: a book, and much more than any context holds
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, and how it goes on.

    A space at the end of the prompt moves to the beginning of the completion: tokens have spaces in front of words,
    not behind them.

    Example:
        >>> Pair("Answer: ", "Benny")
        Pair(prompt='Answer:', completion=' Benny')
    """

    prompt: str
    completion: str

    def __post_init__(self) -> None:
        check_texts(prompt=self.prompt, completion=self.completion)
        prompt = self.prompt.rstrip(" ")
        settle(self, "completion", self.prompt[len(prompt) :] + self.completion)
        settle(self, "prompt", prompt)


@dataclass(frozen=True, slots=True)
class Chat:
    """Turns of a chat, each ``{"role": "user", "content": "Hello!"}``, with roles system, user and assistant.

    Raises:
        ValueError: if the turns are not that, or the assistant says nothing.
    """

    messages: tuple[dict[str, str], ...]

    def __post_init__(self) -> None:
        settle(self, "messages", _turns(self.messages))


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text, and which of a few labels it has."""

    text: str
    label: str

    def __post_init__(self) -> None:
        check_texts(text=self.text, label=self.label)


Example = Pair | Chat | Labeled


def check_texts(**texts: object) -> None:
    """Refuse what is no text that can be read and encoded.

    Raises:
        ValueError: that goes on a sentence about an example.
    """
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"has {shown(value)} for {name!r}, which must be a text")
        if "\0" in value:
            raise ValueError(f"has a NUL character in {name!r}")
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"has more than {LONGEST_TEXT:,} characters in {name!r}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # JSON can escape half a character
            raise ValueError(f"has half a character (a lone surrogate) in {name!r}") from None


def _turns(messages: object) -> tuple[dict[str, str], ...]:
    if not isinstance(messages, list | tuple):
        raise ValueError(f"has {shown(messages)} for its messages, which must be a list of turns")
    turns = []
    for message in messages:
        values = message if isinstance(message, Mapping) else {}
        role, content = values.get("role", values.get("from")), values.get("content", values.get("value"))
        if not isinstance(role, str) or role not in _ROLES:
            given = f"the role {shown(role)}" if values else shown(message)
            raise ValueError(f"has a turn with {given}; roles are system, user and assistant (or human and gpt)")
        check_texts(content=content)
        turns.append({"role": _ROLES[role], "content": content})
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise ValueError("has a system turn that is not the first")
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        raise ValueError("has no turn in which the assistant says something")
    return tuple(turns)


def shown(value: object) -> str:
    """Return a value's type and beginning, for an error message."""
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}" if value is not None else "null"
