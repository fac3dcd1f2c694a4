"""The whole course in one picture: its chapters, part by part, and what each part hands on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"
PARTS = (
    (
        "I  The model",
        "a model that can write",
        "#cfe3f5",
        "start\nhere,language\nmodeling,attention,positions,feed-\nforward,normal-\nization,LLaMA,generation",
    ),
    (
        "II  Training",
        "a model that knows and answers",
        "#bfe3d0",
        "training,mixed\nprecision,data\nparallel,model\nparallel,fine-\ntuning,appli-\ncations",
    ),
    (
        "III  Making it small",
        "the same, smaller and faster",
        "#f6e3a8",
        "quanti-\nzation,pruning,distil-\nlation,shared\nweights,adaptive\ndepth",
    ),
    (
        "IV  Limits and beyond",
        "the same, out in the world",
        "#f7cfae",
        "long\ncontext,respon-\nsible AI,multi-\nmodal,scaling\nup",
    ),
)
WIDTH, HEIGHT, ROW = 0.86, 0.62, 1.16


def draw_course() -> "Figure":
    """Draw the chapters in the order in which they build on each other."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    number = 0
    for row, (name, gives, color, chapters) in enumerate(PARTS):
        y, names = -row * ROW, chapters.split(",")
        axes.text(-0.45, y + 0.45, name, ha="left", va="center", fontsize=9, weight="bold", color=INK)
        for x, chapter in enumerate(names):
            _box(axes, x, y, color, f"{number:02}", chapter)
            if x:
                _arrow(axes, (x - 1 + WIDTH / 2, y), (x - WIDTH / 2, y))
            number += 1
        axes.text(len(names) - 0.32, y, f"→ {gives}", ha="left", va="center", fontsize=8.5, style="italic", color=INK)
    axes.set(xlim=(-0.6, 9.6), ylim=(-3 * ROW - 0.45, 0.65))
    axes.axis("off")
    return figure


def _box(axes: "Axes", x: float, y: float, color: str, number: str, name: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", fc=color, ec=INK))
    axes.text(x, y + 0.17, number, ha="center", va="center", fontsize=7.5, color=INK, weight="bold")
    axes.text(x, y - 0.09, name, ha="center", va="center", fontsize=7.2, color=INK, linespacing=0.95)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.8, "shrinkA": 0, "shrinkB": 0})
