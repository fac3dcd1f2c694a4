"""Chapter 14's grids drawn, and its recorded run as a table and as a picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_minimal.course.plotting import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Model = tuple[str, int]
"""Its name, and the seed."""

ARMS = (("rtn", "tensor"), ("rtn", "row"), ("gptq", "row"), ("rtn", "group"), ("gptq", "group"), ("awq", "group"))
_LOOKS = {
    ("rtn", "row"): ("k", "-"),
    ("rtn", "group"): ("k", ":"),
    ("gptq", "row"): ("q", "-"),
    ("gptq", "group"): ("q", ":"),
    ("awq", "group"): ("v", ":"),
}


def draw_grids(axes: "Axes", w: np.ndarray, all_bits: Sequence[int]) -> None:
    """Draw numbers above symmetric grids, one below the other, and arrows that lead each number to its nearest.

    Args:
        w: (n,), the numbers; the largest in size sets each step.
        all_bits: one grid for each, from above.
    """
    names = []
    arrow = {"arrowstyle": "->", "color": COLORS["weights"], "lw": 1.2}
    for height, bits in zip(reversed(range(len(all_bits))), all_bits, strict=True):
        largest = 2 ** (bits - 1) - 1
        step = np.abs(w).max() / largest
        grid = step * np.arange(-largest, largest + 1)
        names.append(f"{bits} bits: {len(grid)} numbers")
        axes.plot(grid, np.full(len(grid), height), "|", ms=16, color=COLORS["other"])
        axes.plot(w, np.full(len(w), height + 0.3), "o", ms=5, color=COLORS["weights"])
        for v in w:
            axes.annotate("", (step * np.rint(v / step), height + 0.05), (v, height + 0.28), arrowprops=arrow)
    axes.set_yticks(range(len(all_bits)), reversed(names))
    axes.set(ylim=(-0.35, len(all_bits) - 0.4), xlabel="weight")


def perplexities(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of perplexities, by bits and by method: the course model's, and the mean of the small ones'.

    Args:
        runs: of the recorded run "quantization", losses in nats per token.
    """
    rows = [run for run in runs if run["method"] in {method for method, _ in ARMS}]
    lines = [f"{'':14}" + "".join(f"{f'{method} {grid}':>11}" for method, grid in ARMS)]
    for model in ("course", "small"):
        for bits in (8, 4, 3, 2):
            there = [run for run in rows if (run["model"], run["bits"]) == (model, bits)]
            values = [[np.exp(run[grid]) for run in there if run["method"] == method] for method, grid in ARMS]
            cells = "".join(f"{np.mean(some):11.4g}" if some else f"{'–':>11}" for some in values)
            lines.append(f"{model:7}{bits} bits{cells}")
    return "\n".join(lines)


def draw_methods(panels: Sequence["Axes"], models: Sequence[Model], added: Callable[..., float]) -> None:
    """Draw by how much the loss rises against the bits per weight, grids included: a panel for each model.

    Args:
        added: called with model, method, grid and bits; returns percent.
    """
    for axes, model in zip(panels, models, strict=True):
        for (method, grid), (color, line) in _LOOKS.items():
            bits = np.array([4, 3] if method == "awq" else [4, 3, 2])
            rises = [added(model, method, grid, b) for b in bits]
            look = {"color": COLORS[color], "marker": "o", "ms": 3.5, "label": f"{method.upper()}, {grid}s"}
            axes.plot(bits + (grid == "group"), rises, line, **look)
        title = "course" if model[0] == "course" else f"small, seed {model[1]}"
        axes.set(yscale="log", title=title, xticks=(2, 3, 4, 5))
    panels[0].set_ylabel("the loss rises by (%)")
    panels[-1].legend(fontsize=7.5, loc="upper right", handlelength=1.6)
