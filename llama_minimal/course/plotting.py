"""One look for all figures of the course: the same tensor has the same color everywhere."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# The palette of Okabe and Ito, which color-blind readers can tell apart.
COLORS = {
    "x": "#4d4d4d",
    "q": "#0072b2",
    "k": "#d55e00",
    "v": "#009e73",
    "scores": "#cc79a7",
    "weights": "#e69f00",
    "out": "#56b4e9",
    "other": "#999999",
}
FIGURES = "LLAMA_MINIMAL_FIGURES"  # the folder that `make chapters` sets; elsewhere nothing is written


def use_style() -> None:
    """Set the look of the course for all figures that follow."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 9.5,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=list(COLORS.values())[1:]),
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "image.cmap": "cividis",
        }
    )


def show(figure: "Figure", name: str, *, alt: str, timed: bool = False) -> None:
    """Show a figure in the notebook, and keep it as ``figures/<name>.svg`` when the chapters are being made.

    Args:
        alt: the figure in words, for readers who do not see it.
        timed: whether it shows measured times, which differ in every run; then a file that is there already stays.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    if folder := os.environ.get(FIGURES):
        path = Path(folder) / f"{name}.svg"
        if not (timed and path.exists()):
            save_svg(figure, path)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    plt.close(figure)  # else the notebook would show it once more
    data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def save_svg(figure: "Figure", path: Path) -> None:
    """Write a figure as SVG, the same bytes every time."""
    import matplotlib as mpl

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})


def draw_runs(axes: "Axes", results: "Mapping[str, Tensor | np.ndarray]") -> None:
    """Draw the results of several seeds, (runs,), as dots and their mean as a line, in a column for each name."""
    for place, values in enumerate(results.values()):
        axes.plot([place] * len(values), values, "o", color=COLORS["other"])
        axes.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color=COLORS["x"])
    axes.set_xticks(range(len(results)), list(results))


def draw_matrix(axes: "Axes", matrix: np.ndarray, *, rows: list[str] | None = None, digits: int = 2) -> None:
    """Draw a small matrix as colored cells with their numbers.

    Args:
        rows: labels.
        digits: decimals of the numbers.
    """
    axes.imshow(matrix, aspect="auto")
    axes.set_xticks(range(matrix.shape[1]))
    axes.set_yticks(range(matrix.shape[0]), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = (matrix.max() + matrix.min()) / 2
    for (row, column), value in np.ndenumerate(matrix):
        color = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=color)
