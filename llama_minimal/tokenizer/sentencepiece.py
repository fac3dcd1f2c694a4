"""The ``tokenizer.model`` of LLaMA-1 and LLaMA-2, through the library ``sentencepiece``."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from llama_minimal.files import replace_file
from llama_minimal.tokenizer import cuts
from llama_minimal.tokenizer.codec import TextCodec, require_unicode, split_special

FILE_NAME = "tokenizer.model"


class SentencePieceTokenizer(TextCodec):
    """Wrap a SentencePiece model (Kudo and Richardson 2018).

    Args:
        path: the file, or the folder with a ``tokenizer.model``.

    Raises:
        FileNotFoundError: if there is none.
        ImportError: if the library is not installed.
        ValueError: if the file is not a SentencePiece model.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        # Kept, so that `save` writes what was read, to the byte.
        self._content = path.read_bytes()
        self._library = library = _open(self._content, path)
        self.vocab_size = library.get_piece_size()
        controls = [token_id for token_id in range(self.vocab_size) if library.is_control(token_id)]
        self.special_tokens = {library.id_to_piece(token_id): token_id for token_id in controls}
        # The library says -1 for a token that the model lacks.
        ids = (library.bos_id(), library.eos_id(), library.pad_id())
        self.bos_id, self.eos_id, self.pad_id = (token_id if token_id >= 0 else None for token_id in ids)
        self.fingerprint = hashlib.sha256(self._content).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Copy the model into a folder as ``tokenizer.model``.

        Raises:
            OSError: if the file cannot be written.
        """
        replace_file(Path(folder) / FILE_NAME, self._content)

    def _encode_text(self, text: str, allow_special: bool) -> list[int]:
        ids: list[int] = []
        for part in split_special(require_unicode(text), self.special_tokens) if allow_special else [text]:
            ids += [part] if isinstance(part, int) else self._library.encode(require_unicode(part))
        return ids

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._library.encode([require_unicode(text) for text in texts])

    def _cut(self, text: str) -> tuple[int, int]:
        return cuts.at_last_word(text) if self._has_apart_words else (0, 0)

    @cached_property
    def _has_apart_words(self) -> bool:
        """Whether the ids of a word do not depend on the words before, and each word begins with a space."""
        library = self._library
        tokens = [token_id for token_id in range(self.vocab_size) if not library.is_byte(token_id)]
        # The scores of a BPE model are ranks: 0, -1, -2, ... Others weigh whole texts.
        is_bpe = all(library.get_score(token_id).is_integer() for token_id in tokens)
        begins_with_space = library.encode("a", out_type=str)[:1] in (["▁"], ["▁a"])
        return is_bpe and begins_with_space and not cuts.has_inner_space(map(library.id_to_piece, tokens))

    def _decode_ids(self, ids: list[int], skip_special: bool) -> str:
        if skip_special:
            return self._library.decode(ids)
        parts = []
        for special, run in groupby(ids, key=self._library.is_control):
            # The library decodes control tokens to nothing, so their names are put in by hand.
            same = list(run)
            parts.append("".join(self._library.id_to_piece(same)) if special else self._library.decode(same))
        return "".join(parts)


def _open(content: bytes, path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise ImportError(f"{path} needs the sentencepiece library: pip install 'llama_minimal[hub]'") from None
    if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content):
        raise ValueError(
            f"{path} is a list of tiktoken ranks, as Llama 3 ships it, not a SentencePiece model; "
            "use the tokenizer.json of the same release"
        )
    if not content:
        raise ValueError(f"{path} is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a SentencePiece model ({error}); is the file damaged?") from None
