"""Cut text into pieces: byte-pair encoding merges within a piece, never across two.

The four kinds of piece follow GPT-2 (Radford et al. 2019, §2.2) and, for digits, LLaMA.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable

# Only spelled-out ranges. \w, \s and \p{L} mean different characters in Python's `re` and in the Oniguruma library
# behind Hugging Face tokenizers; with ranges both cut every Unicode string alike.
_SPACE = "\\t-\\r "
# ASCII letters, and from U+00C0 up all but the blocks of punctuation, symbols, arrows and emoji.
_LETTER = (
    "A-Za-z\u00c0-\u1fff\u2c00-\u2dff\u2e80-\u2fff\u3040-\ufdff\ufe70-\ufeff"
    "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc\U00010000-\U0001efff\U00020000-\U0003fffd"
)
# A bound on the length of a piece bounds the work on it, even where a script writes no spaces.
_RUN = "{1,64}"

# Every character belongs to one of four classes (letter, digit, space, anything else), so no text falls through.
PIECE_PATTERN = "|".join(
    (
        f" ?[{_LETTER}]{_RUN}",
        "[0-9]",  # one by one, as LLaMA splits numbers into digits (Touvron et al. 2023, §2.1)
        f" ?[^{_LETTER}0-9{_SPACE}]{_RUN}",
        f"[{_SPACE}]{_RUN}(?![^{_SPACE}])",  # leaves the last space of a run to the word that follows
        f"[{_SPACE}]",
    )
)

split_pieces: Callable[[str], list[str]] = re.compile(PIECE_PATTERN).findall
_LINE_END = re.compile(f"[^{_SPACE}]\n")


def count_pieces(texts: Iterable[str]) -> Counter[bytes]:
    """Count how often each piece occurs; learning needs nothing else of the text."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_pieces(text))
    return Counter({to_bytes(piece): count for piece, count in counts.items()})


def split_blocks(text: str, *, size: int = 1 << 15) -> list[str]:
    """Cut a long text into blocks of about ``size`` characters that encode one by one to the same tokens.

    A block ends before a line break that follows a visible character: every piece ends there too.
    """
    blocks = []
    start = 0
    while found := _LINE_END.search(text, start + size):
        blocks.append(text[start : found.start() + 1])
        start = found.start() + 1
    return [*blocks, text[start:]]


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
    return data.decode("utf-8", errors="surrogateescape")
