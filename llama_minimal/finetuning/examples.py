"""Examples with answers: what a model is tuned on, from a file or from Python."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from llama_minimal.finetuning.kinds import Chat, Example, Labeled, Pair, check_texts, shown
from llama_minimal.finetuning.rows import Row, named, read_rows

__all__ = ["Chat", "Example", "Labeled", "Pair", "read_examples", "read_numbered"]

# The first two are texts as written; the others are put together, with a line break before the completion.
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "answer"),
    ("instruction", "output"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
)
_CHATS = ("messages", "conversations")
_TEXTS, _LABELS = ("text", "sentence", "review"), ("label", "sentiment", "topic", "category")
KNOWN_NAMES = (
    "prompt and completion (or answer); instruction and output, with or without input; question and answer; input and "
    "output; source and target; messages (or conversations); text (or sentence, review) and label (or sentiment, "
    "topic, category)"
)
_SHOWN = 3


def read_examples(source: str | os.PathLike | Iterable[object]) -> list[Example]:
    """Return the examples of a file, or of an iterable of dicts and dataclasses: all of one kind.

    A row has the names ``prompt`` and ``completion`` (or ``answer``), texts as they stand; or ``instruction`` and
    ``output`` with or without ``input``, ``question`` and ``answer``, ``input`` and ``output``, ``source`` and
    ``target``, where a line break is put before the completion; or ``messages`` with ``role`` and ``content`` (or
    ``conversations`` with ``from`` and ``value``); or ``text`` (``sentence``, ``review``) and ``label``
    (``sentiment``, ``topic``, ``category``), of which numbers become text. Capital letters make no difference, and
    other names are left aside. A prompt may be empty, nothing else.

    Args:
        source: a file of JSON lines (``.jsonl``, ``.ndjson``), a list in JSON (``.json``), or a table (``.csv``,
            ``.tsv``) whose columns are separated by commas, semicolons, tabs or bars; or the rows themselves.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: once for the whole file: what does not fit, in which lines, and what would.
    """
    return read_numbered(source)[0]


def read_numbered(source: str | os.PathLike | Iterable[object]) -> tuple[list[Example], list[int]]:
    """Return the examples as ``read_examples`` does, and the line in which each begins (of an iterable, 1, 2 …)."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        rows = read_rows(path, lambda names: bool(_forms(names)))
        return _examples(rows, str(path), "line"), [row.line for row in rows]
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise ValueError(f"{shown(source)} holds no rows; give a file's name, or a list with a dict for each example")
    rows = [_python_row(number, value) for number, value in enumerate(source, start=1)]
    if not rows:
        raise ValueError("there are no examples; give at least one")
    return _examples(rows, "the examples", "row"), [row.line for row in rows]


class _Form(NamedTuple):
    """The names that an example is made from, and of which kind it is."""

    kind: type
    first: str
    second: str = ""

    def __str__(self) -> str:
        return " and ".join(filter(None, self[1:]))


def _forms(names: Iterable[str]) -> tuple[_Form, ...]:
    """Return the forms that an example with these names could have."""
    names = set(names)
    if {"instruction", "output"} <= names:
        names -= {"input"}  # it belongs to the instruction
    pairs = [_Form(Pair, *pair) for pair in _PAIRS if names.issuperset(pair)]
    chats = [_Form(Chat, name) for name in _CHATS if name in names]
    labels = [_Form(Labeled, *pair) for pair in product(_TEXTS, _LABELS) if names.issuperset(pair)]
    return (*pairs, *chats, *labels)


def _python_row(number: int, value: object) -> Row:
    if isinstance(value, Pair | Chat | Labeled):
        return Row(number, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if not isinstance(value, Mapping):
        return Row(number, problem=f"is {shown(value)}, not a dict")
    try:
        return Row(number, named(dict(value)))
    except ValueError as error:
        return Row(number, problem=str(error))


def _examples(rows: list[Row], where: str, unit: str) -> list[Example]:
    form = _common_form(rows, where)
    examples: list[Example] = []
    problems: dict[str, list[int]] = {}
    for row in rows:
        try:
            if row.problem:
                raise ValueError(row.problem)
            examples.append(_example(row.values, form))
        except ValueError as error:
            problems.setdefault(str(error), []).append(row.line)
    if problems:
        raise ValueError(
            f"{where}: {_listed(problems, unit)}. Every row needs {form}; mend these rows or leave them out"
        )
    return examples


def _common_form(rows: list[Row], where: str) -> _Form:
    """Return the form that most rows have."""
    names = Counter(tuple(row.values) for row in rows if not row.problem)
    if not names:
        problems: dict[str, list[int]] = {}
        for row in rows:
            problems.setdefault(row.problem, []).append(row.line)
        raise ValueError(f"{where}: {_listed(problems, 'row' if where == 'the examples' else 'line')}")
    counts: Counter[tuple[_Form, ...]] = Counter()
    for each, n in names.items():
        counts[_forms(each)] += n
    counts.pop((), None)
    if not counts:
        given = ", ".join(map(repr, names.most_common(1)[0][0])) or "no names"
        raise ValueError(f"{where}: the names {given} are not enough to know what is what; known are {KNOWN_NAMES}")
    forms = counts.most_common(1)[0][0]
    if len(forms) > 1:
        raise ValueError(f"{where}: there is {' as well as '.join(map(str, forms))}; leave the columns of one out")
    return forms[0]


def _listed(problems: dict[str, list[int]], unit: str) -> str:
    """Write each problem with the first lines in which it is, the most frequent first."""
    parts = []
    for problem, lines in sorted(problems.items(), key=lambda item: (-len(item[1]), item[1][0]))[:_SHOWN]:
        more = f" and {len(lines) - _SHOWN:,} more" if len(lines) > _SHOWN else ""
        which = f"each of {unit}s" if len(lines) > 1 else unit
        parts.append(f"{which} {', '.join(map(str, lines[:_SHOWN]))}{more} {problem}")
    if len(problems) > _SHOWN:
        parts.append(f"and {sum(map(len, problems.values())):,} {unit}s in all do not fit")
    return "; ".join(parts)


def _example(values: Mapping[str, Any], form: _Form) -> Example:
    missing = [name for name in form[1:] if name and name not in values]
    if missing:
        raise ValueError(f"has no {missing[0]!r} but {', '.join(map(repr, values)) or 'nothing'}")
    if form.kind is Chat:
        return Chat(values[form.first])
    if form.kind is Labeled:
        return Labeled(_text(values, form.first), _text(values, form.second, numbers=True))
    prompt = _text(values, form.first, empty=form.first == "prompt")
    completion = _text(values, form.second)
    if form.first == "instruction" and values.get("input"):
        prompt += "\n" + _text(values, "input", empty=True)
    between = form.first != "prompt" and not prompt[-1:].isspace() and not completion[:1].isspace()
    return Pair(prompt + "\n" * between, completion)


def _text(values: Mapping[str, Any], name: str, *, numbers: bool = False, empty: bool = False) -> str:
    value = values[name]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"has {'null' if value is None else str(value).replace('nan', 'NaN')} for {name!r}")
    if numbers and isinstance(value, bool | int | float):
        whole = isinstance(value, float) and value.is_integer()
        value = str(value).lower() if isinstance(value, bool) else str(int(value) if whole else value)
    check_texts(**{name: value})
    if not empty and not value.strip():
        raise ValueError(f"has nothing in {name!r}")
    return value
