"""The gate for notebooks: what nbval does not look at."""

import ast
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from llama_minimal.course.badges import write_badges
from llama_minimal.course.tolerance import NUMBER, read_tolerance

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
# A cell whose answer is yes or no, and no number: the same ids, the same shape. Words and a count are better still.
YES_NO, MOST_YES_NO = "yes-no", 2
# Functions and methods that return whether something is so.
BOOLEAN = set(
    "bool all any isinstance issubclass hasattr callable allclose array_equal array_equiv equal isclose isnan isfinite "
    "isinf startswith endswith issubset issuperset isdisjoint is_contiguous".split()
)
SHOWN_BOOLEAN = r"(^|[\s:=])(True|False)$|\w: (True|False)\b"
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
        tags = cell.metadata.get("tags", ())
        for output in cell.outputs:
            found += [f"cell {number} {what}" for what in output_problems(output, tags)]
        bare = bare_booleans(source, cell.outputs)
        if YES_NO not in tags:
            found += [f"cell {number} {what}; print the number and assert the claim" for what in bare]
        elif not bare:
            found.append(f"cell {number} has the tag {YES_NO} and prints no boolean; take the tag away")
        found += [f"cell {number} {what}" for what in tolerance_problems(source, cell.outputs, tags)]
    if (count := sum(YES_NO in cell.metadata.get("tags", ()) for cell in code_cells(notebook))) > MOST_YES_NO:
        found.append(f"{count} cells have the tag {YES_NO}; {MOST_YES_NO} are allowed")
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


def shown_text(output):
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


def bare_booleans(source, outputs):
    """Comparisons that are printed as they are, and lines of output that end with what such a print leaves."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("print", "display"):
            found += [f"prints the bare {ast.unparse(part)}" for part in call.args if is_boolean(part)]
    lines = [line.rstrip() for output in outputs for line in shown_text(output).splitlines()]
    return found + [f"shows {line!r}" for line in lines if re.search(SHOWN_BOOLEAN, line)]


def is_boolean(node):
    """Whether an expression is by its form true or false, or shows something that is."""
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp(values=parts):
            return all(map(is_boolean, parts))
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr(), right=right):
            return is_boolean(left) and is_boolean(right)
        case ast.JoinedStr(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            return any(map(is_boolean, parts))
        case ast.FormattedValue(value=part) | ast.Starred(value=part) | ast.ListComp(elt=part):
            return is_boolean(part)
        case ast.GeneratorExp(elt=part):
            return is_boolean(part)
        case ast.Call(func=ast.Name(id=name)) if name in BOOLEAN:
            return True
        case ast.Call(func=ast.Attribute(value=owner, attr=name)):
            return name in BOOLEAN or (name in ("item", "tolist") and is_boolean(owner))
    return False


def tolerance_problems(source, outputs, tags):
    """More than 5 % of the largest number that is compared needs a reason."""
    tolerance = read_tolerance(tags)
    if tolerance is None or re.search(r"#.*\btolerance\b", source, re.IGNORECASE):
        return
    numbers = [word for output in outputs for word in NUMBER.findall(shown_text(output)) if not word.isdigit()]
    largest = max((abs(float(word.replace(",", "").replace("−", "-"))) for word in numbers), default=0)
    if max(tolerance.relative, tolerance.absolute / (largest or math.inf)) > 0.05:
        yield f"allows more than 5 % ({', '.join(tags)}): give the reason in a comment with the word tolerance"


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


def printed(text, kind="stdout"):
    if kind == "result":
        return nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=1)
    return nbformat.v4.new_output("stream", name=kind, text=text)


@pytest.mark.parametrize(
    "source",
    [
        "print(a == b)",
        'print("same:", a == b)',
        'print(f"same: {a < b}")',
        'print(f"{name}: {np.allclose(a, b)!s:>7}")',
        "print(torch.equal(a, b), 1)",
        "print(bool(a.max() < b.min()))",
        "print((a == b).all().item())",
        "print(not a)",
        "print(0 < a < 1 and all(a))",
        "print((a > 0) & (b > 0))",
        "print(token in text)",
        "print(*(a == b for a in c))",
        "print([np.isclose(a, b) for a in c])",
        "for a in b:\n    print(a, isinstance(a, int))",
        "display(a == b)",
    ],
)
def test_the_gate_refuses_printed_comparisons(source):
    assert any("prints the bare" in problem for problem in problems(notebook_of(source)))
    assert problems(notebook_of(source, tags=["yes-no"])) == []


@pytest.mark.parametrize(
    "output",
    [
        printed("same: True\n"),
        printed("0.5\nFalse\n"),
        printed("rms  True \n"),
        printed("a=False\nb=1"),
        printed("ours: True, by 0.5"),
        printed("True", "result"),
    ],
)
def test_the_gate_refuses_lines_that_end_with_a_boolean(output):
    assert any("shows '" in problem for problem in problems(notebook_of("f()", outputs=[output])))
    assert problems(notebook_of("f()", outputs=[output], tags=["yes-no"])) == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("print((a == b).sum(), 'of 8')", "7 of 8\n"),
        ("print(f'{(a == b).mean():.0%}')", "88%\n"),
        ("print('the same 48 ids' if a == b else 'other ids')", "the same 48 ids\n"),
        ("print(np.tri(2).astype(bool))", "[[ True False]\n [ True  True]]\n"),
        ("print(config)", "LlamaConfig(dim=64, tie_embeddings=False)\n{'tie_embeddings': False}"),
        ("print(max(a, key=lambda x: x > 0), a or b)", "3 4\n"),
        ("assert a == b\nprint(a)", "That is True of llamas.\n"),
    ],
)
def test_the_gate_lets_numbers_words_and_masks_pass(source, text):
    assert problems(notebook_of(source, outputs=[printed(text)])) == []


def test_the_gate_counts_cells_that_answer_yes_or_no():
    cells = [notebook_of("print(a == b)", count=n, tags=["yes-no"]).cells[0] for n in (1, 2, 3)]
    assert problems(nbformat.v4.new_notebook(cells=cells[:2])) == []
    assert problems(nbformat.v4.new_notebook(cells=cells)) == ["3 cells have the tag yes-no; 2 are allowed"]
    assert problems(notebook_of("print(3)", tags=["yes-no"])) == [
        "cell 1 has the tag yes-no and prints no boolean; take the tag away"
    ]


@pytest.mark.parametrize(
    ("tag", "text", "refused"),
    [
        ("approx", "0.12", False),
        ("approx-5%", "0.12", False),
        ("approx-6%", "0.12", True),
        ("approx-10%", "", True),
        ("approx-abs-0.01", "0.008 and 0.52", False),
        ("approx-abs-0.01", "0.008", True),
        ("approx-abs-0.1", "48 heads, 1.25", True),
    ],
)
def test_the_gate_asks_for_the_reason_of_a_wide_tolerance(tag, text, refused):
    def found(source):
        return problems(notebook_of(source, outputs=[printed(text)], tags=[tag]))

    assert ["allows more than 5 %" in problem for problem in found("print(a)")] == [True] * refused
    assert found("# Wide tolerance: twenty steps of Adam differ between processors.\nprint(a)") == []


def test_the_gate_refuses_a_second_title():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_markdown_cell("# Two")]
    )
    assert problems(notebook) == ["there is more than one title: # Two"]


def test_the_gate_lets_good_cells_pass():
    assert problems(notebook_of("assert a == b\nassert np.allclose(a, b)")) == []
    assert problems(notebook_of("f()", outputs=[ERROR], tags=["raises-exception"])) == []
