"""Encode documents into token files, little-endian and without a header, split by document."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from llama_minimal.data.document import Document, LongDocument
from llama_minimal.data.download import Progress
from llama_minimal.data.splitting import assign_splits
from llama_minimal.data.token_file import INDEX_NAME, CorpusInfo, Split, SplitInfo
from llama_minimal.files import replace_files
from llama_minimal.tokenizer import TextCodec
from llama_minimal.tokenizer.pieces import to_bytes

# Documents are encoded in groups of about this many characters, a longer one by itself in chunks: enough to keep all
# cores busy, little to hold (a character of text takes about 20 bytes as a list of ids).
_GROUP_CHARACTERS = 1 << 20
_COPY_TOKENS = 1 << 18

AnyDocument = Document | LongDocument


def encode_corpus(
    documents: Iterable[AnyDocument] | Mapping[str, Iterable[AnyDocument]],
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
        documents: read once; a group of them is in memory at a time, of a long one a part of it (see
            ``TextCodec.encode_iterable``). A single one is cut in two near its end. Several sources by name are written
            one after another, each into both splits.
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
        sources = documents if isinstance(documents, Mapping) else {"": documents}
        written: dict[str, Writers] = {}
        for name, found in sources.items():
            written[name] = {"train": _Writer(train, dtype), "validation": _Writer(validation, dtype)}
            report = partial(_report, progress, written)
            for group in _groups(assign_splits(iter(found), validation_fraction, seed)):
                _write_group(group, tokenizer, written[name], report)
                report(0)
            _finish(name, written[name])
        info = _describe(dtype, tokenizer, written)
        index.write(json.dumps(info.as_dict(), indent=1).encode("utf-8"))
    return info


class _Writer:
    """Append documents to one split's file, and count them."""

    def __init__(self, file: BinaryIO, dtype: str) -> None:
        self.file = file
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.documents = self.tokens = self.bytes = 0
        self.last = (0, 0)

    def write(self, ids: Iterable[int]) -> int:
        """Append some ids of a document; return how many they were."""
        n = 0
        ids = iter(ids)
        while len(part := np.fromiter(islice(ids, _COPY_TOKENS), self.dtype)):
            self.file.write(part.tobytes())
            n += len(part)
        return n

    def count(self, n_tokens: int, n_bytes: int) -> None:
        """Count a document that was written."""
        self._add(1, n_tokens, n_bytes)
        self.last = (n_tokens, n_bytes)

    def give_last(self, other: "_Writer") -> None:
        """Move the last document to another file."""
        n_tokens, n_bytes = self.last
        start = self.file.tell() - n_tokens * self.dtype.itemsize
        self.file.seek(start)
        for done in range(0, n_tokens, _COPY_TOKENS):
            other.file.write(self.file.read(min(_COPY_TOKENS, n_tokens - done) * self.dtype.itemsize))
        other.count(n_tokens, n_bytes)
        self._add(-1, -n_tokens, -n_bytes)
        self.file.seek(start)
        self.file.truncate()

    def info(self) -> SplitInfo:
        return SplitInfo(documents=self.documents, tokens=self.tokens, bytes=self.bytes)

    def _add(self, documents: int, tokens: int, n_bytes: int) -> None:
        self.documents += documents
        self.tokens += tokens
        self.bytes += n_bytes


Writers = dict[Split, _Writer]


def _report(progress: Progress | None, written: dict[str, Writers], n_bytes: int) -> None:
    if progress is not None:
        progress(sum(writer.bytes for writers in written.values() for writer in writers.values()) + n_bytes, None)


def _groups(assigned: Iterable[tuple[Split, AnyDocument]]) -> Iterator[list[tuple[Split, AnyDocument]]]:
    group: list[tuple[Split, AnyDocument]] = []
    characters = 0
    for split, document in assigned:
        if _is_long(document):
            yield from ([group] if group else [])
            yield [(split, document)]
            group, characters = [], 0
            continue
        group.append((split, document))
        characters += len(document.text)
        if characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _is_long(document: AnyDocument) -> bool:
    return isinstance(document, LongDocument) or len(document.text) > _GROUP_CHARACTERS


def _write_group(
    group: list[tuple[Split, AnyDocument]],
    tokenizer: TextCodec,
    writers: Writers,
    report: Callable[[int], None],
) -> None:
    eos = tokenizer.eos_id is not None
    (split, first), *_ = group
    if _is_long(first):
        chunks = _CountedChunks(first.chunks(), report)
        n_tokens = writers[split].write(chain(tokenizer.start_ids, tokenizer.encode_iterable(chunks, eos=eos)))
        writers[split].count(n_tokens, chunks.bytes)
        return
    encoded = tokenizer.encode_batch([document.text for _, document in group], eos=eos)
    for (split, document), ids in zip(group, encoded, strict=True):
        writers[split].count(writers[split].write([*tokenizer.start_ids, *ids]), len(to_bytes(document.text)))


class _CountedChunks:
    """Hand on the chunks of a text, count their bytes and report them."""

    def __init__(self, chunks: Iterator[str], report: Callable[[int], None]) -> None:
        self.chunks, self.report, self.bytes = chunks, report, 0

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield chunk
            self.bytes += len(to_bytes(chunk))
            self.report(self.bytes)


def _finish(name: str, writers: Writers) -> None:
    """See that a source has something in both splits."""
    # With few documents chance may give all to one split. Then its last one changes sides.
    empty = [writer for writer in writers.values() if not writer.documents]
    full = [writer for writer in writers.values() if writer.documents]
    for writer in empty:
        full[0].give_last(writer)
    for split, writer in writers.items():
        if not writer.tokens:
            of = f" of {name}" if name else ""
            raise ValueError(f"the {split} text{of} has no tokens; add documents that are not empty")


def _describe(dtype: Literal["uint16", "uint32"], tokenizer: TextCodec, written: dict[str, Writers]) -> CorpusInfo:
    sources = {name: {split: writer.info() for split, writer in each.items()} for name, each in written.items()}
    return CorpusInfo(
        dtype=dtype,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.fingerprint,
        train=SplitInfo.total(each["train"] for each in sources.values()),
        validation=SplitInfo.total(each["validation"] for each in sources.values()),
        sources={} if "" in sources else sources,
    )
