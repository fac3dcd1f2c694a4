"""The package's own tokenizer: byte-level BPE, trained, applied and stored by hand."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from llama_minimal.config import read_json
from llama_minimal.files import replace_file
from llama_minimal.tokenizer.bpe import LARGEST_VOCABULARY, N_BYTES, Pair, encode_piece, learn_merges
from llama_minimal.tokenizer.codec import BOS_NAMES, EOS_NAMES, PAD_NAMES, TextCodec, first_present, split_special
from llama_minimal.tokenizer.json_format import from_json, is_ours, pattern_of, spell, to_json
from llama_minimal.tokenizer.patterns import PatternName, splitter
from llama_minimal.tokenizer.piece_cache import PieceCache
from llama_minimal.tokenizer.pieces import (
    count_pieces,
    last_llama_piece_end,
    last_piece_end,
    split_blocks,
    to_bytes,
    to_text,
)
from llama_minimal.tokenizer.vocabulary import check_special, token_table

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>")
FILE_NAME = "tokenizer.json"
# Merging by hand takes time that grows with the square of a piece's length. `llama` has no longer ones.
_LONG_PIECE = 256
# On one core the whole library takes four to seven times as long as Python's `re` and a cache do: it cuts text slowly
# (measured on Python source and on stories: 2.5 and 15 MB/s). But it uses all cores.
_MANY_CORES = 8


class Tokenizer(TextCodec):
    """Encode any bytes without loss: ids 0 to 255 are the bytes, then one id per merge, then the special tokens.

    A string may hold U+DC80 to U+DCFF, which stand for single bytes that are not UTF-8 (PEP 383). ``encode`` gives
    the byte its id, ``decode_bytes`` returns the byte, and ``decode`` writes U+FFFD. Other lone surrogates are refused.

    Args:
        merges: pairs of ids; the n-th makes id 256 + n and may use only smaller ids.
        special_tokens: names of visible ASCII characters.
        pattern: how text is cut into pieces: as this package does (``llama``), GPT-2 (``gpt2``) or Llama 3
            (``llama3``). The last two do not bound the length of a piece, and take letters and numbers as the
            ``tokenizers`` library has them.

    Raises:
        ValueError: if merges or names do not make a vocabulary, or there is no such pattern.
    """

    def __init__(
        self,
        merges: Sequence[Pair] = (),
        *,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        pattern: PatternName = "llama",
    ) -> None:
        self.pattern = pattern
        self._split = splitter(pattern)
        self.merges = [tuple(pair) for pair in merges]
        ordinary = token_table(self.merges)
        check_special(special_tokens, ordinary)
        self._n_ordinary = len(ordinary)
        self._tokens = ordinary + [name.encode("ascii") for name in special_tokens]
        self._ranks = {pair: N_BYTES + n for n, pair in enumerate(self.merges)}
        self._by_hand = PieceCache(self._merge_by_hand)
        self._by_library = PieceCache(self._merge_by_library)
        self.special_tokens = {name: self._n_ordinary + n for n, name in enumerate(special_tokens)}
        self.vocab_size = len(self._tokens)
        self._set_roles(*(first_present(names, self.special_tokens) for names in (BOS_NAMES, EOS_NAMES, PAD_NAMES)))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        pattern: PatternName = "llama",
        progress: Callable[[int, int], None] | None = None,
    ) -> "Tokenizer":
        """Learn a vocabulary from texts.

        Its attribute ``vocab_size`` is less than what was asked for if no pair of tokens repeats any more.

        Args:
            texts: read once, one at a time.
            vocab_size: bytes, merges and special tokens together.
            pattern: as for the class.
            progress: called with (merges learned, merges wanted).

        Raises:
            ValueError: if ``vocab_size`` is no whole number, cannot hold the bytes and the special tokens, or is more
                than 1,114,112.

        Example:
            >>> Tokenizer.train(["low lower lowest"], vocab_size=261).encode("lower")
            [257, 101, 114]
        """
        if not isinstance(vocab_size, Integral):
            raise ValueError(f"vocab_size={vocab_size!r} must be a whole number")
        n_merges = vocab_size - N_BYTES - len(special_tokens)
        if n_merges < 0:
            raise ValueError(
                f"vocab_size={vocab_size} cannot hold {N_BYTES} bytes and {len(special_tokens)} special tokens; "
                f"use at least {N_BYTES + len(special_tokens)}"
            )
        if vocab_size > LARGEST_VOCABULARY:
            raise ValueError(f"vocab_size={vocab_size} is more than {LARGEST_VOCABULARY}; ask for fewer tokens")
        if isinstance(texts, str):
            raise ValueError("texts is one string, which would be read letter by letter; pass a list: [text]")
        cls(special_tokens=special_tokens, pattern=pattern)  # refuse bad names before the work, not after
        piece_counts = count_pieces(map(to_text, texts), splitter(pattern))
        merges = learn_merges(piece_counts, n_merges, progress=progress)
        return cls(merges, special_tokens=special_tokens, pattern=pattern)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a ``tokenizer.json`` that ``save`` wrote, or the one in a folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if the file is damaged or has another program's format.
        """
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        return cls.from_json(read_json(path), name=str(path))

    @classmethod
    def from_json(cls, content: dict[str, Any], *, name: str = FILE_NAME) -> "Tokenizer":
        """Build a tokenizer from the content of a ``tokenizer.json``; ``name`` is for error messages.

        Raises:
            ValueError: as ``load``.
        """
        if not is_ours(content):
            raise ValueError(f"{name} was not written by this package; open it with load_tokenizer")
        try:
            merges, special_tokens = from_json(content)
            return cls(merges, special_tokens=special_tokens, pattern=pattern_of(content) or "llama")
        except ValueError as error:
            raise ValueError(f"{name} is damaged: {error}") from None

    def to_json(self) -> str:
        """Return the content of ``tokenizer.json``, the same text for the same tokenizer."""
        names = {name: token_id for name, token_id in self.special_tokens.items() if token_id in self.start_ids}
        return self._to_json(start=names)

    def _to_json(self, *, start: dict[str, int]) -> str:
        tokens = self._tokens[: self._n_ordinary]
        content = to_json(tokens, self.merges, self.special_tokens, pattern=self.pattern, start=start)
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` into a folder, or to a path that ends in ``.json``.

        ``tokenizers.Tokenizer.from_file`` reads it and gives the same ids.

        Raises:
            OSError: if the file cannot be written; a former one is then untouched.
        """
        path = Path(folder)
        path = path if path.suffix == ".json" else path / FILE_NAME
        replace_file(path, self.to_json().encode("utf-8"))
        self.companions.save(path.parent)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; those of its name if it is special.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """
        (token_id,) = self._checked([token_id])
        return self._tokens[token_id]

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """Return the exact bytes of ids.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        # Special tokens come last, so leaving them out is one comparison.
        end = self._n_ordinary if skip_special else self.vocab_size
        return b"".join(self._tokens[token_id] for token_id in self._checked(ids) if token_id < end)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of ``tokenizer.json`` without its post-processor, which changes no text's ids."""
        return hashlib.sha256(self._to_json(start={}).encode("utf-8")).hexdigest()

    @cached_property
    def _library(self) -> Any:
        # The same algorithm in Rust, for whole corpora.
        from tokenizers import Tokenizer as Library

        return Library.from_str(self.to_json())

    def _encode_text(self, text: str, allow_special: bool) -> list[int]:
        ids: list[int] = []
        for part in split_special(text, self.special_tokens) if allow_special else [text]:
            ids += [part] if isinstance(part, int) else self._by_hand.ids(self._split(part))
        return ids

    def _merge_by_hand(self, piece: str) -> list[int]:
        data = to_bytes(piece)
        return encode_piece(data, self._ranks) if len(data) <= _LONG_PIECE else self._merge_by_library(piece)

    def _merge_by_library(self, piece: str) -> list[int]:
        return [token.id for token in self._library.model.tokenize(spell(to_bytes(piece)))]

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if (os.cpu_count() or 1) < _MANY_CORES:
            return [self._by_library.ids(self._split(to_text(text))) for text in texts]
        result: list[list[int]] = [[] for _ in texts]
        rows, blocks = [], []
        for row, text in enumerate(map(to_text, texts)):
            if not _has_surrogates(text):
                new = split_blocks(text)
                blocks += new
                rows += [row] * len(new)
            else:
                # The Rust library holds UTF-8 alone.
                result[row] = self._encode_text(text, allow_special=False)
        # Set at every use, because a pickled library forgets it. It makes special names in the text ordinary text.
        self._library.encode_special_tokens = True
        for row, encoding in zip(rows, self._library.encode_batch_fast(blocks, add_special_tokens=False), strict=True):
            result[row] += encoding.ids
        return result

    def _cut(self, text: str) -> tuple[int, int]:
        end = last_llama_piece_end(text) if self.pattern == "llama" else last_piece_end(text)
        return end, end

    def _decode_ids(self, ids: list[int], skip_special: bool) -> str:
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
