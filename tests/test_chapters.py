"""The gate for notebooks: what nbval does not look at."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from llama_minimal.course.badges import write_badges

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9]*.ipynb"))
NOTEBOOKS = CHAPTERS + sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))
SECTIONS = (
    "Where we are",
    "The problem",
    "By hand",
    "The math",
    "NumPy",
    "PyTorch",
    "Properties",
    "See it",
    "In LLaMA",
    "In the package",
    "Exercises",
    "Recap",
)
# Sections that have no meaning for a chapter.
WITHOUT = {"00_start_here": set(SECTIONS) - {"Recap"}}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def headings(notebook, level):
    return [title for source in markdown(notebook) for title in re.findall(rf"^{level} (.+)$", source, re.MULTILINE)]


def problems(notebook):
    """What is wrong with a notebook, as readable strings."""
    found = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
        if cell.execution_count != number:
            found.append(f"cell {number} has the count {cell.execution_count}")
        if len(cell.source.splitlines()) > 30:
            found.append(f"cell {number} has more than 30 lines")
        for statement in ast.walk(ast.parse(source)):
            if isinstance(statement, ast.Expr) and asserts_nothing(statement.value):
                found.append(f"cell {number} compares and asserts nothing: {ast.unparse(statement)}")
        streams = [output.name for output in cell.outputs if output.output_type == "stream"]
        if len(streams) != len(set(streams)):
            found.append(f"cell {number} has an output in pieces; make chapters joins them")
        for output in cell.outputs:
            found += [f"cell {number} {what}" for what in output_problems(output, cell.metadata.get("tags", ()))]
    if len(titles := headings(notebook, "#")) > 1:
        found.append(f"there is more than one title: # {titles[1]}")
    stored = sum(len(json.dumps(cell.outputs)) for cell in code_cells(notebook))
    if stored > 1_000_000:
        found.append(f"the outputs take {stored:,} bytes")
    return found


def asserts_nothing(value):
    if isinstance(value, ast.Compare):
        return True
    name = value.func.attr if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else ""
    return name in ("allclose", "array_equal", "equal", "isclose")


def output_problems(output, tags):
    if output.output_type == "error" and "raises-exception" not in tags:
        yield f"ends with {output.ename}"
    if output.output_type == "stream" and output.name == "stderr":
        yield "writes to stderr"
    data = output.get("data", {})
    if any("widget" in kind for kind in data):
        yield "shows a widget"
    if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
        yield "shows a figure without alt text"
    text = json.dumps({kind: value for kind, value in data.items() if not kind.startswith("image/")})
    if re.search(r"/(home|root|work|tmp|usr|Users)/|[A-Z]:\\\\", text + str(output.get("text", ""))):
        yield "shows an absolute path"


def links(notebook):
    for source in markdown(notebook):
        yield from re.findall(r"\]\(([^)#\s]+)[^)]*\)", source.replace("\n", " "))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebooks_are_clean(path):
    notebook = read(path)
    assert problems(notebook) == []
    # Chapters that are still to come may be named.
    later = [link for link in links(notebook) if not re.match(r"https?://", link) and not (path.parent / link).exists()]
    assert [link for link in later if not re.fullmatch(r"\d\d_\w+\.ipynb", link)] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_have_all_sections(path):
    titles = headings(read(path), "##")
    wanted = [section for section in SECTIONS if section not in WITHOUT.get(path.stem, ())]
    places = [next((i for i, title in enumerate(titles) if title.startswith(section)), None) for section in wanted]
    assert None not in places, [section for section, place in zip(wanted, places, strict=True) if place is None]
    assert places == sorted(places)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_exercises_have_solutions(path):
    def checked(notebook):
        return re.findall(r'check\("([\w.]+)"', "\n".join(cell.source for cell in code_cells(notebook)))

    solution = path.parent / "solutions" / path.name
    if path.stem not in WITHOUT:
        names = checked(read(path))
        assert len(names) >= 3
        assert checked(read(solution)) == names
        outputs = [output.text for cell in code_cells(read(solution)) for output in cell.outputs if "text" in output]
        assert sum(text.count("✓") for text in outputs) == len(names)
        assert "✗" not in "".join(outputs)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_list_of_chapters_gives_the_minutes(path):
    minutes = re.search(r"(\d+) minutes to read", read(path).cells[0].source).group(1)
    assert re.search(rf"\({path.name}\).*\| {minutes} \|", (path.parent / "README.md").read_text())


def addresses(folder):
    """Every repository that the list of chapters and the notebooks' first cells name, with how often."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    text += "".join(read(path).cells[1].source for path in sorted(folder.glob("[0-9]*.ipynb")))
    return Counter(re.findall(r"(?:/github/|/v2/gh/|git\+https://github\.com/)([\w.-]+/[\w.-]+)", text))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_chapter_has_two_badges_that_open_it(path):
    row = next(line for line in (path.parent / "README.md").read_text().splitlines() if f"]({path.name})" in line)
    assert re.search(rf"\(https://colab\.research\.google\.com/github/\S+/blob/main/chapters/{path.name}\)", row)
    assert re.search(rf"\(https://mybinder\.org/v2/gh/\S+/HEAD\?urlpath=lab/tree/chapters/{path.name}\)", row)


