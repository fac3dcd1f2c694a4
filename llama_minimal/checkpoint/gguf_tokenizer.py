"""A tokenizer as GGUF files hold it: tokens, merges or scores, and what stands before and after a text.

Every tokenizer is taken as the ``tokenizer.json`` that says the same. llama.cpp cuts text by rules of its own, each
with a name; a file names one, and cannot say another. It takes keys that are left out for defaults, without a word.
"""

import json
from typing import Any

from llama_minimal.model import Llama
from llama_minimal.tokenizer import TextCodec, Tokenizer
from llama_minimal.tokenizer.patterns import LLAMA, LLAMA3

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_ENDS = ("eos", "eot", "eom")  # of a text, a turn, a message: where llama.cpp stops
_SPACE = "▁"

# How text is cut -> the name that llama.cpp has for it, and whether a piece that is a token is that token there,
# whatever its merges give. Not "gpt-2": that one cuts alike, but takes spaces out of what it decodes.
_Steps = tuple[tuple[Any, ...], ...]
_BYTES = ("ByteLevel", False, False)
_CUTS: dict[_Steps, tuple[str, bool]] = {
    # Ours has no name there. GPT-2's differs from it where an apostrophe and s, t, m, d, ll, re or ve begin a word,
    # and in runs of more than 64 characters.
    (("Split", LLAMA), _BYTES): ("trillion", False),
    (("ByteLevel", False, True),): ("trillion", False),
    (("Split", LLAMA3), _BYTES): ("llama-bpe", True),
    (("Digits", True), ("ByteLevel", False, True)): ("smollm", False),
}


def tokenizer_values(tokenizer: TextCodec | None, model: Llama) -> dict[str, Any]:
    """Return the keys that describe a tokenizer, without ``tokenizer.`` in front.

    Raises:
        ValueError: if llama.cpp would give some text other ids, or end texts elsewhere; the message says why.
    """
    if tokenizer is None:
        return {"ggml.model": "none"}
    n_tokens = model.config.vocab_size
    if tokenizer.vocab_size > n_tokens:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model embeddings for {n_tokens}; a GGUF file "
            f"needs one for each"
        )
    content = json.loads(tokenizer.to_json() if isinstance(tokenizer, Tokenizer) else tokenizer.as_tokenizer_json())
    _check(content, tokenizer)
    is_byte_level = not content["model"].get("byte_fallback")
    values = (_byte_level if is_byte_level else _sentencepiece)(content)
    names, kinds = _tokens(content, n_tokens)
    values |= {"ggml.tokens": names, "ggml.token_type": kinds}  # without types, special tokens are text
    if not is_byte_level:
        values["ggml.scores"] = _scores(content, names, kinds)
    values |= _roles(tokenizer)
    if template := tokenizer.companions.chat_template():
        values["chat_template"] = template
    return values


def _check(content: dict[str, Any], tokenizer: TextCodec) -> None:
    model = content["model"]
    if model["type"] != "BPE":
        raise ValueError(f"the tokenizer is {model['type']}; GGUF files of LLaMA hold byte-pair encodings (BPE)")
    if odd := [n for n in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(n)]:
        raise ValueError(f"the tokenizer has {odd[0]}={model[odd[0]]!r}, which a GGUF file cannot say")
    for token in content.get("added_tokens", ()):
        if odd := [flag for flag in ("single_word", "lstrip", "rstrip") if token.get(flag)]:
            raise ValueError(f"the token {token['content']!r} has {odd[0]}=true, which a GGUF file cannot say")
    if tokenizer.start_ids not in ((), (tokenizer.bos_id,)):
        raise ValueError(
            f"the tokenizer begins texts with the tokens {tokenizer.start_ids}; a GGUF file has one, or none"
        )


def _tokens(content: dict[str, Any], n_tokens: int) -> tuple[list[str], list[int]]:
    """Return name and kind of each id; ids that no token has are filled, for there is one for each embedding."""
    names, kinds = [f"[UNUSED_{i}]" for i in range(n_tokens)], [_UNUSED] * n_tokens
    for name, i in content["model"]["vocab"].items():
        is_byte = content["model"].get("byte_fallback") and len(name) == 6 and name.startswith("<0x")
        names[i], kinds[i] = name, _BYTE if is_byte else _NORMAL
    for token in content.get("added_tokens", ()):
        names[token["id"]], kinds[token["id"]] = token["content"], _CONTROL if token["special"] else _USER_DEFINED
    unknown = content["model"].get("unk_token")
    if unknown in names:
        kinds[names.index(unknown)] = _UNKNOWN
    if len(set(names)) < n_tokens:
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"two tokens of the tokenizer are called {twice!r}; in a GGUF file each has its own name")
    return names, kinds


