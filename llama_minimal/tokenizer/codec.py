"""What every tokenizer here can do, whichever file it came from."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import index
from pathlib import Path

from llama_minimal.tokenizer.companions import Companions
from llama_minimal.tokenizer.pieces import to_text, to_texts

# What published tokenizers call these tokens; the first that is present counts.
BOS_NAMES = ("<|bos|>", "<|begin_of_text|>", "<s>", "<bos>")
EOS_NAMES = ("<|eos|>", "<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>", "<|eot_id|>")
PAD_NAMES = ("<|pad|>", "<|finetune_right_pad_id|>", "<pad>")
_BLOCK_CHARACTERS = 1 << 18


class TextCodec(ABC):
    """Turn text into token ids and back.

    Attributes:
        vocab_size: number of ids; every id is below it.
        special_tokens: name -> id of the tokens that no ordinary text produces.
        bos_id, eos_id, pad_id: ids that mark the beginning and end of a text and fill up a batch; None if absent.
        start_ids: what stands before every text that a model reads: the beginning of text, with most tokenizers;
            nothing with some that have such a token all the same.
        eos_ids: tokens any of which ends what a model writes: ``eos_id``, or what the checkpoint says.
        companions: the files that stood beside the tokenizer's own.
        fingerprint: sha256 of what defines the tokenizer; equal fingerprints give equal ids.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    start_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]
    companions: Companions = Companions()
    fingerprint: str

    def encode(
        self, text: str | bytes, *, bos: bool = False, eos: bool = False, allow_special: bool = False
    ) -> list[int]:
        """Return the ids of a text.

        Args:
            bos, eos: put the token that marks the beginning or the end around the ids.
            allow_special: read names such as ``<|eos|>`` in the text as special tokens. Leave it off for text that
                others wrote: there such a name is ordinary text.

        Raises:
            ValueError: if the text is not Unicode, or there is no token for ``bos`` or ``eos``.
        """
        before, after = self._frame(bos, eos)
        return [*before, *self._encode_text(to_text(text), allow_special), *after]

    def encode_prompt(self, text: str | bytes, *, allow_special: bool = False) -> list[int]:
        """Return the ids from which a model continues a text: those of ``encode`` after ``start_ids``.

        What a tokenizer puts behind a text (an end token, with some) is left out: a prompt goes on. A text that names
        the tokens of ``start_ids`` itself, where that is allowed, does not get them twice.

        Raises:
            ValueError: as ``encode``.
        """
        ids = self._encode_text(to_text(text), allow_special)
        return ids if tuple(ids[: len(self.start_ids)]) == self.start_ids else [*self.start_ids, *ids]

    def encode_batch(self, texts: Sequence[str], *, bos: bool = False, eos: bool = False) -> list[list[int]]:
        """Return the ids of many texts: those of ``encode``, sooner.

        Raises:
            ValueError: as ``encode``.
        """
        if isinstance(texts, str | bytes):
            raise ValueError("texts is one text, which would be read letter by letter; pass a list: [text]")
        before, after = self._frame(bos, eos)
        return [[*before, *ids, *after] for ids in self._encode_texts(texts)]

    def encode_iterable(self, chunks: Iterable[str | bytes], *, bos: bool = False, eos: bool = False) -> Iterator[int]:
        """Yield the ids of a text that comes in chunks, cut anywhere: those of ``encode`` of the whole text.

        Little of the text is in memory at a time if it can be cut where a token must end. The package's own
        tokenizer finds such a place in any text by the pattern ``llama``, and by ``gpt2`` and ``llama3`` wherever a
        space or a line break follows a visible character. So do SentencePiece models of the BPE kind and the
        ``tokenizer.json`` of GPT-2, Llama 2, Llama 3 and their like. Any other tokenizer gets the text whole.

        Args:
            chunks: read once, as ids are asked for.
            bos, eos: as for ``encode``.

        Raises:
            ValueError: as ``encode``; of what a chunk holds, when its turn comes.
        """
        if isinstance(chunks, str | bytes):
            raise ValueError("chunks is one text, which would be read letter by letter; pass a list: [text]")
        before, after = self._frame(bos, eos)
        encoded = (self._encode_texts([block])[0] for block in self._blocks(chunks))
        return chain(before, chain.from_iterable(encoded), after)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            skip_special: leave special tokens out instead of spelling their names.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        return self._decode_ids(self._checked(ids), skip_special)

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's own files into a folder, creating it."""

    @abstractmethod
    def _encode_text(self, text: str, allow_special: bool) -> list[int]: ...

    @abstractmethod
    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]: ...

    @abstractmethod
    def _decode_ids(self, ids: list[int], skip_special: bool) -> str: ...

    def _set_roles(self, bos_id: int | None, eos_id: int | None, pad_id: int | None) -> None:
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.start_ids = () if bos_id is None else (bos_id,)
        self.eos_ids = () if eos_id is None else (eos_id,)

    def _cut(self, text: str) -> tuple[int, int]:
        """Return (end, start): text[:end], then text[start:] and all that follows, have the ids of the whole.

        (0, 0) if no such place is known.
        """
        return 0, 0

    def _blocks(self, chunks: Iterable[str | bytes]) -> Iterator[str]:
        held: list[str] = []
        length, enough = 0, _BLOCK_CHARACTERS
        for chunk in to_texts(chunks, size=_BLOCK_CHARACTERS):
            held.append(chunk)
            length += len(chunk)
            if length >= enough:
                text = "".join(held)
                end, start = self._cut(text)
                if end:
                    yield text[:end]
                held = [text[start:]]
                length = len(held[0])
                # Where nothing can be cut, looking again at each chunk would take quadratic time.
                enough = max(_BLOCK_CHARACTERS, 2 * length)
        yield "".join(held)

    def _frame(self, bos: bool, eos: bool) -> tuple[list[int], list[int]]:
        for wanted, name, token_id in ((bos, "bos", self.bos_id), (eos, "eos", self.eos_id)):
            if wanted and token_id is None:
                raise ValueError(
                    f"{name}=True, but the tokenizer has no {name} token, only {list(self.special_tokens)}"
                )
        return [self.bos_id] * bos, [self.eos_id] * eos

    def _checked(self, ids: Iterable[int]) -> list[int]:
        try:
            ids = [index(token_id) for token_id in ids]
        except TypeError:
            raise ValueError(f"ids must be a row of token ids, such as [1, 2, 3], not a {type(ids).__name__}") from None
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id {token_id} is outside the vocabulary, 0 to {self.vocab_size - 1}")
        return ids


