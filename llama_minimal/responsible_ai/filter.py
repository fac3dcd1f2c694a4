"""An output filter for text that is still being written: what might have to be refused is not shown yet.

Both filters take text piece by piece, however it is cut, and give out what is certain to be allowed. They read one
character after another, so that what is shown depends on the text alone, and not on where it was cut.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

MARK = "[…]"
_ENDS, _WIDE_ENDS = ".!?…", "。！？"
_CLOSERS = "\"'”’」』）)]"

Judge = Callable[[str, str], bool]
"""(what was written before, a sentence) -> whether to refuse the sentence."""


class Filter(Protocol):
    """What takes text in pieces, and gives out what may be shown."""

    stopped: bool

    def push(self, text: str) -> str:
        """Take the next piece and return what may be shown now."""

    def finish(self) -> str:
        """Return what was held back and may be shown; no text follows."""


class StringFilter:
    """Never show certain strings: what may be the beginning of one is held back until it is certain.

    Of strings that overlap, the one that ends first is refused, and of those that end together the longest. Capitals
    make no difference.

    Args:
        refused: strings that are never shown, also within words.
        mark: shown in place of each; None ends the text before the first.

    Raises:
        ValueError: if a string is empty, or the mark could complete one.

    Example:
        >>> shown = StringFilter(["secret"])
        >>> [shown.push(piece) for piece in ("My se", "cr", "et! A se", "al. An s")]
        ['My ', '', '[…]! A ', 'seal. An ']
        >>> shown.finish()
        's'
    """

    def __init__(self, refused: Sequence[str], *, mark: str | None = MARK) -> None:
        if isinstance(refused, str) or not all(isinstance(text, str) and text for text in refused):
            raise ValueError(f"refused={refused!r} must be a list of strings that are not empty")
        self._refused = sorted({_folded(text) for text in refused}, key=len, reverse=True)
        for text in self._refused:
            if mark and _touch(_folded(mark), text):
                raise ValueError(f"the mark {mark!r} could be part of the refused {text!r}; choose another mark")
        self.stopped, self.n_refused, self._mark, self._pending = False, 0, mark, ""

    def push(self, text: str) -> str:
        """Take the next piece and return what may be shown now."""
        return "".join([self._take(letter) for letter in text])

    def finish(self) -> str:
        """Return what was held back and may be shown; no text follows."""
        rest, self._pending = self._pending, ""
        return rest

    def _take(self, letter: str) -> str:
        if self.stopped:
            return ""
        self._pending += letter
        folded = _folded(self._pending)
        found = next((text for text in self._refused if folded.endswith(text)), None)
        if found is not None:
            shown, self._pending = self._pending[: -len(found)], ""
            self.n_refused, self.stopped = self.n_refused + 1, self._mark is None
            return shown + (self._mark or "")
        keep = max((_overlap(folded, text) for text in self._refused), default=0)
        shown = self._pending[: len(folded) - keep]
        self._pending = self._pending[len(shown) :]
        return shown


class SentenceFilter:
    """Show a sentence when it is whole and a judge has allowed it; nothing of a refused one is ever shown.

    A sentence ends with ``.``, ``!``, ``?`` or ``…``, and quotes that close, before a space; with ``。``, ``！`` or
    ``？``; at the end of a line; or when it is ``longest`` characters long. Its space stands before it.

    Args:
        refuses: called once for each sentence, with all that was written before, refused or not.
        mark: shown in place of a refused sentence; None ends the text before the first.
        longest: the most characters that are held back.

    Raises:
        ValueError: if ``longest`` is not positive.
    """

    def __init__(self, refuses: Judge, *, mark: str | None = MARK, longest: int = 600) -> None:
        if longest < 1:
            raise ValueError(f"longest={longest} must be at least 1 character")
        self.stopped, self.n_refused, self._mark, self._refuses = False, 0, mark, refuses
        self._before, self._pending, self._longest = "", "", longest

    def push(self, text: str) -> str:
        """Take the next piece and return what may be shown now."""
        return "".join([self._take(letter) for letter in text])

    def finish(self) -> str:
        """Return what was held back and may be shown; no text follows."""
        return self._judge()

    def _take(self, letter: str) -> str:
        ended = _is_whole(self._pending, letter) or len(self._pending) == self._longest
        shown = self._judge() if ended else ""
        if not self.stopped:
            self._pending += letter
        return shown

    def _judge(self) -> str:
        text, self._pending = self._pending, ""
        if not text.strip():
            self._before += text
            return text
        refused = self._refuses(self._before, text)
        self._before += text
        if not refused:
            return text
        self.n_refused, self.stopped = self.n_refused + 1, self._mark is None
        space = text[: len(text) - len(text.lstrip())]
        return space + self._mark if self._mark is not None else ""


def filtered(pieces: Iterable[str], *filters: Filter) -> Iterator[str]:
    """Yield what may be shown of a text that comes in pieces, such as ``stream``'s; joined, it is the shown text.

    Args:
        pieces: read until they end, or a filter ends the text.
        filters: in the order in which they see the text; put a ``StringFilter`` last, and what it refuses is in nothing
            that is shown.
    """
    for piece in pieces:
        shown = piece
        for one in filters:
            shown = one.push(shown)
        if shown:
            yield shown
        if any(one.stopped for one in filters):
            break
    rest = ""
    for one in filters:
        rest = one.push(rest) + one.finish()
    if rest:
        yield rest


def _is_whole(text: str, following: str) -> bool:
    """Return whether a sentence is over, from what stands before and after this place."""
    body = text.rstrip(_CLOSERS)
    if not body.strip():
        return False
    if following == "\n":
        return True
    if body[-1] in _WIDE_ENDS:
        return following not in _WIDE_ENDS + _CLOSERS
    return body[-1] in _ENDS and following.isspace()


def _folded(text: str) -> str:
    """Return a text in small letters, as long as it was: a letter with two small ones stays as it is."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def _overlap(text: str, refused: str) -> int:
    """Return the length of the longest end of ``text`` that is a beginning of ``refused``."""
    return next((n for n in range(min(len(text), len(refused) - 1), 0, -1) if refused.startswith(text[-n:])), 0)


def _touch(mark: str, refused: str) -> bool:
    """Return whether a mark, with text around it, could contain a refused string or a part of one."""
    return mark in refused or refused in mark or _overlap(mark, refused) > 0 or _overlap(refused, mark) > 0
