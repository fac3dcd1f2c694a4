"""Documents: the texts of a corpus by name, those too long for memory in chunks."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

from llama_minimal.tokenizer.pieces import last_piece_end

# A longer text is not kept in memory but read again whenever it is needed.
_LONG = 1 << 22
# A longer line separates nothing, so it need not be whole.
_LONGEST_SEPARATOR = 1 << 16
_SHOWN_FIELDS = 30

ReadChunks = Callable[[], Iterator[str]]


class Document(NamedTuple):
    """One text with a name; the unit in which a corpus is split."""

    name: str
    text: str

    def chunks(self) -> Iterator[str]:
        """Yield the text in one chunk."""
        yield self.text


@dataclass(frozen=True, slots=True)
class LongDocument:
    """A document whose text is not in memory.

    Args:
        name: as of a ``Document``.
        read: yields the text in chunks, from its beginning at each call.
    """

    name: str
    read: ReadChunks

    @property
    def text(self) -> str:
        """Return the whole text, read anew."""
        return "".join(self.chunks())

    def chunks(self) -> Iterator[str]:
        """Yield the text in chunks, read anew; they end where a word ends, if words do."""
        held = ""
        for chunk in self.read():
            text = held + chunk
            end = last_piece_end(text) or len(text)
            yield text[:end]
            held = text[end:]
        yield held


def text_documents(name: str, read: ReadChunks, separator: str | None) -> Iterator[Document | LongDocument]:
    """Yield a text as one document, or what lies between lines that are ``separator``, without line breaks around."""
    if separator is None:
        yield _document(name, read(), read)
        return
    for number, parts in groupby(_separated(read(), separator), key=itemgetter(0)):
        again = partial(_read_part, read, separator, number)
        yield _document(f"{name}:{number + 1}", _trimmed(part for _, part in parts), again)


def json_documents(name: str, read: ReadChunks, text_field: str, *, where: str) -> Iterator[Document]:
    """Yield one document per line, the string in its field ``text_field``; ``where`` is for error messages.

    Raises:
        ValueError: if a line is not a JSON object with such a field.
    """
    lines = (line for block in _whole_lines(read()) for line in block.split("\n")[:-1])
    for number, line in enumerate(lines, start=1):
        # Files that were put together may have a byte order mark at any line.
        if line := line.removeprefix("\ufeff").strip():
            yield Document(f"{name}:{number}", _field(line, text_field, f"{where}, line {number},"))


def _document(name: str, chunks: Iterator[str], read: ReadChunks) -> Document | LongDocument:
    held: list[str] = []
    length = 0
    for chunk in chunks:
        length += len(chunk)
        # The rest is read all the same: what is not text is noticed now.
        held = [*held, chunk] if length <= _LONG else []
    return Document(name, "".join(held)) if length <= _LONG else LongDocument(name, read)


def _read_part(read: ReadChunks, separator: str, number: int) -> Iterator[str]:
    for found, parts in groupby(_separated(read(), separator), key=itemgetter(0)):
        if found == number:
            yield from _trimmed(part for _, part in parts)
            return


def _separated(chunks: Iterable[str], separator: str) -> Iterator[tuple[int, str]]:
    line = re.compile(rf"^[ \t]*{re.escape(separator)}[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
    number, is_whole = 0, True
    for block in _whole_lines(chunks, longest=max(_LONGEST_SEPARATOR, 2 * len(separator))):
        # What goes on in the middle of a line separates nothing.
        begun = 0 if is_whole else block.find("\n") + 1 or len(block)
        first, *others = line.split(block[begun:])
        yield number, block[:begun] + first
        for part in others:
            number += 1
            yield number, part
        is_whole = block.endswith("\n")


def _whole_lines(chunks: Iterable[str], *, longest: float = math.inf) -> Iterator[str]:
    """Cut a text anew, at the ends of lines; the last gets an end if it has none, and longer ones come in parts."""
    begun: list[str] = []
    for chunk in chunks:
        end = chunk.rfind("\n") + 1
        if end:
            yield "".join([*begun, chunk[:end]])
            begun = []
        begun.append(chunk[end:])
        if longest < math.inf and sum(map(len, begun)) > longest:
            yield "".join(begun)
            begun = []
    if last := "".join(begun):
        yield last + "\n"


def _trimmed(parts: Iterable[str]) -> Iterator[str]:
    """Yield a text without line breaks at its beginning and end."""
    held, has_begun = "", False
    for part in parts:
        text = held + (part if has_begun else part.lstrip("\r\n"))
        has_begun = has_begun or bool(text)
        body = text.rstrip("\r\n")
        held = text[len(body) :]
        yield body


def _field(line: str, text_field: str, where: str) -> str:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a JSON object, such as {{{json.dumps(text_field)}: ...}}")
    if text_field not in values:
        fields = ", ".join(map(json.dumps, islice(values, _SHOWN_FIELDS))) or "none"
        fields += f" and {len(values) - _SHOWN_FIELDS} more" if len(values) > _SHOWN_FIELDS else ""
        raise ValueError(
            f"{where} has no field {json.dumps(text_field)}; its fields are: {fields}; "
            "name the one with the text (--text-field, or text_field=...)"
        )
    text = values[text_field]
    try:
        # JSON can escape half a character (a lone surrogate), which is no text.
        text.encode("utf-8")
    except (AttributeError, UnicodeEncodeError):
        raise ValueError(f"{where} has a field {json.dumps(text_field)} that is not a Unicode string") from None
    return text