def first_present(names: Iterable[str], special_tokens: Mapping[str, int]) -> int | None:
    """Return the id of the first of ``names`` that is a special token, or None."""
    return next((special_tokens[name] for name in names if name in special_tokens), None)


def split_special(
    text: str, special_tokens: Mapping[str, int], *, lstrip: Collection[str] = (), rstrip: Collection[str] = ()
) -> Iterator[str | int]:
    """Yield a text's parts in order: ordinary text as strings, special tokens as ids; the longest name wins.

    Args:
        lstrip, rstrip: names that take the spaces on their left or right with them.
    """
    names = sorted(special_tokens, key=len, reverse=True)
    # A run of spaces is tried from its beginning alone: from everywhere would take quadratic time.
    before, after = dict.fromkeys(lstrip, r"(?:(?<!\s)\s+)?"), dict.fromkeys(rstrip, r"\s*")
    found = "|".join(before.get(name, "") + re.escape(name) + after.get(name, "") for name in names)
    parts = re.split(f"({found})", text) if names else [text]
    for i, part in enumerate(parts):
        if i % 2:  # what was found
            yield special_tokens[part if part in special_tokens else part.strip()]
        elif part:
            yield part


def require_unicode(text: str) -> str:
    """Return the text unchanged if it is valid Unicode.

    Raises:
        ValueError: if it came from bytes that are not UTF-8, which only the byte-level tokenizer can hold.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text is not valid UTF-8 at character {error.start}, and this tokenizer cannot hold single bytes; "
            "decode it with errors='replace' first"
        ) from None
    return text
