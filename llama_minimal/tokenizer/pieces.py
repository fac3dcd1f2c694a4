"""Count the pieces of a text, cut it between pieces, and turn it into bytes and back."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from llama_minimal.tokenizer.patterns import LONGEST_PIECE, LONGEST_SPACES, Split, split_llama

# See ``last_piece_end``.
_PIECE_END = re.compile(r"\S(?= )|\S\n(?=\S)")


def count_pieces(texts: Iterable[str], split: Split = split_llama) -> Counter[bytes]:
    """Count how often each piece occurs; learning needs nothing else of the text."""
    counts: Counter[str] = Counter()
    for text in texts:
        for block in split_blocks(text):
            counts.update(split(block))
    return Counter({to_bytes(piece): count for piece, count in counts.items()})


def split_blocks(text: str, *, size: int = 1 << 15) -> list[str]:
    """Cut a long text into blocks of about ``size`` characters that have, one by one, the pieces of the whole."""
    blocks = []
    start = 0
    while found := _PIECE_END.search(text, start + size):
        blocks.append(text[start : found.end()])
        start = found.end()
    return [*blocks, text[start:]]


def last_piece_end(text: str) -> int:
    """Return the last place before which pieces are final, whatever follows the text; 0 if none is certain.

    By every pattern a piece begins with a space that follows a visible character, and also after a line break
    between two visible characters.
    """
    space = _rfind(text, " ", lambda i: not text[i - 1].isspace())
    line_break = _rfind(text[:-1], "\n", lambda i: not (text[i - 1].isspace() or text[i + 1].isspace()))
    return max(space, line_break + bool(line_break))


def last_llama_piece_end(text: str) -> int:
    """Return what ``last_piece_end`` does for the llama pattern, whose pieces are short: 0 only for a short text."""
    end = last_piece_end(text)
    if end > len(text) // 2:
        return end
    # A piece is decided by its own characters and one more, so all but the last few are. Spaces at the end of a text
    # are one piece, though within it the last of them is apart; unless there are so many that they fill a piece.
    end = len(text)
    for piece in reversed(split_llama(text)):
        if len(text) - end > LONGEST_PIECE + 1 and (len(piece) == LONGEST_SPACES or not piece.isspace()):
            return end
        end -= len(piece)
    return 0


def _rfind(text: str, found: str, is_good: Callable[[int], bool]) -> int:
    place = text.rfind(found)
    while place > 0 and not is_good(place):
        place = text.rfind(found, 0, place)
    return max(place, 0)


def to_bytes(text: str) -> bytes:
    """Return the UTF-8 bytes of a text; U+DC80 to U+DCFF stand for single bytes that are not UTF-8 (PEP 383).

    Raises:
        ValueError: if the text holds any other lone surrogate, which no bytes stand for.
    """
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is "
            "not text in any encoding; remove it, for instance with text.encode('utf-8', 'replace').decode('utf-8')"
        ) from None


def to_text(data: str | bytes) -> str:
    """Return the same text for the same bytes, whether they come as bytes or as a string.

    Raises:
        ValueError: as ``to_bytes``.
    """
    if isinstance(data, str):
        # Escaped bytes that spell a valid character together become that character.
        data = to_bytes(data)
    if not isinstance(data, bytes):
        raise ValueError(f"a text must be a str or bytes, not a {type(data).__name__}")
    return data.decode("utf-8", errors="surrogateescape")


def to_texts(chunks: Iterable[str | bytes], *, size: int) -> Iterator[str]:
    """Yield a text that comes in chunks as ``to_text`` would give it, in chunks of ``size`` characters or less.

    Raises:
        ValueError: as ``to_bytes``.
    """
    # A chunk may end within a character, if its bytes are escaped; the decoder keeps them for the next one.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            part = chunk[start : start + size]
            yield decoder.decode(to_bytes(part) if isinstance(part, str) else part)
    yield decoder.decode(b"", final=True)
