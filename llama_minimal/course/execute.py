"""Execute the chapters and keep their outputs: ``python -m llama_minimal.course.execute chapters/*.ipynb``

It alone writes ``figures/``. Running it twice changes PNG images at most.
"""

import os
import sys
from pathlib import Path

from llama_minimal.course.plotting import FIGURES

TIMEOUT = 300  # seconds for one cell
TIMED = "nbval-ignore-output"  # tag of cells that print measured times, and so keep the output that they have


def execute(path: Path, figures: Path) -> None:
    """Run a notebook from a fresh kernel and store its outputs; it stays as it was if a cell fails.

    Args:
        figures: folder for the SVG figures that the notebook saves.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    timed = {cell.source: cell.outputs for cell in notebook.cells if TIMED in cell.metadata.get("tags", ())}
    os.environ[FIGURES] = str(figures.resolve())
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
        coalesce_streams=True,  # else it depends on the moment how many pieces an output has
    )
    client.execute()
    for cell in notebook.cells:
        if timed.get(cell.source):
            cell.outputs = timed[cell.source]
    _forget(notebook)
    nbformat.write(notebook, path)


def _forget(notebook: dict) -> None:
    """Remove what differs from run to run or from machine to machine: times, versions, names of kernels."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}


if __name__ == "__main__":
    from tqdm import tqdm

    for name in tqdm(sys.argv[1:], unit="chapter"):
        execute(Path(name), Path("figures"))
