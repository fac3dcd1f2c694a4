"""Stored outputs with a tolerance: close numbers pass; wrong ones, missing ones and other words fail."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.course.tolerance import Tolerance, forgive, read_tolerance

TWO_PERCENT = Tolerance(relative=0.02)
CONFTEST = Path(__file__).parents[1] / "chapters" / "conftest.py"

# What a cell prints now, what is stored, its tag, and whether it passes.
CELLS = [
    ("loss 2.213", "loss 2.230", "approx", True),
    ("loss 2.330", "loss 2.230", "approx", False),
    ("loss 2.330", "loss 2.230", "approx-10%", True),
    ("loss 2.213", "loss 2.230", None, False),
    ("gap 0.009", "gap 0.008", "approx", False),
    ("gap 0.009", "gap 0.008", "approx-abs-0.01", True),
    ("after 101 steps", "after 100 steps", "approx", False),
    ("loss 2.213", "loss 2.213 and 3.1", "approx", False),
    ("lost 2.213", "loss 2.213", "approx", False),
    ("loss -2.213", "loss 2.213", "approx", False),
    ("loss nan", "loss 2.213", "approx", False),
    ("1,213.5 tokens", "1,214.5 tokens", "approx", True),
    ("9.98  b", "10.02  b", "approx", True),
    ("[0.101, 3]", "[0.1, 3]", "approx", True),
    ("1.02e-05", "1.01e-05", "approx", True),
    ("1.02e-05", "1.01e-06", "approx", False),
]


@pytest.mark.parametrize(("new", "stored", "tag", "passes"), CELLS)
def test_only_close_numbers_are_forgiven(new, stored, tag, passes):
    tolerance = read_tolerance([tag] if tag else [])
    assert ((new if tolerance is None else forgive(new, stored, tolerance)) == stored) == passes


def test_what_is_wrong_stays_visible_beside_what_is_close():
    assert forgive("a 1.01 b 7.0", "a 1.00 b 5.0", TWO_PERCENT) == "a 1.00 b 7.0"


@given(st.text(), st.text())
def test_texts_that_differ_in_more_than_numbers_never_become_equal(new, stored):
    def without_fractions(text):
        return re.sub(r"[-−]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?", "#", text).split()

    if forgive(new, stored, TWO_PERCENT) == stored:
        assert new == stored or without_fractions(new) == without_fractions(stored)


@pytest.mark.parametrize("tag", ["approx-10", "approximately", "approx-abs-", "approx--3%"])
def test_unknown_tags_are_refused(tag):
    with pytest.raises(ValueError, match="none of approx"):
        read_tolerance([tag])


def test_nbval_compares_with_the_tolerance(tmp_path):
    """Real notebook, real kernel: a cell each, printed as text and shown as a value."""
    notebook = nbformat.v4.new_notebook()
    expected = []
    for new, stored, tag, passes in CELLS[:9]:
        cell = nbformat.v4.new_code_cell(f"print({new!r})", execution_count=len(expected) + 1)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored + "\n")]
        cell.metadata["tags"] = [tag] if tag else []
        notebook.cells.append(cell)
        expected.append(passes)
    shown = nbformat.v4.new_code_cell("2.213", execution_count=len(expected) + 1, metadata={"tags": ["approx"]})
    shown.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2.23"}, execution_count=1)]
    notebook.cells.append(shown)
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    shutil.copy(CONFTEST, tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbval", "-v", "-p", "no:cacheprovider", "lesson.ipynb"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300).stdout
    outcomes = re.findall(r"::Cell \d+ (PASSED|FAILED)", output)
    assert outcomes == ["PASSED" if passes else "FAILED" for passes in [*expected, True]], output
