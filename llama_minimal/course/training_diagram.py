"""One step of training, drawn as a loop by code, with any of its parts lit up."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from llama_minimal.course.diagram import INK, PALE, lit_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# name: (x, y, color, what it is). The arrows run along the upper row, and back along the lower one.
PARTS = {
    "text": (0.0, 1.5, "#f7cfae", "several sources"),
    "batch": (2.5, 1.5, "#f7cfae", "windows of ids"),
    "model": (5.0, 1.5, "#cfe3f5", "chapters 01 to 06"),
    "loss": (7.5, 1.5, "#cfe3f5", "nats per token"),
    "gradients": (7.5, 0.0, "#bfe3d0", "one per weight"),
    "clipping": (5.0, 0.0, "#f6e3a8", "not too long"),
    "optimizer": (2.5, 0.0, "#e3c9e4", "AdamW or Muon"),
    "schedule": (0.0, 0.0, "#f6e3a8", "the learning rate"),
}
ARROWS = (
    ("text", "batch"),
    ("batch", "model"),
    ("model", "loss"),
    ("loss", "gradients"),
    ("gradients", "clipping"),
    ("clipping", "optimizer"),
    ("schedule", "optimizer"),
    ("optimizer", "model"),
)
WIDTH, HEIGHT = 1.9, 0.72


def draw_training(lit: Collection[str] | None = None) -> "Figure":
    """Draw the loop that a training step goes through.

    Args:
        lit: names of the parts to color, such as ``optimizer``; None colors all.

    Raises:
        ValueError: if a part is unknown.
    """
    import matplotlib.pyplot as plt

    lit = lit_parts(PARTS, lit)
    figure, axes = plt.subplots(figsize=(7.4, 2.2), layout="constrained")
    axes.set(xlim=(-1.1, 8.6), ylim=(-0.5, 2.0))
    axes.axis("off")
    for start, end in ARROWS:
        _arrow(axes, start, end)
    for name, (x, y, color, what) in PARTS.items():
        draw_box(axes, name, what, x, y, color if name in lit else "white")
    return figure


def _arrow(axes: "Axes", start: str, end: str) -> None:
    (x0, y0, *_), (x1, y1, *_) = PARTS[start], PARTS[end]
    right, up = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    sideways, upright = (WIDTH / 2, 0.0), (0.0, HEIGHT / 2)
    dx, dy = (WIDTH / 4, HEIGHT / 2) if right and up else sideways if right else upright
    tail, head = (x0 + right * dx, y0 + up * dy), (x1 - right * dx, y1 - up * dy)
    axes.annotate("", xy=head, xytext=tail, arrowprops=style, zorder=1)


def draw_box(axes: "Axes", name: str, what: str, x: float, y: float, color: str) -> None:
    """Draw a part as a box around its name, with what it is in small letters below."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.12"
    edge = PALE if color == "white" else INK
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=color, ec=edge, lw=1.1, zorder=3))
    axes.text(x, y + 0.13, name, ha="center", va="center", color=INK, fontsize=9, weight="bold", zorder=4)
    axes.text(x, y - 0.17, what, ha="center", va="center", color=INK, fontsize=7.5, zorder=4)
