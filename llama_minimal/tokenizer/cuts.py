"""Where a text may be cut so that a tokenizer of others gives its parts the ids that the whole has.

A cut is (end, start): the text ends at one place and goes on from the other; (0, 0) if no place is known. SentencePiece
(Kudo and Richardson 2018) writes a space as "▁" (U+2581) and puts one before the text.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llama_minimal.tokenizer.patterns import GPT2, LLAMA, LLAMA3
from llama_minimal.tokenizer.pieces import last_piece_end

Cut = Callable[[str], tuple[int, int]]

_SPACE = "▁"
# Qwen 2's is Llama 3's but for digits one by one.
_KNOWN_PATTERNS = {LLAMA, GPT2, LLAMA3, LLAMA3.replace("{1,3}", "")}


def nowhere(text: str) -> tuple[int, int]:
    """Return (0, 0): the tokenizer needs its text whole."""
    return 0, 0


def between_pieces(text: str) -> tuple[int, int]:
    """Return where a byte-level tokenizer with a published pattern begins a piece."""
    end = last_piece_end(text)
    return end, end


def before_last_word(text: str) -> tuple[int, int]:
    """Return where the last word begins, with the space before it."""
    end = text.rfind(" ", 0, len(text) - 1)
    while end > 0 and not (_is_solid(text[end - 1]) and _is_solid(text[end + 1])):
        end = text.rfind(" ", 0, end)
    return (end, end) if end > 0 else (0, 0)


def at_last_word(text: str) -> tuple[int, int]:
    """Return where the last word begins, without the space before it: the tokenizer will put one there."""
    end, start = before_last_word(text)
    return end, start + bool(end)


def has_inner_space(tokens: Iterable[str]) -> bool:
    """Tell whether a token reaches from one word into the next; only then do words depend on each other."""
    return any(_SPACE in token.lstrip(_SPACE) for token in tokens)


def cut_for_json(content: dict[str, Any]) -> Cut:
    """Return the function that cuts text for a ``tokenizer.json``."""
    for token in content.get("added_tokens") or ():
        # Ordinary text may name one that is not special. It must not reach across a cut, nor look across.
        if not token.get("special") and (token.get("rstrip") or any(map(str.isspace, token.get("content", "")))):
            return nowhere
    model, normalizer, cuts = content.get("model") or {}, content.get("normalizer"), content.get("pre_tokenizer")
    if model.get("type", "BPE") != "BPE" or model.get("dropout"):
        return nowhere
    # NFC never joins a space with its neighbors.
    if normalizer in (None, {"type": "NFC"}) and _is_byte_level(cuts):
        return between_pieces
    if has_inner_space([*model.get("vocab", ()), *(token["content"] for token in content.get("added_tokens") or ())]):
        return nowhere
    if normalizer is None and _is_metaspace(cuts):
        return before_last_word
    return at_last_word if cuts is None and _writes_spaces(normalizer) else nowhere


def _is_solid(character: str) -> bool:
    # Other characters may be normalized to a space or to nothing.
    return character.isalnum() or "!" <= character <= "~"


def _is_byte_level(cuts: Any) -> bool:
    match cuts:
        case {"type": "ByteLevel", "use_regex": True}:
            return True
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "use_regex": False},
            ],
        }:
            return pattern in _KNOWN_PATTERNS
    return False


def _is_metaspace(cuts: Any) -> bool:
    match cuts:
        case {"type": "Metaspace", "replacement": replacement}:
            return replacement == _SPACE
    return False


def _writes_spaces(normalizer: Any) -> bool:
    match normalizer:
        case {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": before},
                {"type": "Replace", "pattern": {"String": " "}, "content": space},
            ],
        }:
            return before == space == _SPACE
    return False
