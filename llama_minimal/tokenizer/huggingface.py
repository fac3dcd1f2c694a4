"""Any ``tokenizer.json`` through the library ``tokenizers``: LLaMA-3's, and others' that publish one."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_minimal.config import read_json
from llama_minimal.files import replace_file
from llama_minimal.tokenizer import cuts
from llama_minimal.tokenizer.codec import BOS_NAMES, EOS_NAMES, PAD_NAMES, TextCodec, first_present, require_unicode

# Files beside tokenizer.json that say which tokens mark beginning and end. The first that speaks of a token decides.
_NEIGHBORS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


class HuggingFaceTokenizer(TextCodec):
    """Wrap a ``tokenizer.json``.

    Which tokens mark beginning and end of a text is read from the files that Hugging Face puts beside it; without
    those, from the tokens' names.

    Args:
        path: the file, or its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the library cannot read it, or a file beside it names an unknown token.
    """

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer as Library

        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        # Kept, so that `save` writes what was read, to the byte.
        self._files = {"tokenizer.json": path.read_bytes()}
        self._neighbors = {name: read_json(path.parent / name) for name in _NEIGHBORS if (path.parent / name).is_file()}
        self._files |= {name: (path.parent / name).read_bytes() for name in self._neighbors}
        try:
            self._library = Library.from_buffer(self._files["tokenizer.json"])
        except ValueError as error:
            raise ValueError(f"{path} is not a tokenizer that the tokenizers library reads: {error}") from None
        self._cut_text = cuts.cut_for_json(json.loads(self._files["tokenizer.json"]))
        # A published file may ask for cutting or filling up; here a text keeps its length.
        self._library.no_truncation()
        self._library.no_padding()
        self.vocab_size = 1 + max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
        added = self._library.get_added_tokens_decoder()
        self.special_tokens = {token.content: token_id for token_id, token in sorted(added.items()) if token.special}
        self.bos_id = self._find("bos", BOS_NAMES)
        self.eos_id = self._find("eos", EOS_NAMES)
        self.pad_id = self._find("pad", PAD_NAMES)
        self.fingerprint = hashlib.sha256(self._files["tokenizer.json"]).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Copy ``tokenizer.json``, and the files beside it that name special tokens, into a folder.

        Raises:
            OSError: if a file cannot be written.
        """
        for name, content in self._files.items():
            replace_file(Path(folder) / name, content)

    def _find(self, role: str, names: Sequence[str]) -> int | None:
        for file_name, content in self._neighbors.items():
            for key in (f"{role}_token", f"{role}_token_id"):
                if key in content:
                    return self._token_id(content[key], f"{file_name} has {key}")
        return first_present(names, self.special_tokens)

    def _token_id(self, value: Any, where: str) -> int | None:
        # The three files write a token as a name, as {"content": name, ...}, as an id, or as several ids.
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("content")
        if value is None:
            return None
        token_id = value if isinstance(value, int) else self._library.token_to_id(value)
        if token_id is None or not 0 <= token_id < self.vocab_size:
            raise ValueError(
                f"{where}={json.dumps(value)}, which is not in tokenizer.json; do the files belong together?"
            )
        return token_id

    def _encode_text(self, text: str, allow_special: bool) -> list[int]:
        self._library.encode_special_tokens = not allow_special
        return self._library.encode(require_unicode(text), add_special_tokens=False).ids

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        self._library.encode_special_tokens = True
        texts = [require_unicode(text) for text in texts]
        return [encoding.ids for encoding in self._library.encode_batch_fast(texts, add_special_tokens=False)]

    def _cut(self, text: str) -> tuple[int, int]:
        return self._cut_text(text)

    def _decode_ids(self, ids: list[int], skip_special: bool) -> str:
        return self._library.decode(ids, skip_special_tokens=skip_special)
