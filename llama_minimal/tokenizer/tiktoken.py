"""The ``tokenizer.model`` of Llama 3 as Meta ships it: a list of tiktoken ranks."""

import base64
import binascii
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from llama_minimal.tokenizer.companions import Companions
from llama_minimal.tokenizer.huggingface import HuggingFaceTokenizer
from llama_minimal.tokenizer.json_format import added_token, begin_with, spell
from llama_minimal.tokenizer.patterns import LLAMA3

# Llama 3's special tokens: meta-llama/llama-models, models/llama3/api/tokenizer.py.
_N_SPECIAL = 256
_NAMED = (
    *("begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"),
    *(
        "finetune_right_pad_id",
        "step_id",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
        "python_tag",
        "image",
    ),
)
_BEGIN, _ENDS = "<|begin_of_text|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


class TiktokenTokenizer(HuggingFaceTokenizer):
    """Read a list of tiktoken ranks, as Meta's own code does, and encode it with the library ``tokenizers``.

    The special tokens are not in the file: they are Llama 3's, and come after the ranks.

    Args:
        path: the file, or the folder with a ``tokenizer.model``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no such list.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path = path / "tokenizer.model" if path.is_dir() else path
        content = path.read_bytes()
        self._files = {"tokenizer.model": content}
        self.companions = Companions.read(path.parent)
        self._json = json.dumps(_to_json(_read_ranks(content, path)), ensure_ascii=False).encode("utf-8")
        self._open(self._json, path)
        if self.eos_ids == (self.eos_id,):
            self.eos_ids = tuple(self.special_tokens[name] for name in _ENDS)
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def as_tokenizer_json(self) -> bytes:
        """Return a ``tokenizer.json`` that gives the same ids."""
        return self._json


def is_tiktoken(content: bytes) -> bool:
    """Tell whether a ``tokenizer.model`` is a list of ranks: lines of a token in base64 and its rank."""
    return re.match(rb"\s*[A-Za-z0-9+/=]+ \d+\r?\n", content) is not None


def _read_ranks(content: bytes, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"{path}, line {number}: not a token in base64 and its rank; download it again") from None
    if sorted(ranks.values()) != list(range(sum(map(bool, lines)))):
        raise ValueError(f"{path}: the ranks have gaps or occur twice; expected 0, 1, 2, ...; download it again")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"{path} lacks the byte {missing[0]}, so it cannot hold every text; download it again")
    return ranks


def _to_json(ranks: dict[bytes, int]) -> dict[str, Any]:
    names = [f"<|{name}|>" for name in _NAMED]
    names += [f"<|reserved_special_token_{2 + i}|>" for i in range(_N_SPECIAL - len(names))]
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spelled = {token: spell(token) for token in ranks}
    model = {
        "type": "BPE",
        "unk_token": None,
        "byte_fallback": False,
        "ignore_merges": True,  # a piece that is a token is that token, whatever its merges would give
        "vocab": {spelled[token]: rank for token, rank in ranks.items()},
        "merges": [[spelled[left], spelled[right]] for left, right in _merges(ranks)],
    }
    return {
        "version": "1.0",
        "added_tokens": [added_token(name, token_id) for name, token_id in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": begin_with({_BEGIN: special[_BEGIN]}),
        "decoder": byte_level,
        "model": model,
    }


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every way to make a token of two others; the token's rank is the merge's."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(left, right) for left, right in cuts if left in ranks and right in ranks]
    return merges
