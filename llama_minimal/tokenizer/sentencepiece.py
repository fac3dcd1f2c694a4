"""The ``tokenizer.model`` of LLaMA-1 and LLaMA-2, through the library ``sentencepiece``."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from llama_minimal.files import replace_file
from llama_minimal.tokenizer import cuts
from llama_minimal.tokenizer.codec import TextCodec, require_unicode, split_special
from llama_minimal.tokenizer.companions import Companions
from llama_minimal.tokenizer.sentencepiece_json import to_json

FILE_NAME = "tokenizer.model"


class SentencePieceTokenizer(TextCodec):
    """Wrap a SentencePiece model (Kudo and Richardson 2018), and the tokens that were added to it later.

    Added tokens stand in ``added_tokens.json`` or ``tokenizer_config.json`` beside the model. A text begins with the
    beginning-of-text token unless ``add_bos_token`` in ``tokenizer_config.json`` is false.

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
        self.companions = Companions.read(path.parent)
        self._n_pieces = library.get_piece_size()
        added = self.companions.added_tokens()
        self.vocab_size = max([self._n_pieces, *(1 + token.token_id for token in added.values())])
        controls = [token_id for token_id in range(self._n_pieces) if library.is_control(token_id)]
        self.special_tokens = {library.id_to_piece(token_id): token_id for token_id in controls}
        self.special_tokens |= {name: token.token_id for name, token in added.items() if token.special}
        # Found in every text, unlike special tokens; pieces of the model are the library's own affair.
        self._ordinary = {
            name: t.token_id for name, t in added.items() if not t.special and not self._is_piece(name, t)
        }
        self._lstrip = {name for name, token in added.items() if token.lstrip}
        self._rstrip = {name for name, token in added.items() if token.rstrip}
        self._names = {token_id: name for name, token_id in (self.special_tokens | self._ordinary).items()}
        self._set_roles(*(self._role(role) for role in ("bos", "eos", "pad")))
        if self.companions.get("tokenizer_config.json", "add_bos_token") is False:
            self.start_ids = ()
        self.eos_ids = self.companions.end_ids(self.vocab_size) or self.eos_ids
        self.fingerprint = self._fingerprint()

    def save(self, folder: str | Path) -> None:
        """Copy the model, and the files beside it, into a folder.

        Raises:
            OSError: if a file cannot be written.
        """
        replace_file(Path(folder) / FILE_NAME, self._content)
        self.companions.save(folder)

    def as_tokenizer_json(self) -> bytes:
        """Return a ``tokenizer.json`` that gives the same ids.

        Raises:
            ValueError: if the format cannot express the model.
        """
        content = to_json(self._content, self.special_tokens, self._ordinary, start_ids=self.start_ids)
        for token in content["added_tokens"]:
            token |= {"lstrip": token["content"] in self._lstrip, "rstrip": token["content"] in self._rstrip}
        return json.dumps(content, ensure_ascii=False).encode("utf-8")

    def _role(self, role: str) -> int | None:
        # The library says -1 for a token that the model lacks.
        own = getattr(self._library, f"{role}_id")()
        usual = own if own >= 0 else None
        return self.companions.role(role, self._token_id, vocab_size=self.vocab_size, otherwise=usual)

    def _token_id(self, name: str) -> int | None:
        known = self.special_tokens | self._ordinary
        token_id = known.get(name, self._library.piece_to_id(name))
        return token_id if name in known or self._library.id_to_piece(token_id) == name else None

    def _is_piece(self, name: str, token: Any) -> bool:
        return token.token_id < self._n_pieces and self._library.id_to_piece(token.token_id) == name

    def _fingerprint(self) -> str:
        later = {
            name: i for i, name in self._names.items() if i >= self._n_pieces or self._library.id_to_piece(i) != name
        }
        digest = hashlib.sha256(self._content)
        if later:
            digest.update(json.dumps(later, sort_keys=True).encode("utf-8"))
        return digest.hexdigest()

    def _encode_text(self, text: str, allow_special: bool) -> list[int]:
        names = self._ordinary | self.special_tokens if allow_special else self._ordinary
        ids: list[int] = []
        for part in split_special(
            require_unicode(text), names, lstrip=self._lstrip & names.keys(), rstrip=self._rstrip & names.keys()
        ):
            ids += [part] if isinstance(part, int) else self._library.encode(part)
        return ids

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if self._ordinary:
            return [self._encode_text(text, allow_special=False) for text in texts]
        return self._library.encode([require_unicode(text) for text in texts])

    def _cut(self, text: str) -> tuple[int, int]:
        return cuts.at_last_word(text) if self._has_apart_words else (0, 0)

    @cached_property
    def _has_apart_words(self) -> bool:
        """Whether the ids of a word do not depend on the words before, and each word begins with a space."""
        library = self._library
        tokens = [token_id for token_id in range(self._n_pieces) if not library.is_byte(token_id)]
        # The scores of a BPE model are ranks: 0, -1, -2, ... Others weigh whole texts.
        is_bpe = all(library.get_score(token_id).is_integer() for token_id in tokens)
        begins_with_space = library.encode("a", out_type=str)[:1] in (["▁"], ["▁a"])
        alone = not self._ordinary and not cuts.has_inner_space(map(library.id_to_piece, tokens))
        return is_bpe and begins_with_space and alone

    def _decode_ids(self, ids: list[int], skip_special: bool) -> str:
        if skip_special:
            special = set(self.special_tokens.values())
            ids = [token_id for token_id in ids if token_id not in special]
        parts = []
        for named, run in groupby(ids, key=self._names.__contains__):
            if named:  # the library decodes control tokens to nothing, and has no others
                parts += (self._names[token_id] for token_id in run)
            else:
                parts.append(self._library.decode([token_id for token_id in run if token_id < self._n_pieces]))
        return "".join(parts)


def _open(content: bytes, path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise ImportError(f"{path} needs the sentencepiece library: pip install 'llama_minimal[hub]'") from None
    if not content:
        raise ValueError(f"{path} is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a SentencePiece model ({error}); is the file damaged?") from None
