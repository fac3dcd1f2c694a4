"""A corpus as files of token ids: written once, then read through a memory map, whatever its size."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llama_minimal.config import read_json
from llama_minimal.data.mixture import Texts
from llama_minimal.tokenizer import TextCodec

Split = Literal["train", "validation"]

INDEX_NAME = "corpus.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo:
    """Count what one split holds; ``bytes`` are those of its text in UTF-8."""

    documents: int
    tokens: int
    bytes: int

    @classmethod
    def total(cls, counts: "Iterable[SplitInfo]") -> "SplitInfo":
        """Add up the counts of several sources."""
        rows = [(count.documents, count.tokens, count.bytes) for count in counts]
        return cls(**dict(zip(("documents", "tokens", "bytes"), map(sum, zip(*rows, strict=True)), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusInfo:
    """Describe an encoded corpus; this is the content of ``corpus.json``.

    ``sources``: what each of several sources has in each split, in the order in which they were written.
    """

    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    tokenizer_sha256: str
    train: SplitInfo
    validation: SplitInfo
    sources: dict[str, dict[Split, SplitInfo]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        values = asdict(self)
        if not self.sources:
            del values["sources"]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """Hold one split of an encoded corpus.

    Attributes:
        tokens: (n_tokens,) memory map, read-only, uint16 or uint32.
        n_documents: documents that the tokens came from.
        n_bytes: bytes of their text, which bits per byte divide by.
        vocab_size: of the tokenizer.
        tokenizer_sha256: the tokenizer's ``fingerprint``.
        sources: the parts of the file that came from each of several sources, by name; empty if there was one.
    """

    tokens: NDArray[np.unsignedinteger]
    n_documents: int
    n_bytes: int
    vocab_size: int
    tokenizer_sha256: str
    sources: "dict[str, TokenFile]" = field(default_factory=dict)

    @property
    def texts(self) -> Texts:
        """Return the tokens, of several sources those of each by name: what ``Trainer`` takes."""
        return {name: source.tokens for name, source in self.sources.items()} or self.tokens

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    def check_tokenizer(self, tokenizer: TextCodec) -> None:
        """Raise ValueError if the text was encoded with another tokenizer, by which its ids mean other text."""
        if tokenizer.fingerprint != self.tokenizer_sha256:
            raise ValueError(
                "the text was encoded with another tokenizer than the one beside it; put that one back, "
                "or encode the text anew"
            )

    @classmethod
    def open(cls, folder: str | Path, split: Split = "train") -> "TokenFile":
        """Open what ``encode_corpus`` wrote.

        Raises:
            FileNotFoundError: if the folder holds no encoded corpus.
            ValueError: if the split is unknown, or a file is damaged or cut short.
        """
        if split not in get_args(Split):
            raise ValueError(f"split={split!r} is not one of {', '.join(get_args(Split))}")
        info = read_corpus_info(folder)
        counts: SplitInfo = getattr(info, split)
        path = Path(folder) / f"{split}.bin"
        dtype = np.dtype(info.dtype).newbyteorder("<")
        # A copy that broke off would otherwise end in the middle of a document, or of a token.
        size, expected = path.stat().st_size, counts.tokens * dtype.itemsize
        if size != expected:
            raise ValueError(
                f"{path} has {size} bytes, but {INDEX_NAME} promises {counts.tokens} tokens = {expected} bytes; "
                "encode the corpus again"
            )
        whole = np.memmap(path, dtype=dtype, mode="r")
        sources, start = {}, 0
        for name, splits in info.sources.items():
            part = splits[split]
            sources[name] = cls._of(whole[start : start + part.tokens], part, info)
            start += part.tokens
        return cls._of(whole, counts, info, sources)

    @classmethod
    def _of(
        cls,
        tokens: NDArray[np.unsignedinteger],
        counts: SplitInfo,
        info: CorpusInfo,
        sources: "dict[str, TokenFile] | None" = None,
    ) -> "TokenFile":
        return cls(
            tokens=tokens,
            n_documents=counts.documents,
            n_bytes=counts.bytes,
            vocab_size=info.vocab_size,
            tokenizer_sha256=info.tokenizer_sha256,
            sources=sources or {},
        )


def read_corpus_info(folder: str | Path) -> CorpusInfo:
    """Read the ``corpus.json`` of an encoded corpus.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(f"there is no encoded corpus in {folder} ({INDEX_NAME} is missing); encode one first")
    values = read_json(path)
    try:
        splits = _splits(values)
        sources = {name: _splits(parts) for name, parts in values.pop("sources", {}).items()}
        info = CorpusInfo(**values, **splits, sources=sources)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); encode the corpus again") from None
    if info.dtype not in ("uint16", "uint32"):
        raise ValueError(f"{path} has dtype={info.dtype!r}, which is not uint16 or uint32; encode the corpus again")
    return info


def _splits(values: dict[str, Any]) -> dict[Split, SplitInfo]:
    """Take the counts of the splits out of a dict from JSON."""
    return {split: SplitInfo(**values.pop(split)) for split in get_args(Split)}
