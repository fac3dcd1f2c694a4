"""Any ``tokenizer.json`` through the library ``tokenizers``: LLaMA-3's, and others' that publish one."""

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from llama_minimal.files import replace_file
from llama_minimal.tokenizer import cuts
from llama_minimal.tokenizer.codec import BOS_NAMES, EOS_NAMES, PAD_NAMES, TextCodec, first_present, require_unicode
from llama_minimal.tokenizer.companions import Companions

FILE_NAME = "tokenizer.json"
# Where a tokenizer.json was made from another file, tokenizer_config.json says so: sha256 of the one -> of the other.
ORIGIN = "made_from_sha256"
_ESCAPED = {0xDC80 + byte: "\ufffd" for byte in range(128)}


class HuggingFaceTokenizer(TextCodec):
    """Wrap a ``tokenizer.json``.

    What stands before a text is what the file's post-processor puts there. Which tokens mark beginning and end is
    read from the files that Hugging Face puts beside it; without those, from the tokens' names.

    Args:
        path: the file, or its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the library cannot read it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        # Kept, so that `save` writes what was read, to the byte.
        content = path.read_bytes()
        self._files = {FILE_NAME: content}
        if (path.parent / "tokenizer.model").is_file():  # other programs read this one
            self._files["tokenizer.model"] = (path.parent / "tokenizer.model").read_bytes()
        self.companions = Companions.read(path.parent)
        self._open(content, path)
        own = hashlib.sha256(content).hexdigest()
        origins = self.companions.get("tokenizer_config.json", ORIGIN)
        self.fingerprint = origins.get(own, own) if isinstance(origins, dict) else own

    def save(self, folder: str | Path) -> None:
        """Copy the tokenizer's files, and those beside them, into a folder.

        Raises:
            OSError: if a file cannot be written.
        """
        for name, content in self._files.items():
            replace_file(Path(folder) / name, content)
        self.companions.save(folder)

    def as_tokenizer_json(self) -> bytes:
        """Return the content of ``tokenizer.json``."""
        return self._files[FILE_NAME]

    def _open(self, content: bytes, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_buffer(content)
        except ValueError as error:
            raise ValueError(f"{path} is not a tokenizer that the tokenizers library reads: {error}") from None
        self._cut_text = cuts.cut_for_json(json.loads(content))
        # A published file may ask for cutting or filling up; here a text keeps its length.
        self._library.no_truncation()
        self._library.no_padding()
        vocab = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocab.values(), default=-1)
        added = self._library.get_added_tokens_decoder()
        self.special_tokens = {token.content: token_id for token_id, token in sorted(added.items()) if token.special}
        self._special_ids = frozenset(self.special_tokens.values())
        self._byte_ids = _byte_ids(vocab, json.loads(content).get("decoder"))
        self._byte_of = {token_id: byte for byte, token_id in enumerate(self._byte_ids)}
        self._set_roles(*(self._role(role) for role in ("bos", "eos", "pad")))
        self.start_ids = self._ids_before_text()
        self.eos_ids = self.companions.end_ids(self.vocab_size) or self.eos_ids

    def _role(self, role: str) -> int | None:
        names = {"bos": BOS_NAMES, "eos": EOS_NAMES, "pad": PAD_NAMES}[role]
        usual = first_present(names, self.special_tokens)
        return self.companions.role(role, self._library.token_to_id, vocab_size=self.vocab_size, otherwise=usual)

    def _ids_before_text(self) -> tuple[int, ...]:
        self._library.encode_special_tokens = True
        for text in ("a", "0", " "):  # the first that makes a token, so that what comes before differs from after
            encoding = self._library.encode(text)
            if 0 in encoding.sequence_ids:
                return tuple(encoding.ids[: encoding.sequence_ids.index(0)])
        return ()

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
        if skip_special:
            ids = [token_id for token_id in ids if token_id not in self._special_ids]
        if self._byte_of:
            ids = self._with_whole_characters(ids)
        return self._library.decode(ids, skip_special_tokens=skip_special)

    def _with_whole_characters(self, ids: list[int]) -> list[int]:
        """Put U+FFFD in the place of each byte that belongs to no character; the library gives up the whole run."""
        whole: list[int] = []
        for is_byte, run in groupby(ids, key=self._byte_of.__contains__):
            if not is_byte:
                whole += run
                continue
            text = bytes(map(self._byte_of.__getitem__, run)).decode("utf-8", "surrogateescape")
            whole += (self._byte_ids[byte] for byte in text.translate(_ESCAPED).encode("utf-8"))
        return whole


def _byte_ids(vocab: dict[str, int], decoder: Any) -> list[int]:
    """Return the ids of the 256 tokens that stand for single bytes, if the decoder joins those to characters."""
    ids = [vocab[name] for name in (f"<0x{byte:02X}>" for byte in range(256)) if name in vocab]
    return ids if len(ids) == 256 and '"ByteFallback"' in json.dumps(decoder) else []
