"""The rows of a data file: JSON lines, a list in JSON, or a table with names in its first line."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llama_minimal.data.text_files import read_chunks, text_suffix
from llama_minimal.files import refuse_pointer
from llama_minimal.finetuning.kinds import LONGEST_TEXT

LONGEST_FILE = 500_000_000
_JSON, _TABLES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_DELIMITERS, _SPACE = ",;\t|", re.compile(r"\s*")
_ONE_LIST = re.compile(r"\s*\[(?!.*\]\s*\n\s*\[)")  # over several lines, and not lines that are lists


class Row(NamedTuple):
    """One row: what stands in it by name, or why that cannot be said."""

    line: int
    values: Mapping[str, Any] = MappingProxyType({})
    problem: str = ""


class _Twice(NamedTuple):
    """Stands for a JSON object that has a key twice."""

    key: str


def read_rows(path: Path, is_known: Callable[[set[str]], bool]) -> list[Row]:
    """Return the rows of a file, each with the line in which it begins; names are in small letters.

    Args:
        path: a .jsonl, .ndjson, .json, .csv or .tsv file; gzip, bz2 or xz may be around it.
        is_known: whether these names are those of a table; that decides what separates its columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, has no rows, or is longer than 500 million characters.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one file, which ends in {_endings()}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = text_suffix(path)
    if suffix not in _JSON + _TABLES:
        raise ValueError(f"{path} ends in {suffix!r}; examples are read from files that end in {_endings()}")
    refuse_pointer(path)
    text = _whole(path)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    if suffix in _TABLES:
        rows = list(_table(text, path, is_known))
    else:
        rows = list(_json_list(text, path) if _ONE_LIST.match(text) else _json_lines(text))
    if not rows:
        raise ValueError(f"{path} holds no rows" + (" below its header" if suffix in _TABLES else ""))
    return rows


def small(name: object) -> str:
    """Return a name as names are compared: in small letters, without spaces around."""
    return str(name).strip().casefold()


def named(values: dict[Any, Any]) -> dict[str, Any]:
    """Return the values under their names in small letters.

    Raises:
        ValueError: if two names are the same then.
    """
    names = Counter(small(name) for name in values)
    if twice := [name for name, n in names.items() if n > 1]:
        raise ValueError(f"has {twice[0]!r} twice")
    return {small(name): value for name, value in values.items()}


def _endings() -> str:
    return ", ".join((*_JSON, *_TABLES))


def _whole(path: Path) -> str:
    chunks, length = [], 0
    for chunk in read_chunks(path):
        chunks.append(chunk)
        length += len(chunk)
        if length > LONGEST_FILE:
            raise ValueError(f"{path} has more than {LONGEST_FILE:,} characters; take a part of it")
    return "".join(chunks)


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        # Files that were put together may have a byte order mark at any line.
        line = line.removeprefix("\ufeff").strip()
        if len(line) > LONGEST_TEXT:
            yield Row(number, problem=f"is longer than {LONGEST_TEXT:,} characters")
        elif "\0" in line:
            yield Row(number, problem="holds a NUL character")
        elif line:
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        return _row(number, json.loads(line, object_pairs_hook=_object))
    except json.JSONDecodeError as error:
        return Row(number, problem=f"is not JSON: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets in …
        return Row(number, problem=f"is not JSON: {error}")


def _json_list(text: str, path: Path) -> Iterator[Row]:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    place, line, counted = text.index("[") + 1, 1, 0
    try:
        while True:
            place = _SPACE.match(text, place).end()
            if text[place : place + 1] == "]":
                break
            value, end = decoder.raw_decode(text, place)
            line, counted = line + text.count("\n", counted, place), place
            yield _row(line, value, length=end - place)
            place = _SPACE.match(text, end).end()
            if text[place : place + 1] == "]":
                break
            if text[place : place + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            place += 1
        if rest := text[place + 1 :].strip():
            raise json.JSONDecodeError(f"The list has ended, and {rest[:20]!r} follows", text, place + 1)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}, after line {line}") from None


def _object(items: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    values = dict(items)
    return values if len(values) == len(items) else _Twice(Counter(key for key, _ in items).most_common(1)[0][0])


def _key_twice(value: object) -> str | None:
    """Return a key that an object has twice, or one inside it."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, _Twice):
            return value.key
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
    return None


def _row(line: int, value: object, *, length: int = 0) -> Row:
    if length > LONGEST_TEXT:
        return Row(line, problem=f"is longer than {LONGEST_TEXT:,} characters")
    if (key := _key_twice(value)) is not None:
        return Row(line, problem=f"has {key!r} twice")
    if not isinstance(value, dict):
        return Row(line, problem='is no JSON object, such as {"prompt": "…", "completion": "…"}')
    try:
        return Row(line, named(value))
    except ValueError as error:
        return Row(line, problem=str(error))


def _table(text: str, path: Path, is_known: Callable[[set[str]], bool]) -> Iterator[Row]:
    records = _records(text, _delimiter(text, path, is_known), path)
    _, header = next(records)
    names = [small(name) for name in _without_empty_end(header)]
    if twice := [name for name, n in Counter(filter(None, names)).items() if n > 1]:
        raise ValueError(f"{path} has two columns with the name {twice[0]!r}; rename one")
    for line, cells in records:
        if len(cells) > len(names):
            cells = cells[: len(names)] + _without_empty_end(cells[len(names) :])
        if len(cells) == len(names):
            yield Row(line, {name: cell for name, cell in zip(names, cells, strict=True) if name})
        else:
            yield Row(
                line,
                problem=f"has not the {len(names)} cells of the header but {len(cells)} (a cell that holds the "
                "separator or a line break stands in quotation marks)",
            )


def _without_empty_end(cells: list[str]) -> list[str]:
    """Return the cells without those after the last that holds something: spreadsheets write commas there."""
    return cells[: max((i for i, cell in enumerate(cells, start=1) if cell.strip()), default=0)]


def _delimiter(text: str, path: Path, is_known: Callable[[set[str]], bool]) -> str:
    """Return what separates the columns: that with which the names are known, else that which gives most of them."""
    candidates = sorted(_DELIMITERS, key=lambda one: (path.suffix.lower() == ".tsv") == (one == "\t"), reverse=True)
    headers = {}
    for one in candidates:
        try:
            headers[one] = next(_records(text, one, path))[1]
        except (ValueError, StopIteration):  # a header in which this one makes no sense
            headers[one] = []
    known = [one for one, names in headers.items() if is_known(set(map(small, names)))]
    return known[0] if known else max(candidates, key=lambda one: len(headers[one]))


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that has any, with the line in which it begins."""
    # newline="": a line break inside a cell stays what it is.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        while True:
            with _long_cells():
                cells = next(reader, None)
            if cells is None:
                return
            if any(map(str.strip, cells)):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}: the row that begins in line {line} {_explained(str(error))}") from None


def _explained(error: str) -> str:
    if "field limit" in error:
        return f"has a cell of more than {LONGEST_TEXT:,} characters; is a quotation mark open? Else leave it out"
    if "unexpected end" in error:
        return "opens a quotation mark that is never closed; close it, or write it twice if it belongs to the text"
    if "expected after" in error:
        return (
            "goes on after a closing quotation mark; a cell that holds quotation marks stands in quotation marks, "
            'and has each of them twice: "She said ""no"""'
        )
    return f"cannot be read ({error})"


@contextmanager
def _long_cells() -> Iterator[None]:
    former = csv.field_size_limit(LONGEST_TEXT)  # Python's own limit is 131,072, for the whole program
    try:
        yield
    finally:
        csv.field_size_limit(former)
