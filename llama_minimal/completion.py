"""What is written after one prompt: its tokens, its text, and where it ends."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from llama_minimal.streaming import TextStream


@dataclass(slots=True)
class Completion:
    """Hold what was written after one prompt."""

    tokens: list[int] = field(default_factory=list)
    """New token ids, without the prompt and without a stop id."""
    text: str | None = None
    """The new text, cut before a stop string; None without a tokenizer."""
    finish_reason: str = ""
    """``stop`` (a stop id or string came), ``length`` (enough tokens) or ``context`` (max_seq_len is full)."""
    proposed: list[int] = field(default_factory=list, compare=False)
    """How many tokens a draft proposed, for each step after the first token: for each later pass of the model."""
    accepted: list[int] = field(default_factory=list, compare=False)
    """How many of them the model kept. A step writes one token more."""


class Written(NamedTuple):
    """Hold what a row wrote in one step."""

    tokens: list[int]
    """The candidates that were kept, and one more; nothing if the row has no room left."""
    proposed: int = 0
    """How many candidates there were."""


class Row:
    """Follow one row: collect its tokens and text, and see when it ends.

    Args:
        text: turns tokens into text; None where nobody knows how.
        stop_ids: tokens that end the row.
        limit, room: the most new tokens, and how many the context has room for.
    """

    def __init__(self, text: TextStream | None, *, stop_ids: Collection[int], limit: int, room: int) -> None:
        self.text, self.stop_ids, self.limit, self.room = text, stop_ids, limit, room
        self.completion = Completion(text="" if text else None)

    @property
    def done(self) -> bool:
        """Whether nothing follows."""
        return self.completion.finish_reason != ""

    def take(self, written: Written) -> str:
        """Take the tokens of one step; return the text that is certain now."""
        if self.completion.tokens and not self.done:
            self.completion.proposed.append(written.proposed)
            self.completion.accepted.append(len(written.tokens) - 1)
        return "".join([self._push(token) for token in written.tokens])

    def _push(self, token: int) -> str:
        if self.done:
            return ""
        tokens = self.completion.tokens
        if token in self.stop_ids:
            return self._finish("stop")
        tokens.append(token)
        piece = self._add(self.text.push(token)) if self.text else ""
        if self.text and self.text.stopped:
            self.completion.finish_reason = "stop"
        elif len(tokens) == self.limit:
            piece += self._finish("length")
        elif len(tokens) == self.room:
            piece += self._finish("context")
        return piece

    def _finish(self, reason: str) -> str:
        piece = self._add(self.text.finish()) if self.text else ""
        self.completion.finish_reason = "stop" if self.text and self.text.stopped else reason
        return piece

    def _add(self, piece: str) -> str:
        self.completion.text += piece
        return piece
