"""Text to train on: what every Python ships, files, folders and web addresses, as named documents."""

import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from llama_minimal import plugins
from llama_minimal.data.document import Document, LongDocument, json_documents, text_documents
from llama_minimal.data.download import Progress, download
from llama_minimal.data.text_files import read_chunks, text_suffix
from llama_minimal.run_folder import is_run_file

_JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".txt", ".md", ".rst", ".py", *_JSON_LINES)
_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def documents(
    source: str | Path,
    *,
    text_field: str = "text",
    separator: str | None = None,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> Iterator[Document | LongDocument]:
    """Yield the documents of a source, in an order that does not depend on the machine.

    A file is one document, a ``.jsonl`` or ``.ndjson`` file one per line. Text is UTF-8, or UTF-16 or UTF-32 with a
    byte order mark; a file may be compressed with gzip, bz2 or xz (``stories.txt.gz``). Empty texts are left out. A
    text of more than four million characters is a ``LongDocument``, which reads it again whenever it is needed.

    Args:
        source: ``python-docs`` (the topics of Python's help), ``python-source`` (the standard library), ``valley``
            (20,000 texts from the Llama Valley; ``valley:500`` for 500), ``course`` (what the course model reads: the
            same, and sections of Python's documentation; ``course:500``), or a file, a folder (its txt, md, rst, py,
            jsonl and ndjson files, at any depth, hidden ones apart), a glob, or a web address. What training runs
            wrote into a folder is left out. Or ``NAME`` or ``NAME:ARGUMENT`` of a corpus that an installed package
            brings (entry point ``llama_minimal.corpora``: argument → pairs of name and text, the same each time).
        text_field: the field of a line of JSON that holds the text.
        separator: a text file is several documents, with this between them on a line of its own, such as
            ``<|endoftext|>``; line breaks around it belong to it.
        progress: called with (bytes so far, bytes in all or None) while a web address is fetched.
        cache_dir: where fetched files are kept; see ``download``.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        ConnectionError: if a web address cannot be fetched.
        ValueError: if a name is unknown, a file is not text, a line of JSON lacks the field, or there is no text.
    """
    if not str(source):
        raise ValueError("the name of the corpus is empty; give one, or '.' for the current folder")
    if separator is not None and (not separator.strip() or len(separator.splitlines()) > 1):
        raise ValueError(f"separator={separator!r} must be one line that is not empty, such as '<|endoftext|>'")
    read = partial(_read, text_field=text_field, separator=separator and separator.strip())
    if isinstance(source, str) and source in CORPORA:
        found = CORPORA[source]()
    elif isinstance(source, str) and (match := re.fullmatch(r"(valley|course):(\d+)", source)):
        found = CORPORA[match[1]](int(match[2]))
    elif isinstance(source, str) and "://" in source:
        path = download(source, cache_dir=cache_dir, progress=progress)
        found = read([(path, source)])
    elif isinstance(source, str) and not Path(source).expanduser().exists() and _is_of_a_package(source):
        found = _of_a_package(*source.split(":", 1))
    else:
        found = read(_files(source))
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
        raise ValueError(f"{source!r} is neither a path nor a known corpus; known are {', '.join(_known())}")
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
            if text_suffix(path) in suffixes and not is_run_file(path)
        ]
    return sorted(files, key=lambda file: file[1])


def _raise(error: OSError) -> None:
    raise error


def _read(
    files: list[tuple[Path, str]], *, text_field: str, separator: str | None
) -> Iterator[Document | LongDocument]:
    is_split = False
    is_json = [text_suffix(path) in _JSON_LINES for path, _ in files]
    if text_field != "text" and not any(is_json):
        raise ValueError(f"text_field={text_field!r} is for files of JSON lines, {' and '.join(_JSON_LINES)}: none is")
    for (path, name), is_lines in zip(files, is_json, strict=True):
        chunks = partial(read_chunks, path)
        if is_lines:
            found = json_documents(name, chunks, text_field, where=str(path))
        else:
            found = text_documents(name, chunks, separator)
        for number, document in enumerate(found):
            is_split = is_split or number > 0
            yield document
    if separator and not is_split and not all(is_json):
        warnings.warn(f"no line is {separator!r}, so every file is one document", stacklevel=2)


def _with_text(found: Iterable[Document | LongDocument], source: str) -> Iterator[Document | LongDocument]:
    empty = True
    for document in found:
        if any(chunk.strip() for chunk in document.chunks()):
            empty = False
            yield document
    if empty:
        raise ValueError(f"{source} holds no text")


def _known() -> list[str]:
    return [*CORPORA, *(name for name in plugins.names(plugins.CORPORA) if name not in CORPORA)]


def _is_of_a_package(source: str) -> bool:
    name = source.split(":", 1)[0]
    return name not in CORPORA and name in plugins.names(plugins.CORPORA)


def _of_a_package(name: str, argument: str = "") -> Iterator[Document]:
    read = plugins.load(plugins.CORPORA, name)
    where = f"the corpus {name!r} of the package {plugins.packages(plugins.CORPORA, name)}"
    try:
        for item in read(argument):
            if not isinstance(item, tuple) or [type(part) for part in item] != [str, str]:
                raise ValueError(f"it gave {str(item)[:60]!r} instead of a pair of texts, (name, text)")
            yield Document(*item)
    except Exception as error:  # whatever an outside function does
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{where} failed with {argument!r}: {kind}{error}") from error


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


def _course(n: int = 20_000) -> Iterator[Document]:
    from llama_minimal.data.valley.corpus import course_texts

    return (Document(name, text) for name, text in course_texts(n))


# Name -> the documents behind it.
CORPORA: dict[str, Callable[..., Iterator[Document]]] = {
    "python-docs": _python_docs,
    "python-source": _python_source,
    "valley": _valley,
    "course": _course,
}
