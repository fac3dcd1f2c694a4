"""Encode documents into token files, little-endian and without a header, split by document."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from llama_minimal.data.corpora import Document
from llama_minimal.data.download import Progress
from llama_minimal.data.token_file import INDEX_NAME, CorpusInfo, Split, SplitInfo
from llama_minimal.files import replace_files
from llama_minimal.tokenizer import TextCodec
from llama_minimal.tokenizer.pieces import to_bytes

# Documents are encoded in groups of about this many characters: enough to keep all cores busy, little to hold.
_GROUP_CHARACTERS = 1 << 22


def encode_corpus(
    documents: Iterable[Document],
    tokenizer: TextCodec,
    folder: str | Path,
    *,
    validation_fraction: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> CorpusInfo:
    """Encode documents into ``train.bin``, ``validation.bin`` and ``corpus.json``.

    Each document becomes the tokenizer's ``start_ids``, its ids, and eos if there is one. Whether it is for
    validation depends on the seed and its text alone, so equal texts are never in both splits. A former corpus stays
    until this one is complete.

    Args:
        documents: read once; a group of them is in memory at a time. A single one is cut in two near its end.
        validation_fraction: expected share of validation, between 0 and 1; each split gets at least one document.
        progress: called with (bytes of text so far, None).

    Raises:
        ValueError: if there is too little text, or ``validation_fraction`` is out of range.
        OSError: if a file cannot be written, for instance because the disk is full.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} must be between 0 and 1, both excluded")
    Path(folder).mkdir(parents=True, exist_ok=True)
    # The index comes last: readers open it first.
    paths = [Path(folder) / name for name in ("train.bin", "validation.bin", INDEX_NAME)]
    with replace_files(*paths) as (train, validation, index):
        # Two bytes hold every id of most vocabularies.
        dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        writers = {"train": _Writer(train, dtype), "validation": _Writer(validation, dtype)}
        for group in _groups(_assign(iter(documents), validation_fraction, seed)):
            _write_group(group, tokenizer, writers)
            if progress is not None:
                progress(sum(writer.bytes for writer in writers.values()), None)
        _fill_empty(*writers.values())
        info = _describe(dtype, tokenizer, writers)
        index.write(json.dumps(asdict(info), indent=1).encode("utf-8"))
    return info


class _Writer:
    """Append documents to one split's file, and count them."""

    def __init__(self, file: BinaryIO, dtype: str) -> None:
        self.file = file
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.documents = self.tokens = self.bytes = 0
        self.last: tuple[list[int], int] = ([], 0)

    def write(self, ids: list[int], n_bytes: int) -> None:
        self.file.write(np.array(ids, dtype=self.dtype).tobytes())
        self._count(1, ids, n_bytes)
        self.last = (ids, n_bytes)

    def take_last(self) -> tuple[list[int], int]:
        """Remove the last document from the file and return it."""
        ids, n_bytes = self.last
        self._count(-1, ids, n_bytes)
        self.file.seek(self.tokens * self.dtype.itemsize)
        self.file.truncate()
        return ids, n_bytes

    def info(self) -> SplitInfo:
        return SplitInfo(documents=self.documents, tokens=self.tokens, bytes=self.bytes)

    def _count(self, sign: int, ids: list[int], n_bytes: int) -> None:
        self.documents += sign
        self.tokens += sign * len(ids)
        self.bytes += sign * n_bytes


def _assign(documents: Iterator[Document], fraction: float, seed: int) -> Iterator[tuple[Split, str]]:
    first, second = next(documents, None), next(documents, None)
    if first is None:
        raise ValueError("there are no documents to encode")
    if second is None:
        head, tail = _cut(first.text, fraction)
        yield from (("train", head), ("validation", tail))
        return
    for document in chain((first, second), documents):
        # The digest is a number between 0 and 1, the same on every machine and unrelated to the order.
        digest = hashlib.sha256(f"{seed}\n".encode() + to_bytes(document.text)).digest()
        is_validation = int.from_bytes(digest[:8], "big") / 2**64 < fraction
        yield ("validation" if is_validation else "train"), document.text


def _cut(text: str, fraction: float) -> tuple[str, str]:
    if len(text) < 2:
        raise ValueError(f"the only document has {len(text)} characters, too few for training and validation")
    wanted = round(len(text) * (1 - fraction))
    slack = round(len(text) * min(fraction, 1 - fraction) / 2)
    # A paragraph's end reads best, then a line's end; failing both, anywhere.
    for end in ("\n\n", "\n"):
        found = text.rfind(end, wanted - slack, wanted)
        if found > 0:
            return text[: found + len(end)], text[found + len(end) :]
    cut = min(max(wanted, 1), len(text) - 1)
    return text[:cut], text[cut:]


def _groups(assigned: Iterable[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    group: list[tuple[Split, str]] = []
    characters = 0
    for split, text in assigned:
        group.append((split, text))
        characters += len(text)
        if characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _write_group(group: list[tuple[Split, str]], tokenizer: TextCodec, writers: dict[Split, _Writer]) -> None:
    encoded = tokenizer.encode_batch([text for _, text in group], eos=tokenizer.eos_id is not None)
    for (split, text), ids in zip(group, encoded, strict=True):
        writers[split].write([*tokenizer.start_ids, *ids], len(to_bytes(text)))


def _fill_empty(*writers: _Writer) -> None:
    # With few documents chance may give all to one split. Then its last one changes sides.
    empty = [writer for writer in writers if not writer.documents]
    full = [writer for writer in writers if writer.documents]
    for writer in empty:
        writer.write(*full[0].take_last())


def _describe(dtype: Literal["uint16", "uint32"], tokenizer: TextCodec, writers: dict[Split, _Writer]) -> CorpusInfo:
    for split, writer in writers.items():
        if not writer.tokens:
            raise ValueError(f"the {split} text has no tokens; add documents that are not empty")
    return CorpusInfo(
        dtype=dtype,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.fingerprint,
        **{split: writer.info() for split, writer in writers.items()},
    )
