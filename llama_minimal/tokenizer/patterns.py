"""Where text is cut into pieces: three patterns, each for Python's ``re`` and for the Hugging Face library.

Byte-pair encoding merges within a piece, never across two. The kinds of piece follow GPT-2 (Radford et al. 2019, §2.2).
"""

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Literal, get_args

Split = Callable[[str], list[str]]
PatternName = Literal["llama", "gpt2", "llama3"]

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
LONGEST_SPACES, LONGEST_PIECE = 64, 65

# Every character belongs to one of four classes (letter, digit, space, anything else), so no text falls through.
LLAMA = "|".join(
    (
        f" ?[{_LETTER}]{_RUN}",
        "[0-9]",  # one by one, as LLaMA splits numbers into digits (Touvron et al. 2023, §2.1)
        f" ?[^{_LETTER}0-9{_SPACE}]{_RUN}",
        f"[{_SPACE}]{_RUN}(?![^{_SPACE}])",  # leaves the last space of a run to the word that follows
        f"[{_SPACE}]",
    )
)
# As published: in GPT-2's encoder.py, and in the tokenizer.py of Llama 3.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, to_bytes]}


# Pattern -> the "pre_tokenizer" of a tokenizer.json that cuts so. The library knows GPT-2's by itself.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "llama": _split_by(LLAMA),
    "gpt2": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "llama3": _split_by(LLAMA3),
}

split_llama: Split = re.compile(LLAMA).findall


def splitter(pattern: str) -> Split:
    """Return the function that cuts a text into pieces by a pattern: ``llama``, ``gpt2`` or ``llama3``.

    Letters, numbers and spaces of the latter two are what the ``tokenizers`` library takes for such.

    Raises:
        ValueError: if there is no such pattern.
    """
    if pattern not in get_args(PatternName):
        raise ValueError(f"pattern={pattern!r} is not one of {', '.join(get_args(PatternName))}")
    if pattern == "llama":
        return split_llama
    published = GPT2 if pattern == "gpt2" else LLAMA3
    # A function of this module, so that a tokenizer can be pickled.
    return partial(_split_published, published)


def _split_published(published: str, text: str) -> list[str]:
    # Python tests ranges beyond U+FFFF one by one, so text without such characters is spared them.
    return _compiled(published, has_wide=bool(_WIDE.search(text)))(text)


_WIDE = re.compile("[\U00010000-\U0010ffff]")


@cache
def _compiled(published: str, *, has_wide: bool) -> Split:
    def spell_out(found: re.Match[str]) -> str:
        names = found[0].replace(r"\S", r"\s")
        for name in (r"\s", r"\p{L}", r"\p{N}"):
            names = names.replace(name, _ranges(name, 0x110000 if has_wide else 0x10000))
        inside = names.removeprefix("[").removesuffix("]")
        return f"[^{inside}]" if found[0] == r"\S" else f"[{inside}]"

    return re.compile(re.sub(r"\[.*?\]|\\[sS]|\\p\{.\}", spell_out, published)).findall


def _ranges(name: str, end: int) -> str:
    return "".join(f"{re.escape(a)}-{re.escape(b)}" for a, b in _class_ranges(name) if ord(a) < end)


@cache
def _class_ranges(name: str) -> list[tuple[str, str]]:
    """Return first and last character of each run of a class, as the library has it: Python's Unicode may be older."""
    from tokenizers import Regex, pre_tokenizers

    keep = pre_tokenizers.Split(Regex(f"{name}+"), "removed", invert=True)
    return [(run[0], run[-1]) for block in _all_characters() for run, _ in keep.pre_tokenize_str(block)]


def _all_characters() -> Iterator[str]:
    # Unicode has letters, numbers and spaces in its first four planes only. Blocks, for the library is wasteful.
    for start in range(0, 0x40000, 0x2000):
        yield "".join(chr(code) for code in range(start, start + 0x2000) if not 0xD800 <= code < 0xE000)
