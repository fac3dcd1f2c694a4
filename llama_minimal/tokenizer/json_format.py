"""The ``tokenizer.json`` of the byte-level tokenizer, as the Hugging Face library ``tokenizers`` reads it."""

from collections.abc import Sequence
from typing import Any

from llama_minimal.tokenizer.bpe import N_BYTES, Pair
from llama_minimal.tokenizer.patterns import PRE_TOKENIZERS


def _byte_alphabet() -> list[str]:
    # JSON holds text, not bytes. So GPT-2 writes each byte as one visible character: itself where Latin-1 has one,
    # else the next free one from U+0100. A space becomes "Ġ" (U+0120).
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(N_BYTES) if byte not in visible]
    return [chr(byte if byte in visible else 0x100 + hidden.index(byte)) for byte in range(N_BYTES)]


BYTE_ALPHABET = _byte_alphabet()


def spell(token: bytes) -> str:
    """Return a token in GPT-2's alphabet of bytes.

    Example:
        >>> spell(b" the")
        'Ġthe'
    """
    return "".join(BYTE_ALPHABET[byte] for byte in token)


def added_token(name: str, token_id: int, *, special: bool = True) -> dict[str, Any]:
    """Return how a token is written that is found in the text as it stands."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": name, **flags}


def begin_with(tokens: dict[str, int]) -> dict[str, Any] | None:
    """Return the post-processor that puts tokens, name -> id, before every text; None for no tokens."""
    if not tokens:
        return None
    start = [{"SpecialToken": {"id": name, "type_id": 0}} for name in tokens]
    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*start, first],
        "pair": [*start, first, *start, second],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in tokens.items()},
    }


def to_json(
    tokens: Sequence[bytes],
    merges: Sequence[Pair],
    special_tokens: dict[str, int],
    *,
    pattern: str = "llama",
    start: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``.

    Args:
        tokens: bytes of every token but the special ones, by id.
        merges: pairs of ids, in the order in which they were learned.
        special_tokens: name -> id.
        pattern: how text is cut into pieces; a key of ``PRE_TOKENIZERS``.
        start: name -> id of the tokens before every text.
    """
    spelled = [spell(token) for token in tokens]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(name, token_id) for name, token_id in special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pattern],
        "post_processor": begin_with(start or {}),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: token_id for token_id, token in enumerate(spelled)},
            "merges": [f"{spelled[left]} {spelled[right]}" for left, right in merges],
        },
    }


def pattern_of(content: dict[str, Any]) -> str | None:
    """Return the pattern by which a ``tokenizer.json`` cuts text, or None if it is none of ours."""
    cuts = content.get("pre_tokenizer") if content.get("normalizer") is None else None
    return next((name for name, ours in PRE_TOKENIZERS.items() if cuts == ours), None)


def is_ours(content: dict[str, Any]) -> bool:
    """Tell whether a ``tokenizer.json`` has the form that this package writes; only then can it be read by hand."""
    pattern = pattern_of(content)
    if pattern is None or pattern == "llama":
        return pattern is not None
    # Others cut text in these ways too. GPT-2 and Llama 3 number the bytes in another order.
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) and not model.get("ignore_merges") else None
    return isinstance(vocab, dict) and [vocab.get(byte) for byte in BYTE_ALPHABET] == list(range(N_BYTES))


def from_json(content: dict[str, Any]) -> tuple[list[Pair], list[str]]:
    """Return the merges and the names of the special tokens that ``to_json`` wrote.

    Raises:
        ValueError: if something is missing, or the ids do not follow from the merges.
    """
    try:
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        special = {token["id"]: token["content"] for token in content["added_tokens"]}
        _check_ids([*vocab.values(), *special], [vocab.get(byte) for byte in BYTE_ALPHABET])
        if len(merges) != len(vocab) - N_BYTES:
            raise ValueError(f"there are {len(merges)} merges for {len(vocab) - N_BYTES} tokens beyond the bytes")
        pairs = [_read_merge(merge, N_BYTES + i, vocab) for i, merge in enumerate(merges)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a part is missing or of the wrong type ({error!r})") from None
    return pairs, [special[token_id] for token_id in sorted(special)]


def _check_ids(ids: list[int], byte_ids: list[int | None]) -> None:
    # Ordinary tokens come first, special ones last: so together, in order of id, they have no gap.
    if sorted(ids) != list(range(len(ids))):
        raise ValueError("the ids of the tokens have gaps or occur twice; expected 0, 1, 2, ...")
    if byte_ids != list(range(N_BYTES)):
        raise ValueError("ids 0 to 255 are not the bytes in order")


def _read_merge(merge: str | list[str], new_id: int, vocab: dict[str, int]) -> Pair:
    # "a b" is how this package writes a merge, ["a", "b"] how newer versions of the library do.
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(part in vocab for part in parts):
        raise ValueError(f"merge {new_id - N_BYTES} is {merge!r}, which does not name two known tokens")
    if vocab.get("".join(parts)) != new_id:
        raise ValueError(f"merge {new_id - N_BYTES} makes {''.join(parts)!r}, which should have the id {new_id}")
    return vocab[parts[0]], vocab[parts[1]]
