"""One look for all figures of the course: the same tensor has the same color everywhere."""

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        from llama_minimal.course.diagram import save_svg

        path = Path(folder) / f"{name}.svg"
        if not (timed and path.exists()):
            save_svg(figure, path)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    plt.close(figure)  # else the notebook would show it once more
    data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def draw_matrix(
    axes: "Axes",
    matrix: np.ndarray,
    *,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    digits: int = 2,
) -> None:
    """Draw a small matrix as colored cells with their numbers; −inf is hatched.

    Args:
        rows, columns: labels.
        digits: decimals of the numbers; −1 for none at all.
    """
    finite = np.isfinite(matrix)
    axes.imshow(np.where(finite, matrix, np.nan), aspect="auto")
    axes.set_xticks(range(matrix.shape[1]), columns or range(matrix.shape[1]))
    axes.set_yticks(range(matrix.shape[0]), rows or range(matrix.shape[0]))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = (np.nanmax(matrix[finite]) + np.nanmin(matrix[finite])) / 2 if finite.any() else 0
    for (row, column), value in np.ndenumerate(matrix):
        if not finite[row, column]:
            axes.text(column, row, "−∞", ha="center", va="center", color="#888888")
        elif digits >= 0:
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=color)
