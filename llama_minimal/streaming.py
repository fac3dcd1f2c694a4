"""Text while it is being written: whole characters only, and nothing that may become a stop string."""

from collections.abc import Sequence

from llama_minimal.tokenizer import TextCodec

UNFINISHED = "\ufffd"  # what decoding puts for bytes that are not (yet) a character
_MOST_UNFINISHED = 3  # a character has at most four bytes
_LONGEST_WINDOW, _SHORTEST_WINDOW = 12, 6  # tokens; more than a character's bytes, so that no character is cut in use


class TextStream:
    """Turn token ids into text, piece by piece; joined, the pieces are decode(prompt + new) without decode(prompt).

    Where the prompt ends inside a character, the whole character belongs to the new text.

    Tokens are decoded in a short window with their neighbors on the left, because some tokenizers drop a space at
    the start of a text, and because a character may be spread over several tokens. So the work grows with the
    number of tokens, and not with its square.

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
        # Special tokens decode to nothing: a window full of them would tell nothing of its place.
        self._special = frozenset(tokenizer.special_tokens.values())
        known = range(tokenizer.vocab_size)  # a model may have more
        self._ids = [token for token in prompt if token in known and token not in self._special]
        self._taken = tokenizer.decode(self._ids)  # the part of the window's text that is no news
        self._shorten(self._taken)
        self._pending = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Take one more token and return the text that is certain now."""
        if token in self._special:
            return ""
        self._ids.append(token)
        window = self._tokenizer.decode(self._ids)
        new = self._take(_certain(window))
        self._shorten(window)
        return self._release(new)

    def finish(self) -> str:
        """Return what was held back; no token follows."""
        if self.stopped:
            return ""
        rest = self._release(self._take(self._tokenizer.decode(self._ids)))
        rest, self._pending = rest + ("" if self.stopped else self._pending), ""
        return rest

    def _take(self, text: str) -> str:
        """Return what is new in the window's text."""
        # Only the end of the prompt can change: half a character that becomes whole.
        new = text[_n_common(self._taken, text) :]
        if new:
            self._taken = text
        return new

    def _shorten(self, window: str) -> None:
        """Let the window begin later if it is long; what its first tokens become then differs, what is new does not."""
        if len(self._ids) <= _LONGEST_WINDOW or not window.startswith(self._taken):
            return
        n_held = len(window) - len(self._taken)
        end = self._tokenizer.decode(self._ids[-_SHORTEST_WINDOW:])
        if len(end) > n_held:  # else these are spaces that are dropped at the start of a text
            self._ids, self._taken = self._ids[-_SHORTEST_WINDOW:], end[: len(end) - n_held]

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


def _certain(text: str) -> str:
    """Return a text without the end that further bytes may change."""
    end = len(text)
    while end > max(0, len(text) - _MOST_UNFINISHED) and text[end - 1] == UNFINISHED:
        end -= 1
    return text[:end]


def _n_common(a: str, b: str) -> int:
    """Return the length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
