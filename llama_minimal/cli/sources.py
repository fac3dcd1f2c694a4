"""The text of ``train``: one corpus or several, read as often as needed, without duplicates if asked."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

from llama_minimal.cli.console import bytes_bar

if TYPE_CHECKING:
    from llama_minimal.cli.train import Train

TOKENIZER_BYTES = 50_000_000


class Sources:
    """Give the documents of a command's corpora.

    With ``--deduplicate`` they are read once at the beginning, and what repeats an earlier document, of the same corpus
    or one before it, is left out from then on. With ``--redact`` personal details are replaced.

    Args:
        say: called with what a user should know.
    """

    def __init__(self, command: "Train", *, say: Callable[[str], None]) -> None:
        self._command = command
        self._kept: dict[str, list[bool]] = {}
        if command.deduplicate:
            self._find_duplicates(say)

    def documents(self) -> Any:
        """Return the documents of the one corpus, or those of each by name: what ``encode_corpus`` takes."""
        found = {name: self._read(name) for name in self._command.corpus}
        return found if len(found) > 1 else found[self._command.corpus[0]]

    def texts(self) -> Iterator[str]:
        """Yield enough text to learn a vocabulary from, of several corpora in the proportions of their weights."""
        with bytes_bar("reading") as update:

            def reader(name: str) -> Callable[[], Iterator[str]]:
                return lambda: chain.from_iterable(d.chunks() for d in self._read(name, progress=update))

            readers = {name: reader(name) for name in self._command.corpus}
            left = TOKENIZER_BYTES
            for text in in_proportion(readers, self._command.train.weights):
                yield text
                left -= len(text)
                if left <= 0:
                    return

    def _read(self, name: str, **options: Any) -> Iterator[Any]:
        from llama_minimal.data import documents

        command = self._command
        found = documents(name, text_field=command.text_field, separator=command.document_separator, **options)
        if self._kept:
            found = compress(found, self._kept[name])
        if command.redact:
            from llama_minimal.responsible_ai.privacy.redaction import redact_document

            found = map(redact_document, found)
        return found

    def _find_duplicates(self, say: Callable[[str], None]) -> None:
        from llama_minimal.data.duplicates import Duplicates

        seen, kinds, kept = Duplicates(), Counter(), {}
        with bytes_bar("looking for duplicates") as update:
            for name in self._command.corpus:
                found = [seen.kind(document) for document in self._read(name, progress=update)]
                kept[name] = [kind is None for kind in found]
                kinds.update(found)
        self._kept = kept
        total, exact, near = kinds.total(), kinds["exact"], kinds["near"]
        say(f"of {total:,} documents {exact:,} exact and {near:,} near-duplicates were left out")
        if empty := [name for name, which in kept.items() if not any(which)]:
            raise ValueError(f"all documents of {empty[0]} are in the corpora before it; leave out that corpus")


def in_proportion(readers: Mapping[str, Callable[[], Iterable[str]]], weights: Sequence[float] | None) -> Iterator[str]:
    """Yield texts of several sources so that the characters of each stay in proportion to its weight.

    It ends when each source has been read to its end once; those that are there sooner begin anew. Without weights
    each is read once, the sources side by side, so that the proportions at the end are those of their sizes.

    Args:
        readers: source → what begins to read it.
    """
    open_sources = {name: iter(reader()) for name, reader in readers.items()}
    shares = dict(zip(readers, weights or [1] * len(readers), strict=True))
    read, unfinished = dict.fromkeys(readers, 0), set(readers)
    while unfinished:
        name = min(open_sources, key=lambda name: read[name] / shares[name])
        text = next(open_sources[name], None)
        if text is not None:
            read[name] += len(text)
            yield text
            continue
        unfinished.discard(name)
        if weights is None or not read[name]:
            del open_sources[name]
        else:
            open_sources[name] = iter(readers[name]())
