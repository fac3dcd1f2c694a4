"""The table of chapters/README.md: each section of the article, each chapter there, each name in the package."""

import importlib
import re
from pathlib import Path

import pytest

import llama_minimal

CHAPTERS = Path(__file__).parents[1] / "chapters"
SECTIONS = [f"{chapter}.{part}" for chapter, parts in zip(range(2, 10), (3, 4, 3, 3, 3, 3, 3, 2), strict=True)
            for part in range(1, parts + 1)]  # fmt: skip


def rows():
    text = (CHAPTERS / "README.md").read_text()
    lines = re.findall(r"^\| (\d\.\d) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert len(lines) > 40
    return lines


def resolve(name):
    """Return a module of the package, or what stands in one."""
    parts = name.split(".")
    found = llama_minimal
    for i, part in enumerate(parts):
        try:
            found = importlib.import_module(".".join(["llama_minimal", *parts[: i + 1]]))
        except ModuleNotFoundError:
            found = getattr(found, part)
    return found


def test_every_section_has_a_row_and_in_order():
    sections = [section for section, *_ in rows()]
    assert sorted(set(sections)) == SECTIONS
    assert sections == sorted(sections)


@pytest.mark.parametrize(("section", "what", "chapters", "names"), rows())
def test_what_a_row_names_is_there(section, what, chapters, names):
    for number, file in re.findall(r"\[(\d\d)\]\((.+?)\)", chapters):
        assert file.startswith(number)
        assert (CHAPTERS / file).exists(), file
    found = [resolve(name) for name in re.findall(r"`(.+?)`", names)]
    assert found
    assert all(thing is not None for thing in found)
