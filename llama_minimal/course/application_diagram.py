"""How an application is measured, drawn as a flow by code, with any of its parts lit up."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from llama_minimal.course.diagram import INK, lit_parts
from llama_minimal.course.training_diagram import HEIGHT, WIDTH, draw_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name: (x, y, color, what it is)
PARTS = {
    "examples": (0.0, 0.75, "#f7cfae", "prompts and a key"),
    "model": (2.5, 1.5, "#cfe3f5", "course model"),
    "tuned model": (5.0, 1.5, "#cfe3f5", "chapter 12"),
    "baseline": (2.5, 0.0, "#f6e3a8", "it only counts"),
    "metric": (7.5, 0.75, "#e3c9e4", "built by hand"),
    "score": (10.0, 0.75, "#bfe3d0", "0 to 100"),
}
# Ways on which something is handed on: points, from the end of one box to the next.
WAYS = (
    ((0.95, 1.0), (1.55, 1.5)),
    ((3.45, 1.5), (4.05, 1.5)),
    ((0.95, 0.5), (1.55, 0.0)),
    ((5.95, 1.5), (6.55, 1.0)),
    ((3.45, 0.0), (6.55, 0.5)),
    ((0.95, 0.75), (6.55, 0.75)),
    ((8.45, 0.75), (9.05, 0.75)),
)


def draw_application(lit: Collection[str] | None = None) -> "Figure":
    """Draw how examples, model, baseline and metric make a score.

    Args:
        lit: names of the parts to color, such as ``metric``; None colors all.

    Raises:
        ValueError: if a part is unknown.
    """
    import matplotlib.pyplot as plt

    lit = lit_parts(PARTS, lit)
    figure, axes = plt.subplots(figsize=(8.2, 1.9), layout="constrained")
    axes.set(xlim=(-WIDTH / 2 - 0.1, 10 + WIDTH / 2 + 0.1), ylim=(-HEIGHT, 1.5 + HEIGHT))
    axes.axis("off")
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    for tail, head in WAYS:
        axes.annotate("", xy=head, xytext=tail, arrowprops=style, zorder=1)
    axes.text(3.75, 0.84, "the key", ha="center", color=INK, fontsize=7.5)
    for name, (x, y, color, what) in PARTS.items():
        draw_box(axes, name, what, x, y, color if name in lit else "white")
    return figure
