"""Layers that tokens use, drawn by code: as a grid of tokens and layers, and as a colored text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RUN, KEYS, READ, DRAFT = "#1f2933", "#bfe3d0", "#f7cfae", "#cfe3f5", "#f6e3a8"
DEPTHS = ("#dff0fa", "#a9d3ee", "#f3c98b", "#e08a5b")  # after 1 layer … 4 layers
LINE = 88  # characters


def draw_two_ways() -> "Figure":
    """Draw tokens that leave early, and a step of speculative decoding."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.7), layout="constrained")
    tokens, depths = ["The", " llama", " was", " hun", "gry"], [4, 3, 2, 4, 1]
    for x, (token, depth) in enumerate(zip(tokens, depths, strict=True)):
        for layer in range(4):
            _cell(left, x, layer + 1, RUN if layer < depth else KEYS, "" if layer < depth else "k, v")
        _cell(left, x, depth, "none", "exit" if depth < 4 else "")
        left.text(x, 0.3, token.strip(), ha="center", va="center", fontsize=8.5)
    left.set(title="early exit: a layer skipped still gets keys and values", xlim=(-1.1, 4.6), ylim=(-0.1, 4.6))
    for layer in range(4):
        left.text(-0.62, layer + 1, f"layer {layer + 1}", ha="right", va="center", fontsize=8)
    rows = (
        ("draft writes", DRAFT, ["was", "very", "old", "and"]),
        ("model reads all", READ, ["was", "very", "hun", ""]),
    )
    for row, (name, color, words) in enumerate(rows):
        y = 3 - 1.5 * row
        right.text(-0.75, y, name, ha="right", va="center", fontsize=8.5)
        for x, word in enumerate(words):
            _cell(right, x, y, color if word else "white", word or "–")
    for x, mark in enumerate(("kept", "kept", "replaced", "dropped")):
        right.text(x, 0.65, mark, ha="center", va="center", fontsize=8)
    right.set(title="speculative decoding: three tokens, one pass", xlim=(-2.9, 3.6), ylim=(0.2, 4.0))
    for axes in (left, right):
        axes.axis("off")
    return figure


def _cell(axes: "Axes", x: float, y: float, color: str, text: str) -> None:
    from matplotlib.patches import Rectangle

    if color != "none":
        axes.add_patch(Rectangle((x - 0.46, y - 0.36), 0.92, 0.72, fc=color, ec=INK, lw=0.8))
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK)


def draw_story(tokens: Sequence[str], depths: Sequence[int]) -> "Figure":
    """Draw a text, each token on the color of the depth at which it was written.

    Args:
        tokens: of ASCII text; a line break ends a line.
        depths: layers used, 1 to 4; 0 for a token that was given.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch, Rectangle

    places, line, column = [], 0, 0
    for token, depth in zip(tokens, depths, strict=True):
        shown = token.replace("\n", "")
        if column + len(shown) > LINE or (column and not shown):
            line, column = line + 1, 0
        places.append((line, column, shown, depth))
        column += len(shown)
    figure, axes = plt.subplots(figsize=(7.6, 0.62 + 0.21 * (line + 1)), layout="constrained")
    axes.set(xlim=(0, LINE), ylim=(line + 0.6, -0.6))
    axes.axis("off")
    for y, x, shown, depth in places:
        if depth:
            axes.add_patch(Rectangle((x, y - 0.44), len(shown), 0.88, fc=DEPTHS[depth - 1], ec="white", lw=0.6))
        for i, letter in enumerate(shown):
            axes.text(x + i + 0.5, y, letter, ha="center", va="center", family="monospace", fontsize=8.2, color=INK)
    patches = [Patch(fc=color, label=f"{i} layer{'s' * (i > 1)}") for i, color in enumerate(DEPTHS, start=1)]
    figure.legend(handles=patches, ncols=4, loc="outside lower center")
    return figure