def test_one_command_writes_the_address_of_a_public_copy(tmp_path):
    (was,) = addresses(ROOT / "chapters")
    assert addresses(ROOT / "chapters")[was] == 3 * len(CHAPTERS)
    for path in [*CHAPTERS, ROOT / "chapters" / "README.md"]:
        shutil.copy(path, tmp_path)
    write_badges(tmp_path, "someone/my.fork")
    assert addresses(tmp_path) == {"someone/my.fork": 3 * len(CHAPTERS)}
    with pytest.raises(ValueError, match="such as someone/llama_minimal"):
        write_badges(tmp_path, "someone")
    write_badges(tmp_path, was)
    for path in [*CHAPTERS, ROOT / "chapters" / "README.md"]:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()  # nothing else was touched


def test_a_chapter_without_a_first_cell_gets_one_and_keeps_its_outputs(tmp_path):
    notebook = read(CHAPTERS[1])
    setup = notebook.cells.pop(1)
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = number
    nbformat.write(notebook, tmp_path / CHAPTERS[1].name)
    shutil.copy(ROOT / "chapters" / "README.md", tmp_path)
    write_badges(tmp_path, "someone/fork")
    made = read(tmp_path / CHAPTERS[1].name)
    assert problems(made) == []
    assert made.cells[1].source == setup.source.replace(*addresses(ROOT / "chapters"), "someone/fork")
    assert [cell.get("outputs") for cell in made.cells[2:]] == [cell.get("outputs") for cell in notebook.cells[1:]]


def test_the_first_cell_installs_only_what_is_missing(monkeypatch):
    source = re.sub(r"%pip install (.*)", r'installed.append("\1")', read(CHAPTERS[0]).cells[1].source)
    installed = []
    exec(source, {"installed": installed})
    assert installed == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(source, {"installed": installed})
    address = next(iter(addresses(ROOT / "chapters")))
    assert installed == [f"-q 'llama_minimal[course,hub] @ git+https://github.com/{address}'"]


def test_every_figure_is_made_by_a_chapter():
    made = {
        f"{name}.svg"
        for path in CHAPTERS
        for cell in code_cells(read(path))
        for name in re.findall(r'plotting\.show\(\s*\w+,\s*"(\w+)"', cell.source)
    }
    assert {path.name for path in (ROOT / "figures").glob("*.svg")} == made


def collected(*flags):
    """Count the cells that pytest collects from the root without a path, by notebook; the tests are left out."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *flags,
        "--collect-only",
        "-q",
        "--ignore-glob=tests/*",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return Counter(line.split("::")[0] for line in done.stdout.splitlines() if "::" in line)


def test_pytest_nbval_from_the_root_collects_every_cell_of_every_notebook():
    cells = {path.relative_to(ROOT).as_posix(): len(code_cells(read(path))) for path in NOTEBOOKS}
    assert collected("--nbval") == cells
    assert sum(cells.values()) > 250


def test_pytest_alone_leaves_the_notebooks_be():
    assert collected() == {}


def notebook_of(source, *, count=1, outputs=(), tags=()):
    cell = nbformat.v4.new_code_cell(
        source, execution_count=count, outputs=list(outputs), metadata={"tags": list(tags)}
    )
    return nbformat.v4.new_notebook(cells=[cell])


STDERR = nbformat.v4.new_output("stream", name="stderr", text="careful")
ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
WIDGET = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
FIGURE = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
PATH_SHOWN = nbformat.v4.new_output("stream", name="stdout", text=f"saved in {Path('/home', 'me', 'x')}")
PRINTED = nbformat.v4.new_output("stream", name="stdout", text="1\n")
HUGE = nbformat.v4.new_output("stream", name="stdout", text="x" * 1_000_001)


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        (notebook_of("x = 1", count=None), "has the count None"),
        (notebook_of("x = 1", count=3), "has the count 3"),
        (notebook_of("x = 1\n" * 31), "more than 30 lines"),
        (notebook_of("a == b"), "asserts nothing"),
        (notebook_of("np.allclose(a, b)"), "asserts nothing"),
        (notebook_of("x = 1", outputs=[STDERR]), "stderr"),
        (notebook_of("x = 1", outputs=[ERROR]), "ends with ValueError"),
        (notebook_of("x = 1", outputs=[WIDGET]), "widget"),
        (notebook_of("x = 1", outputs=[FIGURE]), "without alt text"),
        (notebook_of("x = 1", outputs=[PATH_SHOWN]), "absolute path"),
        (notebook_of("x = 1", outputs=[HUGE]), "the outputs take"),
        (notebook_of("x = 1", outputs=[PRINTED, PRINTED]), "in pieces"),
    ],
)
def test_the_gate_refuses(notebook, message):
    assert any(message in problem for problem in problems(notebook))


def test_the_gate_refuses_a_second_title():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_markdown_cell("# Two")]
    )
    assert problems(notebook) == ["there is more than one title: # Two"]


def test_the_gate_lets_good_cells_pass():
    assert problems(notebook_of("assert a == b\nprint(np.allclose(a, b))")) == []
    assert problems(notebook_of("f()", outputs=[ERROR], tags=["raises-exception"])) == []
