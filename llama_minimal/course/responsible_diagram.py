"""Where text comes from and where it goes, drawn as a flow by code, with what may be done at each place."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from llama_minimal.course.diagram import INK, lit_parts
from llama_minimal.course.training_diagram import WIDTH, draw_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name: (x, color, what it is, what is measured there, what is done there)
PARTS = {
    "corpus": (0.0, "#f7cfae", "what was read", "counts, canaries", "balance, mirror, redact"),
    "training": (2.5, "#bfe3d0", "the one loop", "gradients of each text", "clip, add noise"),
    "model": (5.0, "#cfe3f5", "weights", "shares, exposure", "project"),
    "decoding": (7.5, "#e3c9e4", "temperature", "amplification", "do not sharpen"),
    "filter": (10.0, "#f6e3a8", "before it is shown", "precision, recall", "hold back, refuse"),
}


def draw_responsible(lit: Collection[str] | None = None) -> "Figure":
    """Draw the way of a text from the corpus to its reader, with measures above and remedies below.

    Args:
        lit: names of the parts to color, such as ``filter``; None colors all.

    Raises:
        ValueError: if a part is unknown.
    """
    import matplotlib.pyplot as plt

    lit = lit_parts(PARTS, lit)
    figure, axes = plt.subplots(figsize=(8.2, 1.7), layout="constrained")
    axes.set(xlim=(-WIDTH / 2 - 0.5, 10 + WIDTH / 2 + 0.5), ylim=(-1.0, 1.0))
    axes.axis("off")
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    for x in (0.0, 2.5, 5.0, 7.5):
        axes.annotate("", xy=(x + 2.5 - WIDTH / 2, 0), xytext=(x + WIDTH / 2, 0), arrowprops=style, zorder=1)
    for name, (x, color, what, measured, done) in PARTS.items():
        draw_box(axes, name, what, x, 0.0, color if name in lit else "white")
        axes.text(x, 0.72, measured, ha="center", va="center", color=INK, fontsize=8)
        axes.text(x, -0.72, done, ha="center", va="center", color=INK, fontsize=8, style="italic")
    return figure
