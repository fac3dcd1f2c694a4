"""Decide which documents are for training and which for validation; a single one is cut in two."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

from llama_minimal.data.document import Document, LongDocument, ReadChunks
from llama_minimal.data.token_file import Split
from llama_minimal.tokenizer.pieces import to_bytes

AnyDocument = Document | LongDocument


def assign_splits(documents: Iterator[AnyDocument], fraction: float, seed: int) -> Iterator[tuple[Split, AnyDocument]]:
    """Yield each document with its split, which depends on the seed and its text alone.

    Args:
        documents: a single one is cut in two, near its end.
        fraction: expected share of validation.

    Raises:
        ValueError: if there is none, or a single one that is too short.
    """
    first, second = next(documents, None), next(documents, None)
    if isinstance(first, str):
        raise ValueError("documents must be Documents, not texts: give documents(name), or [Document(name, text)]")
    if first is None:
        raise ValueError("there are no documents to encode")
    if second is None:
        yield from _cut(first, fraction)
        return
    for document in chain((first, second), documents):
        # The digest is a number between 0 and 1, the same on every machine and unrelated to the order.
        digest = hashlib.sha256(f"{seed}\n".encode())
        for chunk in document.chunks():
            digest.update(to_bytes(chunk))
        is_validation = int.from_bytes(digest.digest()[:8], "big") / 2**64 < fraction
        yield ("validation" if is_validation else "train"), document


def _cut(document: AnyDocument, fraction: float) -> Iterator[tuple[Split, AnyDocument]]:
    place = _cut_place(document, fraction)
    if isinstance(document, LongDocument):
        head, tail = (partial(_between, document.chunks, *ends) for ends in ((0, place), (place, None)))
        yield "train", LongDocument(document.name, head)
        yield "validation", LongDocument(document.name, tail)
    else:
        yield "train", Document(document.name, document.text[:place])
        yield "validation", Document(document.name, document.text[place:])


def _cut_place(document: AnyDocument, fraction: float) -> int:
    length = sum(map(len, document.chunks()))
    if length < 2:
        raise ValueError(f"the only document has {length} characters, too few for training and validation")
    wanted = round(length * (1 - fraction))
    slack = round(length * min(fraction, 1 - fraction) / 2)
    # A paragraph's end reads best, then a line's end; failing both, anywhere.
    for end in ("\n\n", "\n"):
        found = last_place(document.chunks(), end, wanted - slack, wanted)
        if found > 0:
            return found + len(end)
    return min(max(wanted, 1), length - 1)


def last_place(chunks: Iterable[str], found: str, start: int, end: int) -> int:
    """Return what ``text.rfind(found, start, end)`` gives for the text that the chunks are."""
    place, before, overlap = -1, 0, ""
    for chunk in chunks:
        # It may begin in one chunk and end in the next.
        text = overlap + chunk
        first = before - len(overlap)
        here = text.rfind(found, max(0, start - first), max(0, end - first))
        place = first + here if here >= 0 else place
        before += len(chunk)
        overlap = text[max(0, len(text) - len(found) + 1) :]
    return place


def _between(read: ReadChunks, start: int, end: int | None) -> Iterator[str]:
    before = 0
    for chunk in read():
        yield chunk[max(0, start - before) : None if end is None else max(0, end - before)]
        before += len(chunk)
        if end is not None and before >= end:
            return
