"""Pictures of chapter 11: who holds which part of a model, and who does what when in a pipeline."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llama_minimal.reference.parallel import Timeline

RANKS = ("#9ecbe8", "#f0a872")  # light, so that they carry dark text
FORWARD, BACKWARD, IDLE = "#cfe3f5", "#f0a872", "#eeeeee"
LAYERS = 4


def draw_cuts() -> "Figure":
    """Draw the three ways to share a training among two ranks: by sequences, by columns, by layers."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.0))
    titles = ("data: other sequences", "tensor: a part of every layer", "pipeline: other layers")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xlim=(-0.1, 4.6), ylim=(-1.5, LAYERS + 0.2), title=title)
        ax.axis("off")
    for copy, x in enumerate((0.0, 2.4)):
        for layer in range(LAYERS):
            _box(axes[0], x, layer, 2.0, copy)
        _box(axes[0], x, -1.3, 2.0, copy, "half of the batch")
    for layer in range(LAYERS):
        _box(axes[1], 0.7, layer, 1.5, 0)
        _box(axes[1], 2.2, layer, 1.5, 1)
        _box(axes[2], 0.7, layer, 3.0, int(layer >= LAYERS / 2))
    for ax in axes[1:]:
        ax.text(2.2, -0.9, "the whole batch", ha="center", va="center", fontsize=9)
    for ax, x, layer, rank in (
        (axes[0], 1.0, 3, 0),
        (axes[0], 3.4, 3, 1),
        (axes[1], 1.45, 3, 0),
        (axes[1], 2.95, 3, 1),
        (axes[2], 2.2, 1, 0),
        (axes[2], 2.2, 3, 1),
    ):
        ax.text(x, layer + 0.4, f"rank {rank}", ha="center", va="center", fontsize=9)
    return figure


def _box(ax: "Axes", x: float, y: float, width: float, rank: int, text: str = "") -> None:
    import matplotlib.pyplot as plt

    ax.add_patch(plt.Rectangle((x, y), width, 0.8, facecolor=RANKS[rank], edgecolor="white", linewidth=1.5))
    ax.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=8)


def draw_timeline(ax: "Axes", timeline: "Timeline", title: str) -> None:
    """Draw what every stage does when: light forwards and dark backwards, each with its micro-batch; gray is idle."""
    import matplotlib.pyplot as plt

    for stage, steps in enumerate(timeline.steps):
        ax.add_patch(plt.Rectangle((0, stage - 0.4), timeline.span, 0.8, facecolor=IDLE, linewidth=0))
        for step in steps:
            color = FORWARD if step.kind == "F" else BACKWARD
            length = step.end - step.start
            box = plt.Rectangle((step.start, stage - 0.4), length, 0.8, facecolor=color, edgecolor="white")
            ax.add_patch(box)
            middle = step.start + length / 2
            ax.text(middle, stage, step.micro_batch, ha="center", va="center", fontsize=7.5)
    ax.set(xlim=(0, timeline.span), ylim=(len(timeline.steps) - 0.5, -0.5), title=title)
    ax.set_yticks(range(len(timeline.steps)), [f"stage {stage}" for stage in range(len(timeline.steps))])
    ax.tick_params(left=False)
    ax.spines[:].set_visible(False)
