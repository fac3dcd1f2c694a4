"""Leave out documents that were there before, word for word or nearly so."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_minimal.data.document import Document, LongDocument
from llama_minimal.tokenizer.pieces import to_bytes

AnyDocument = Document | LongDocument
Kind = Literal["exact", "near"]

# Of scripts that put no spaces between words every character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
# Two documents meet if all values of one band are equal: with a similarity of s that happens in one of the bands with
# probability 1 − (1 − s⁶)²⁰, which is 0.998 at s = 0.8 and 0.27 at s = 0.5.
_BANDS, _ROWS = 20, 6
_BLOCK = 4096  # shingles at a time, so that a long document takes no more memory than a short one


class Duplicates:
    """Remember the documents seen so far, and say of each further one whether it was among them.

    *Exact*: equal but for white space. *Near*: of the shingles that both have together, runs of ``shingle`` words in
    lower case, a share of ``threshold`` or more is in both (Jaccard similarity, Broder's resemblance). It is
    estimated as the share of 120 random hash functions whose lowest values over the shingles agree, with a standard
    error of √(s(1 − s)/120), at most 0.05; only documents that agree in one of 20 bands of six are compared.

    Every document that was not a duplicate is remembered, in about 5 kB, however long it is.

    Args:
        threshold: similarity from which a document counts as a near-duplicate, above 0 and at most 1.
        shingle: words in a shingle; a document with fewer is one shingle.
        seed: of the hash functions.

    Raises:
        ValueError: if an argument is out of range.

    Source: Broder 1997, "On the resemblance and containment of documents" (resemblance, its estimate from a fixed-size
        sample); Lee et al. 2022, "Deduplicating training data makes language models better" (MinHash on text for
        language models).
    """

    def __init__(self, *, threshold: float = 0.8, shingle: int = 5, seed: int = 0) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must be above 0 and at most 1, such as 0.8")
        if shingle < 1:
            raise ValueError(f"shingle={shingle} must be at least 1 word, such as 5")
        self.threshold, self.shingle = threshold, shingle
        random = np.random.Generator(np.random.PCG64(seed))
        self._factors, self._offsets = random.integers(1 << 64, size=(2, _BANDS * _ROWS), dtype=np.uint64)
        self._factors |= np.uint64(1)  # odd, so that no two shingles' products are the same
        self._texts: set[bytes] = set()
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]

    def kind(self, document: AnyDocument) -> Kind | None:
        """Return how a document repeats an earlier one; None if it does not, and it is remembered then."""
        digest, signature = self._read(document)
        if digest in self._texts:
            return "exact"
        bands = [] if signature is None else [band.tobytes() for band in signature.reshape(_BANDS, _ROWS)]
        met = {number for known, band in zip(self._bands, bands, strict=False) for number in known.get(band, ())}
        if any((self._signatures[number] == signature).mean() >= self.threshold for number in met):
            return "near"
        self._texts.add(digest)
        if signature is not None:
            for known, band in zip(self._bands, bands, strict=True):
                known.setdefault(band, []).append(len(self._signatures))
            self._signatures.append(signature)
        return None

    def signature(self, text: str) -> NDArray[np.uint32] | None:
        """Return the lowest value of each hash function over a text's shingles, (120,); None if it has no words."""
        return self._read(Document("", text))[1]

    def _read(self, document: AnyDocument) -> tuple[bytes, NDArray[np.uint32] | None]:
        """Return a digest of the text without regard to white space, and its signature."""
        digest = hashlib.blake2b(digest_size=16)
        lowest = None
        for block in _blocks(_shingles(_digested(document, digest), self.shingle), _BLOCK):
            hashes = np.frombuffer(b"".join(block), dtype="<u8")[:, None]
            values = ((hashes * self._factors + self._offsets) >> np.uint64(32)).astype(np.uint32).min(axis=0)
            lowest = values if lowest is None else np.minimum(lowest, values)
        return digest.digest(), lowest


def deduplicate(documents: Iterable[AnyDocument], **options: object) -> Iterator[AnyDocument]:
    """Yield the documents that repeat none of those yielded before: the first of each group, in their order.

    A document is compared with those that were kept, not with those left out; so whatever is left out resembles
    something that is there.

    Args:
        documents: read one at a time.
        options: what ``Duplicates`` takes.

    Example:
        >>> texts = "A llama walked home.", "A  llama walked\\n home.", "A goat walked home."
        >>> [document.name for document in deduplicate(Document(str(n), text) for n, text in enumerate(texts))]
        ['0', '2']
    """
    seen = Duplicates(**options)
    return (document for document in documents if seen.kind(document) is None)


def _digested(document: AnyDocument, digest: "hashlib._Hash") -> Iterator[str]:
    """Yield the words of a document, as shingles are made of; feed the digest on the way."""
    for chunk in document.chunks():  # which end where a word ends
        text = unicodedata.normalize("NFC", chunk)
        for part in text.split():
            digest.update(to_bytes(part) + b" ")
        yield from _WORD.findall(text.lower())


def _shingles(words: Iterable[str], size: int) -> Iterator[bytes]:
    """Yield a hash of each run of so many words, eight bytes; of fewer words, of all of them."""
    words = iter(words)
    run = list(islice(words, size))
    if run:
        yield _hash(run)
    for word in words:
        run = [*run[1:], word]
        yield _hash(run)


def _hash(words: list[str]) -> bytes:
    return hashlib.blake2b(to_bytes(" ".join(words)), digest_size=8).digest()


def _blocks(items: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    items = iter(items)
    while block := list(islice(items, size)):
        yield block
