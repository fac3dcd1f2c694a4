"""Pictures of the key/value cache: who writes and reads which slot, and what padding does to it."""

# B batch, S slots

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMPTY, READ, WRITTEN, PADDING = "white", "#bfe3f7", "#f0a872", "#dddddd"  # light, so that they carry dark text


def draw_steps(prompt: Sequence[str], new: Sequence[str]) -> "Figure":
    """Draw the cache of one text, a row for the prefill and for each token that is fed after it.

    Args:
        prompt: its tokens, read all at once.
        new: tokens that the model wrote and that are fed to it again, one a step.
    """
    import matplotlib.pyplot as plt

    words, P = [*prompt, *new], len(prompt)
    figure, axes = plt.subplots(figsize=(8.2, 0.55 * (len(new) + 1) + 1.1))
    for row in range(len(new) + 1):
        filled = P + row
        for slot, word in enumerate(words):
            written = slot < P if row == 0 else slot == filled - 1
            color = WRITTEN if written else READ if slot < filled else EMPTY
            _cell(axes, slot, row, color, word if slot < filled else "")
        computed = P if row == 0 else 1
        axes.text(len(words) + 0.3, row, f"{computed} of {filled} keys computed", va="center", fontsize=9)
    labels = ["prefill", *(f"step {i + 1}" for i in range(len(new)))]
    _frame(axes, len(words), labels, right=3.3)
    axes.set_xlabel("slot of the cache")
    _legend(axes, {"written now": WRITTEN, "read from the cache": READ, "empty, hidden": EMPTY})
    axes.set_title("The prompt is read once; then each step writes one slot and reads all before it", pad=22)
    return figure


def padded(lengths: Sequence[int], n_new: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which position each slot of each row holds, and which slots the shortest row's slots may see.

    Args:
        lengths: of the prompts, in tokens.
        n_new: tokens written after each.
        side: where the padding of the prompts is: "left", where a slot is a column, or "right", where a slot is a
            position, so that new tokens take the padding's place.

    Returns:
        Positions (B, S), −1 for padding, and a mask (S, S).
    """
    slots = np.arange(max(lengths) + n_new)
    pad = max(lengths) - np.array(lengths)[:, None] if side == "left" else np.zeros((len(lengths), 1), int)
    positions = slots - pad  # (B, S)
    positions[(positions < 0) | (positions >= np.array(lengths)[:, None] + n_new)] = -1
    row = positions[int(np.argmin(lengths))]
    return positions, (row[:, None] >= row) & (row >= 0) & (row[:, None] >= 0)


def draw_padding(texts: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> "Figure":
    """Draw a batch of prompts with new tokens, padded on the left and on the right, and the shortest row's mask.

    Args:
        texts: the prompts' tokens.
        new: the tokens written after each, as many in every row.
    """
    import matplotlib.pyplot as plt

    lengths = [len(text) for text in texts]
    figure, grid = plt.subplots(2, 2, figsize=(8.6, 4.9), width_ratios=(2.3, 1))
    for (left, right), side in zip(grid, ("left", "right"), strict=True):
        positions, mask = padded(lengths, len(new[0]), side)
        for (b, slot), position in np.ndenumerate(positions):
            if position < 0:
                _cell(left, slot, b, *((PADDING, "pad") if slot < max(lengths) else (EMPTY, "")))
            else:
                color = READ if position < lengths[b] else WRITTEN
                _cell(left, slot, b, color, f"{[*texts[b], *new[b]][position]}\n{position}")
        _frame(left, positions.shape[1], [f"text {b}" for b in range(len(texts))])
        left.set_title("Left: a slot is a column" if side == "left" else "Right: a slot is a position")
        right.imshow(np.where(mask, 1.0, 0.0), cmap="Blues", vmin=0, vmax=1.6)
        short = positions[int(np.argmin(lengths))]
        labels = ["–" if position < 0 else str(position) for position in short]
        right.set_xticks(range(len(short)), labels)
        right.set_yticks(range(len(short)), labels)
        right.set(xlabel="position of the key", ylabel="of the query")
        right.set_title(f"Who sees whom, text {int(np.argmin(lengths))}")
    _legend(grid[0, 0], {"prompt": READ, "new tokens": WRITTEN, "padding": PADDING}, up=1.22)
    return figure


def _cell(axes: "Axes", x: int, y: int, color: str, text: str) -> None:
    import matplotlib.pyplot as plt

    axes.add_patch(plt.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fc=color, ec="#4d4d4d", lw=0.8))
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color="black")


def _frame(axes: "Axes", n: int, rows: Sequence[str], *, right: float = 0.0) -> None:
    axes.set(xlim=(-0.6, n - 0.4 + right), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(n))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _legend(axes: "Axes", colors: dict[str, str], *, up: float = 1.0) -> None:
    import matplotlib.pyplot as plt

    patches = [plt.Rectangle((0, 0), 1, 1, fc=color, ec="#4d4d4d", lw=0.8) for color in colors.values()]
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, up - 0.02), "ncols": len(colors)}
    axes.legend(patches, list(colors), fontsize=8.5, borderaxespad=0, handlelength=1.1, **place)
