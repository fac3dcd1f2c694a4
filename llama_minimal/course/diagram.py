"""The block diagram of LLaMA, drawn by code, with any of its parts lit up."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE = "#1f2933", "#b8c2cc"
STREAM = 1.7  # where the residual stream runs

# name: (x, y, color, what it does). The colors are light enough to carry dark text.
PARTS = {
    "tok_embeddings": (STREAM, 0.9, "#cfe3f5", "a row per token id"),
    "attention_norm": (4.9, 2.7, "#f6e3a8", "RMSNorm"),
    "attention": (8.2, 2.7, "#bfe3d0", "softmax(q kᵀ / √Dh) v"),
    "positions": (11.4, 2.7, "#f7cfae", "rotate q and k"),
    "ffn_norm": (4.9, 5.3, "#f6e3a8", "RMSNorm"),
    "feed_forward": (8.2, 5.3, "#e3c9e4", "w2(silu(w1 x) ⊙ w3 x)"),
    "norm": (STREAM, 7.6, "#f6e3a8", "RMSNorm"),
    "output": (STREAM, 9.0, "#cfe3f5", "a logit per token id"),
}


def lit_parts(parts: Collection[str], lit: Collection[str] | None) -> set[str]:
    """Return the parts of a picture to color; None means all.

    Raises:
        ValueError: if one is not a part.
    """
    lit = set(parts) if lit is None else set(lit)
    if unknown := lit - set(parts):
        raise ValueError(f"unknown parts {sorted(unknown)}; known are {', '.join(parts)}")
    return lit


def draw_llama(lit: Collection[str] | None = None) -> "Figure":
    """Draw LLaMA from token ids (bottom) to logits (top).

    Args:
        lit: names of the parts to color, as in the state dict (``attention``, ``ffn_norm`` …); None colors all.

    Raises:
        ValueError: if a part is unknown.
    """
    import matplotlib.pyplot as plt

    lit = lit_parts(PARTS, lit)
    figure, axes = plt.subplots(figsize=(6.6, 5.1), layout="constrained")
    axes.set(xlim=(-0.2, 13.3), ylim=(-0.45, 10.55))
    axes.axis("off")
    _frame(axes)
    _arrow(axes, (STREAM, 0.1), (STREAM, 9.9))  # the residual stream
    for y, parts in ((2.7, ("attention_norm", "attention")), (5.3, ("ffn_norm", "feed_forward"))):
        _branch(axes, y, [PARTS[part][0] for part in parts])
    _arrow(axes, (11.4, 2.7), (9.75, 2.7))
    for name, (x, y, color, does) in PARTS.items():
        _box(axes, name, does, x, y, color if name in lit else "white")
    for y, text in ((-0.2, "token ids"), (10.2, "logits of the next token")):
        axes.text(STREAM, y, text, ha="center", va="center", color=INK, fontsize=9)
    return figure


def _frame(axes: "Axes") -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.3"
    axes.add_patch(FancyBboxPatch((0.0, 1.75), 13.1, 5.05, boxstyle=style, fc="#f7f9fb", ec=PALE, lw=1))
    axes.text(12.8, 6.45, "layers.0 … layers.L−1", ha="right", va="center", color=INK, fontsize=9)


def _branch(axes: "Axes", y: float, xs: list[float]) -> None:
    """Draw one sublayer's way: off the stream, through its boxes, and back in with a plus."""
    back = y + 1.05
    _arrow(axes, (STREAM, y), (xs[0] - 1.4, y))
    _arrow(axes, (xs[0], y), (xs[1] - 1.55, y))
    axes.plot([xs[1], xs[1]], [y, back], color=INK, lw=1.2, zorder=1)
    _arrow(axes, (xs[1], back), (STREAM + 0.22, back))
    axes.scatter([STREAM], [back], s=150, fc="white", ec=INK, lw=1.2, zorder=4)
    axes.text(STREAM, back - 0.02, "+", ha="center", va="center", color=INK, fontsize=11, zorder=5)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)


def _box(axes: "Axes", name: str, does: str, x: float, y: float, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = (3.1 if len(does) > 15 else 2.8), 1.0
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.15"
    edge = PALE if color == "white" else INK
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec=edge, lw=1.1, zorder=3))
    axes.text(x, y + 0.2, name, ha="center", va="center", color=INK, fontsize=9, weight="bold", zorder=4)
    axes.text(x, y - 0.22, does, ha="center", va="center", color=INK, fontsize=7.5, zorder=4)
