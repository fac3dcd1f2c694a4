"""Text to train on: what every Python ships, files, folders and web addresses, as named documents."""

import json
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from llama_minimal.data.download import Progress, download
from llama_minimal.run_folder import is_run_file

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl")
_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Document(NamedTuple):
    """One text with a name; the unit in which a corpus is split."""

    name: str
    text: str


def documents(
    source: str | Path, *, progress: Progress | None = None, cache_dir: str | Path | None = None
) -> Iterator[Document]:
    """Yield the documents of a source, in an order that does not depend on the machine.

    A file is one document, a ``.jsonl`` file one per line (its field "text"). Empty texts are left out.

    Args:
        source: ``python-docs`` (the topics of Python's help), ``python-source`` (the standard library), ``valley``
            (20,000 texts from the Llama Valley; ``valley:500`` for 500), or a file, a folder (its txt, md, rst, py
            and jsonl files, at any depth, hidden ones apart), a glob, or a web address. What training runs wrote into
            a folder is left out.
        progress: called with (bytes so far, bytes in all or None) while a web address is fetched.
        cache_dir: where fetched files are kept; see ``download``.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        ConnectionError: if a web address cannot be fetched.
        ValueError: if a name is unknown, a file is not UTF-8, or there is no text.
    """
    if isinstance(source, str) and source in CORPORA:
        found = CORPORA[source]()
    elif isinstance(source, str) and (match := re.fullmatch(r"valley:(\d+)", source)):
        found = _valley(int(match[1]))
    elif isinstance(source, str) and "://" in source:
        path = download(source, cache_dir=cache_dir, progress=progress)
        found = _read(path, source)
    else:
        files = _files(source)
        found = (document for path, name in files for document in _read(path, name))
    return _with_text(found, str(source))


def _files(source: str | Path) -> list[tuple[Path, str]]:
    path = Path(source).expanduser()
    if path.is_file():
        return [(path, path.name)]
    if path.is_dir():
        if files := _folder(path):
            return files
        raise ValueError(f"the folder {path} holds no {', '.join(SUFFIXES)} files")
    if set(str(path)) & set("*?["):
        matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        if files := sorted(
            (found.as_posix(), found) for found in matches if found.is_file() and not is_run_file(found)
        ):
            return [(found, name) for name, found in files]
        raise FileNotFoundError(f"no file matches {source}")
    if isinstance(source, str) and not path.suffix and len(path.parts) == 1:
        raise ValueError(f"{source!r} is neither a path nor a known corpus; known are {', '.join(CORPORA)}")
    raise FileNotFoundError(f"there is no file or folder {source}")


def _folder(root: Path, *, suffixes: Iterable[str] = SUFFIXES, without: Iterable[str] = ()) -> list[tuple[Path, str]]:
    files = []
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        # Changing the list in place keeps os.walk out of folders that may be huge, such as site-packages or .git.
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in without]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        files += [
            (path, path.relative_to(root).as_posix())
            for path in paths
            if path.suffix in suffixes and not is_run_file(path)
        ]
    return sorted(files, key=lambda file: file[1])


def _raise(error: OSError) -> None:
    raise error


def _read(path: Path, name: str) -> Iterator[Document]:
    if path.suffix == ".jsonl":
        yield from _read_lines(path, name)
    else:
        yield Document(name, _decode(path.read_bytes(), path, 0))


def _read_lines(path: Path, name: str) -> Iterator[Document]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = _decode(line, path, offset)
            offset += len(line)
            if text.strip():
                yield Document(f"{name}:{number}", _text_field(text, f"{path}, line {number},"))


def _text_field(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
        # JSON can escape half a character (a lone surrogate), which is no text.
        text.encode("utf-8")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{where} is not a JSON object with a Unicode string "text" ({error!r})') from None
    return text


def _decode(data: bytes, path: Path, offset: int) -> str:
    try:
        # A byte order mark at the start belongs to the file, not to its text.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}; convert it first, "
            f"for instance with iconv -f ISO-8859-1 -t UTF-8, or leave it out"
        ) from None


def _with_text(found: Iterable[Document], source: str) -> Iterator[Document]:
    empty = True
    for document in found:
        if document.text.strip():
            empty = False
            yield document
    if empty:
        raise ValueError(f"{source} holds no text")


def _python_docs() -> Iterator[Document]:
    from pydoc_data.topics import topics

    return (Document(name, topics[name]) for name in sorted(topics))


def _python_source() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path, name in _folder(root, suffixes=(".py",), without=_NOT_SOURCE):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            # CPython ships a few files in other encodings on purpose, to test its own parser.
            continue
        yield Document(name, text)


def _valley(n: int = 20_000) -> Iterator[Document]:
    # Imported here: whoever reads other text need not load the phrase books.
    from llama_minimal.data.valley.corpus import valley_texts

    return (Document(name, text) for name, text in valley_texts(n))


# Name -> the documents behind it.
CORPORA: dict[str, Callable[[], Iterator[Document]]] = {
    "python-docs": _python_docs,
    "python-source": _python_source,
    "valley": _valley,
}
