"""Part III's table, in print and as a picture."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llama_minimal.course.plotting import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = dict[str, dict[str, float]]


def by_row(points: Iterable[Mapping[str, Any]]) -> Rows:
    """Return the figures of each row of the table, of whatever was measured on it, from ``recorded("part_three")``.

    ``memory`` and ``speed`` are beside the float32 model's, which took its turn in every repeat. A score that was not
    measured is nan.
    """
    rows: Rows = {}
    for point in points:
        figures = {name: value for name, value in point.items() if name not in ("measure", "row")}
        rows.setdefault(point["row"], {}).update(figures)
    for row in rows.values():
        for score in ("consistent", "exact_match"):
            row.setdefault(score, math.nan)
        row["memory"] = row["bytes"] / rows["fp32"]["bytes"]
        row["speed"] = row["tokens_per_second"] / row["fp32_tokens_per_second"]
    return rows


def table(rows: Rows) -> str:
    """Return the table: megabytes, tokens a second and beside float32, perplexity, and two scores in percent."""
    head = f"{'':15} {'MB':>6} {'tokens/s':>9} {'speed':>6} {'perplexity':>11} {'stories':>8} {'answers':>8}"
    lines = [
        f"{name:15} {row['bytes'] / 1e6:6.2f} {row['tokens_per_second']:9.0f} {row['speed']:5.2f}x "
        f"{row['perplexity']:11.3f} {row['consistent']:8.1f} {row['exact_match']:8.1f}"
        for name, row in rows.items()
    ]
    return "\n".join([head, *lines]).replace("nan", "  –")


def draw(rows: Rows) -> "Figure":
    """Draw each row's memory, speed, perplexity and scores as dots, beside those of the float32 model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(7.6, 0.24 * len(rows) + 1.3), sharey=True)
    panels = (
        ("memory", "weights in memory", "of float32"),
        ("speed", "speed", "of float32"),
        ("perplexity", "perplexity", "held-out stories"),
    )
    for ax, (name, title, label) in zip(axes, panels, strict=False):
        _dots(ax, rows, name, color=COLORS["q"])
        ax.set(title=title, xlabel=label)
    axes[0].set_xlim(0, 1.7)
    axes[1].set_xlim(0)
    axes[2].set_xscale("log")
    ticks = [1.5, 2, 3, 5, 10, 20]
    top = max(row["perplexity"] for row in rows.values())
    axes[2].set_xticks([tick for tick in ticks if tick < 1.2 * top] or [1.5], minor=False)
    axes[2].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes[2].minorticks_off()
    _dots(axes[3], rows, "consistent", color=COLORS["v"], label="stories")
    _dots(axes[3], rows, "exact_match", color=COLORS["k"], label="answers")
    axes[3].set(title="scores", xlabel="percent", xlim=(-3, 103))
    axes[3].legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, handletextpad=0.1, columnspacing=0.8)
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].invert_yaxis()
    return figure


def _dots(ax: "Axes", rows: Rows, name: str, *, color: str, label: str | None = None) -> None:
    values = [row[name] for row in rows.values()]
    ax.axvline(values[0], color=color, lw=0.8, alpha=0.6)
    ax.plot(values, range(len(values)), "o", color=color, ms=5, label=label)
    ax.grid(axis="y", color=COLORS["other"], alpha=0.25, lw=0.6)