def _roles(tokenizer: TextCodec) -> dict[str, Any]:
    if not tokenizer.eos_ids:
        raise ValueError(
            "no token of the tokenizer ends a text, and a GGUF file that names none means one of its words"
        )
    if len(tokenizer.eos_ids) > len(_ENDS):
        raise ValueError(f"{len(tokenizer.eos_ids)} tokens end a text; a GGUF file can name {len(_ENDS)}")
    ids = dict(zip(_ENDS, tokenizer.eos_ids, strict=False))  # left out, eos is token 11, or with sentencepiece 2
    # Left out, bos is token 11, or 1; programs put it before an empty text. GPT-2's convention where there is none.
    ids["bos"] = tokenizer.eos_ids[0] if tokenizer.bos_id is None else tokenizer.bos_id
    if tokenizer.pad_id is not None:
        ids["padding"] = tokenizer.pad_id
    values = {f"ggml.{role}_token_id": i for role, i in ids.items()}
    # Left out, whether a text gets a bos depends on the kind of tokenizer.
    return values | {"ggml.add_bos_token": bool(tokenizer.start_ids), "ggml.add_eos_token": False}


# ------------------------------------------------------------------ byte-level


def _byte_level(content: dict[str, Any]) -> dict[str, Any]:
    if content.get("normalizer") is not None:
        raise ValueError(
            f"the tokenizer changes characters first ({content['normalizer']}), which a GGUF file cannot say"
        )
    steps = _steps(content.get("pre_tokenizer") or {})
    if steps not in _CUTS:
        raise ValueError(
            f"the tokenizer cuts text in a way that has no name in llama.cpp, or none known here: {steps}; known are "
            f"those of GPT-2, Llama 3, SmolLM2 and this package"
        )
    cut, takes_whole = _CUTS[steps]
    model = content["model"]
    if bool(model.get("ignore_merges")) != takes_whole and (token := _unreachable(content)):
        raise ValueError(
            f"the merges of the tokenizer do not make its token {token!r}; llama.cpp would encode it otherwise"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    # Left out, the cut is "default", which is none of these.
    return {"ggml.model": "gpt2", "ggml.pre": cut, "ggml.merges": merges}


def _steps(cut: dict[str, Any]) -> _Steps:
    """Return what a pre-tokenizer does, without what changes no ids."""
    kind = cut.get("type")
    if kind == "Sequence":
        return tuple(step for part in cut["pretokenizers"] for step in _steps(part))
    if kind == "ByteLevel":
        return (("ByteLevel", cut.get("add_prefix_space", True), cut.get("use_regex", True)),)
    if kind == "Digits":
        return (("Digits", cut.get("individual_digits", False)),)
    if kind == "Split" and cut.get("behavior") == "Isolated" and not cut.get("invert"):
        return (("Split", cut["pattern"].get("Regex")),)
    return ((kind, json.dumps(cut, ensure_ascii=False)),)


def _unreachable(content: dict[str, Any]) -> str | None:
    """Return a token that the merges do not make of its own characters, or None."""
    from tokenizers import Tokenizer as Library

    by_merges = json.dumps(content | {"model": content["model"] | {"ignore_merges": False}})
    model = Library.from_str(by_merges).model
    added = {token["content"] for token in content.get("added_tokens", ())}
    return next((t for t in content["model"]["vocab"] if t not in added and len(model.tokenize(t)) != 1), None)


# --------------------------------------------------------------- sentencepiece


def _sentencepiece(content: dict[str, Any]) -> dict[str, Any]:
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    in_front = {"type": "Prepend", "prepend": _SPACE}
    if content.get("pre_tokenizer") is not None or steps not in ([spaces], [in_front, spaces]):
        raise ValueError(
            f"the tokenizer treats spaces in a way that a GGUF file cannot say (normalizer {normalizer}, pre_tokenizer "
            f"{content.get('pre_tokenizer')}); it can say LLaMA's: a space in front of a text, or none"
        )
    # Left out, there is a space in front.
    return {
        "ggml.model": "llama",
        "ggml.add_space_prefix": len(steps) == 2,
        "ggml.unknown_token_id": content["model"]["vocab"][content["model"]["unk_token"]],
    }


def _scores(content: dict[str, Any], names: list[str], kinds: list[int]) -> list[float]:
    """Return a score for each token: the earlier its merge, the higher.

    SentencePiece has no list of merges: of all neighbors that are a token together, those with the highest score are
    joined first.

    Raises:
        ValueError: if the merges say something else.
    """
    normal = {name for name, kind in zip(names, kinds, strict=True) if kind == _NORMAL}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
    made = [left + right for left, right in merges if left + right in normal]
    ranks = {token: rank for rank, token in enumerate(dict.fromkeys(made))}  # each token at its first merge
    in_turn = [ranks[token] for token in made]
    cuts = sum(t[:i] in normal and t[i:] in normal for t in normal for i in range(1, len(t)))
    if in_turn != sorted(in_turn) or cuts != len(made):
        raise ValueError(
            "the merges of the tokenizer are not those of a SentencePiece model (every way to make a token, the best "
            "token first), and a GGUF file holds scores in their place"
        )
    lowest = -float(len(ranks))  # of what no merge makes
    return [-float(ranks[name]) if name in ranks else lowest for name in names]
