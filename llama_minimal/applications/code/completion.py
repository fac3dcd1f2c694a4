"""Complete a line of real Python, given the lines before it: from the standard library of the Python that runs."""

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from zlib import crc32

from llama_minimal.applications.base import Example, check_request

KIND = "completion"
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "pydoc_data", "encodings"}
_PER_FILE = 4  # lines from a file before the next one: reading a file takes longer than drawing from it
_CONTEXT = 300  # characters of the lines before, so that a small model reads them whole
_LONGEST = 60  # characters to complete
_PIECES = re.compile(r"\w+|\s+|[^\w\s]+")


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n beginnings of lines, each with the lines before it; the completion is the rest of the line.

    A line is a whole statement, or the head of one, that parses by itself, and more than its beginning says. Which
    split a file is in follows from its name; files come again with other lines. ``extra`` has the ``beginning``.

    Raises:
        ValueError: if n or split cannot be, or if the standard library has no such lines.
    """
    check_request(n, split)
    found: dict[tuple[str, str], Example] = {}
    for example in _stream(split, seed):
        found.setdefault((example.prompt, example.completion), example)
        if len(found) == n:
            return list(found.values())
    raise ValueError(f"this Python's library gave only {len(found)} lines of split {split}, not n={n}; ask for fewer")


def parses(beginning: str, completion: str) -> bool:
    """Tell whether a completed line is Python and says more than its beginning.

    A completion that is empty, a space, or a comment adds nothing to the tree of the line, and does not count.
    """
    line = completion.split("\n")[0]
    whole = _tree(beginning + line)
    return whole is not None and whole != _tree(beginning)


def _tree(line: str) -> str | None:
    """Return the syntax of a line by itself; of a head such as ``if a:``, with a body."""
    line = line.strip()
    for text in (line, f"{line} pass"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        return ast.dump(tree) if tree.body else None
    return None


def _stream(split: str, seed: int) -> Iterator[Example]:
    files, dice = _files(split), Random(f"{seed} {split} {KIND}")  # the hash of a text is the same everywhere
    for _ in range(100_000 if files else 0):
        name, path = dice.choice(files)
        file = _lines(path)
        for _ in range(_PER_FILE):
            if example := _example(name, file, dice):
                yield example


@cache
def _files(split: str) -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    named = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    return [(name, path) for name, path in named if not _LEFT_OUT & set(name.split("/")) and _split(name) == split]


def _split(name: str) -> str:
    return {0: "test", 1: "validation"}.get(crc32(name.encode()) % 10, "train")


@cache
def _lines(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the lines of a file, and which of them are whole statements or heads."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return (), ()
    lines = tuple(text.splitlines())
    whole = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            start, body = node.lineno, getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            if last == start and start <= len(lines):
                whole.add(start - 1)
    return lines, tuple(sorted(whole))


def _example(name: str, file: tuple[tuple[str, ...], tuple[int, ...]], dice: Random) -> Example | None:
    lines, whole = file
    if not whole:
        return None
    at = dice.choice(whole)
    line = lines[at]
    indent = len(line) - len(line.lstrip())
    pieces = _PIECES.findall(line[indent:])
    if len(pieces) < 4:
        return None
    cut = dice.randint(1, len(pieces) - 2)
    beginning = line[:indent] + "".join(pieces[:cut]).rstrip()
    rest = line[len(beginning) :].rstrip()
    if len(rest) > _LONGEST or not parses(beginning, rest):
        return None
    before: list[str] = []
    for earlier in reversed(lines[:at]):
        if len("\n".join([earlier, *before])) > _CONTEXT:
            break
        before.insert(0, earlier)
    extra = {"beginning": beginning, "file": name}
    return Example("\n".join([*before, beginning]), rest, KIND, extra=extra)
