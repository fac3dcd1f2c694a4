"""Let the chapters be opened in a browser: ``python -m llama_minimal.course.badges owner/name``

Writes the address of a public GitHub copy into the badges of ``chapters/README.md``, and into the first cell of each
chapter, which installs the package where it is missing. Outputs stay as they are.
"""

import re
import sys
from pathlib import Path

from llama_minimal.files import replace_file

SETUP = """\
# Where the package is missing, as on Colab, this installs it.
import importlib.util

if importlib.util.find_spec("llama_minimal") is None:
    %pip install -q 'llama_minimal[course,hub] @ git+https://github.com/{repository}'"""
_ROW = re.compile(r"^(\| \d\d \| \[[^]]*\]\((\d\d_\w+\.ipynb)\) \|.*?\| \d+ \|).*$", re.MULTILINE)


def write_badges(chapters: Path, repository: str) -> None:
    """Write badges and first cells that lead to a GitHub repository; where they are already, change the address.

    Args:
        chapters: the folder of the notebooks and their ``README.md``.
        repository: owner and name, such as ``"someone/llama_minimal"``.

    Raises:
        ValueError: if that is no owner and name.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(
            f"{repository!r} is not the owner and name of a GitHub repository, such as someone/llama_minimal"
        )
    for path in sorted(chapters.glob("[0-9]*.ipynb")):
        _write_setup(path, repository)
    listed = chapters / "README.md"
    text = _ROW.sub(lambda row: f"{row[1]} {badges(row[2], repository)} |", listed.read_text(encoding="utf-8"))
    replace_file(listed, text.encode("utf-8"))


def badges(name: str, repository: str) -> str:
    """Return the Markdown of a chapter's two badges, given the name of its file."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/chapters/{name}"
    binder = f"https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/chapters/{name}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )


def _write_setup(path: Path, repository: str) -> None:
    """Give a notebook its first code cell, after the title, and count the others on."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    source = SETUP.format(repository=repository)
    if notebook.cells[1].source.startswith(SETUP.splitlines()[0]):
        notebook.cells[1].source = source
    else:
        notebook.cells.insert(1, nbformat.v4.new_code_cell(source))
    number = 0
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02d}"
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
    replace_file(path, (nbformat.writes(notebook) + "\n").encode("utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the owner and name of a public GitHub repository: make badges REPOSITORY=owner/name")
    write_badges(Path("chapters"), sys.argv[1])
