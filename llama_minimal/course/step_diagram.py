"""One training step in mixed precision, as a loop of boxes: what is kept in 32 bits, and what runs in 16."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, WIDE, NARROW = "#1f2933", "#cfe3f5", "#f7cfae"

# name: (column, row, bits, what it does)
STEPS = {
    "weights": (0, 1, 32, "the master copy"),
    "copy": (1, 1, 16, "for this step"),
    "forward": (2, 1, 16, "matrix products"),
    "loss": (3, 1, 32, "times the scale s"),
    "backward": (3, 0, 16, "matrix products"),
    "unscale": (2, 0, 32, "divide by s"),
    "check": (1, 0, 32, "all finite? else skip"),
    "update": (0, 0, 32, "AdamW"),
}


def draw_step() -> "Figure":
    """Draw a training step, from the weights to the weights."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 2.5), layout="constrained")
    axes.set(xlim=(-0.5, 3.5), ylim=(-0.45, 1.5))
    axes.axis("off")
    places = [(column, row) for column, row, _, _ in STEPS.values()]
    for (x, y), (to_x, to_y) in zip(places, [*places[1:], places[0]], strict=True):
        gap_x, gap_y = 0.41 * (to_x - x), 0.29 * (to_y - y)
        ends = {"xy": (to_x - gap_x, to_y - gap_y), "xytext": (x + gap_x, y + gap_y)}
        axes.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": INK})
    for name, (x, y, bits, does) in STEPS.items():
        box = {"boxstyle": "round,pad=0.45", "fc": {32: WIDE, 16: NARROW}[bits], "ec": INK, "lw": 1}
        text = f"{name} · {bits} bits\n{does}".center(22)
        axes.text(x, y, text, ha="center", va="center", color=INK, fontsize=8.5, bbox=box)
    return figure
