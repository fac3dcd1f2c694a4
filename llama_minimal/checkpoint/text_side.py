"""What stands beside the weights: the tokens that end a text, and the tokenizer as transformers reads it."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from llama_minimal.config import read_json
from llama_minimal.model import Llama
from llama_minimal.tokenizer import SentencePieceTokenizer, TextCodec, TiktokenTokenizer, Tokenizer
from llama_minimal.tokenizer.companions import end_ids
from llama_minimal.tokenizer.huggingface import ORIGIN

GENERATION = "generation_config.json"
_CONFIG = "tokenizer_config.json"
# Left behind by a former tokenizer, one of these would change what the new one means.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", _CONFIG, "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES += ("chat_template.jinja", "chat_template.json")
_ROLES = ("bos", "eos", "pad")


def read_end_ids(folder: Path, *, vocab_size: int) -> tuple[int, ...] | None:
    """Return the tokens that end a text: those of generation_config.json, else of config.json; None if neither says.

    What is no id of the model is left out, with a warning.
    """
    for name in (GENERATION, "config.json"):
        if not (folder / name).is_file():
            continue
        good, bad = end_ids(read_json(folder / name), vocab_size=vocab_size)
        if bad:
            warnings.warn(
                f"{folder / name} has eos_token_id {', '.join(map(str, bad))}, which is no token of the model "
                f"(0 to {vocab_size - 1}) and ends no text",
                stacklevel=3,
            )
        if good:
            return good
    return None


def token_ids(model: Llama, tokenizer: TextCodec | None) -> dict[str, Any]:
    """Return the ids of the special roles as both configs of the transformers library name them; None if absent."""
    ends = (tokenizer.eos_ids if tokenizer else model.eos_ids) or ()
    known = [token_id for token_id in ends if token_id < model.config.vocab_size]
    values: dict[str, Any] = {f"{role}_token_id": getattr(tokenizer, f"{role}_id", None) for role in _ROLES}
    values = {key: i if i is not None and i < model.config.vocab_size else None for key, i in values.items()}
    return values | {"eos_token_id": known if len(known) > 1 else known[0] if known else None}


def write_generation_config(model: Llama, tokenizer: TextCodec | None, folder: Path) -> None:
    """Say which tokens begin, end and fill up a text; what the checkpoint said of generation otherwise is kept."""
    stored = tokenizer.companions.contents.get(GENERATION, {}) if tokenizer else {}
    values = {key: value for key, value in token_ids(model, tokenizer).items() if value is not None}
    if set(end_ids(stored, vocab_size=model.config.vocab_size)[0]) == set(_listed(values.get("eos_token_id"))):
        values |= stored  # in its own words
    if content := stored | values:
        _write(folder / GENERATION, content)


def write_for_transformers(tokenizer: TextCodec, folder: Path, *, max_seq_len: int) -> None:
    """Write what lets ``AutoTokenizer`` give the ids that the tokenizer gives, as far as its own files do not."""
    origin = {}
    if isinstance(tokenizer, SentencePieceTokenizer | TiktokenTokenizer):
        try:
            content = tokenizer.as_tokenizer_json()
        except ValueError as reason:
            warnings.warn(
                f"the tokenizer is saved as tokenizer.model alone, because a tokenizer.json could not say the same: "
                f"{reason}. AutoTokenizer may give other ids",
                stacklevel=4,
            )
            return
        (folder / "tokenizer.json").write_bytes(content)
        origin = {ORIGIN: {hashlib.sha256(content).hexdigest(): tokenizer.fingerprint}}
    stored = tokenizer.companions.contents.get(_CONFIG, {})
    ours = _tokenizer_config(tokenizer, max_seq_len=max_seq_len)
    if isinstance(tokenizer, Tokenizer):
        _write(folder / _CONFIG, stored | ours)
    elif origin:
        # LlamaTokenizer would build its own splitting, which drops a space at the beginning.
        ours = ours | stored | {"tokenizer_class": ours["tokenizer_class"]} | origin
        if isinstance(decoder := stored.get("added_tokens_decoder"), dict):
            # These flags go before those of tokenizer.json. Normalized, a name would have a space in front.
            ours["added_tokens_decoder"] = {
                i: token | {"normalized": False} for i, token in decoder.items() if isinstance(token, dict)
            }
        _write(folder / _CONFIG, ours)
    elif not stored:
        _write(folder / _CONFIG, ours)


def _tokenizer_config(tokenizer: TextCodec, *, max_seq_len: int) -> dict[str, Any]:
    """Say what ``AutoTokenizer`` does not find in ``tokenizer.json``: the class, and the tokens' roles."""
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    roles = {f"{role}_token": names.get(getattr(tokenizer, f"{role}_id")) for role in _ROLES}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_seq_len,
        **{role: name for role, name in roles.items() if name is not None},
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
