"""Text while it is being written: whole characters only, and nothing that may become a stop string."""

from collections.abc import Sequence

from llama_minimal.tokenizer import TextCodec

UNFINISHED = "\ufffd"  # what decoding puts for bytes that are not (yet) a character


class TextStream:
    """Turn token ids into text, piece by piece.

    Tokens are decoded in a short window with their neighbors on the left, because some tokenizers drop a
    space at the start of a text, and because a character may be spread over several tokens.

    Args:
        tokenizer: decodes ids.
        prompt: ids before the first new token.
        stop: the stream ends before the first of these.
    """

    def __init__(self, tokenizer: TextCodec, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise ValueError("a stop string is empty: it would end every text before it starts")
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids = list(prompt[-8:])  # enough to hold the last whole character
        self._start, self._shown = 0, len(self._ids)  # the window, and how many of its ids are text already
        self._pending = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Take one more token and return the text that is certain now."""
        self._ids.append(token)
        window, new = self._new_text()
        if window.endswith(UNFINISHED):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return self._release(new)

    def finish(self) -> str:
        """Return what was held back; no token follows."""
        if self.stopped:
            return ""
        _, new = self._new_text()
        rest = self._release(new)
        rest, self._pending = rest + ("" if self.stopped else self._pending), ""
        return rest

    def _new_text(self) -> tuple[str, str]:
        """Return the text of the window, and its part that has not been shown."""
        before, now = (self._tokenizer.decode(self._ids[self._start : end]) for end in (self._shown, None))
        return now, now[len(before) :]

    def _release(self, text: str) -> str:
        self._pending += text
        found = [index for stop in self._stop if (index := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._pending[: min(found)]
        keep = max((_overlap(self._pending, stop) for stop in self._stop), default=0)
        certain = self._pending[: len(self._pending) - keep]
        self._pending = self._pending[len(certain) :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
