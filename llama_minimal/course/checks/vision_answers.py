"""Exercises on pictures, of chapter 21: overlapping patches, what the loss of an answer counts, mixed-up axes."""

from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises import Exercise
from llama_minimal.prompts import IGNORE

Array = np.ndarray
_RNG = np.random.default_rng(21)


def pixel_case(rng: np.random.Generator, rows: int = 2, columns: int = 3, size: int = 3, stride: int = 2) -> tuple:
    """Draw the gradient of overlapping patches, and the sizes that they were cut with."""
    height, width = size + stride * (rows - 1), size + stride * (columns - 1)
    return rng.normal(size=(rows * columns, size * size)), height, width, size, stride


def drawn_pixels(rng: np.random.Generator) -> tuple:
    """Draw a case of any sizes."""
    size = int(rng.integers(2, 5))
    return pixel_case(rng, *rng.integers(1, 5, size=2).tolist(), size, int(rng.integers(1, size + 1)))


def pixel_gradient(d_patches: Array, height: int, width: int, size: int, stride: int) -> Array:
    """Return the gradient of the image, (height, width): a pixel adds up what comes from each patch that reads it."""
    return pixels_by()(d_patches, height, width, size, stride)


def pixels_by(
    *,
    adds: bool = True,
    across: Callable[[int, int], int] = lambda n_rows, n_columns: n_columns,
    step: Callable[[int, int], int] = lambda size, stride: stride,
    turned: bool = False,
    mean: bool = False,
) -> Callable[..., Array]:
    """Return an answer that puts the patches back otherwise."""

    def answer(d_patches: Array, height: int, width: int, size: int, stride: int) -> Array:
        wide = across((height - size) // stride + 1, (width - size) // stride + 1)
        tall = -(-len(d_patches) // wide)
        by = step(size, stride)
        room = np.zeros((2, max(height, size + by * tall), max(width, size + by * wide)))
        for i, row in enumerate(d_patches):
            top, left = by * (i // wide), by * (i % wide)
            place = (slice(top, top + size), slice(left, left + size))
            square = row.reshape(size, size).T if turned else row.reshape(size, size)
            room[0][place] = square + adds * room[0][place]
            room[1][place] += 1
        d_image, n = room[:, :height, :width]
        return d_image / np.maximum(n, 1) if mean else d_image

    return answer


def target_case(
    rng: np.random.Generator, n_prompt: tuple[int, ...] = (3, 5), n_answer: tuple[int, ...] = (3, 2)
) -> tuple:
    """Draw a batch, padded on the right with 0, and how many ids prompt and answer of each row have."""
    ids = np.zeros((len(n_prompt), max(map(sum, zip(n_prompt, n_answer, strict=True)))), int)
    for row, before, after in zip(ids, n_prompt, n_answer, strict=True):
        row[: before + after] = rng.integers(1, 40, size=before + after)
    return ids, np.array(n_prompt), np.array(n_answer)


def drawn_targets(rng: np.random.Generator) -> tuple:
    """Draw a case with any lengths."""
    n = int(rng.integers(2, 4))
    return target_case(rng, *(tuple(rng.integers(1, 6, size=n).tolist()) for _ in range(2)))


def answer_targets(ids: Array, n_prompt: Array, n_answer: Array) -> Array:
    """Return the target of each id, (B, T): the id after it if that belongs to the answer, else −100."""
    return targets_by()(ids, n_prompt, n_answer)


def targets_by(*, first: int = -1, last: int = -1, shift: int = 1) -> Callable[..., Array]:
    """Return an answer that learns from other places to other places.

    Args:
        first, last: added to where the answer begins and ends.
        shift: how far ahead a target stands.
    """

    def answer(ids: Array, n_prompt: Array, n_answer: Array) -> Array:
        targets = np.full(ids.shape, IGNORE)
        ahead = np.concatenate([ids, np.zeros((len(ids), 2), int)], axis=1)[:, shift:][:, : ids.shape[1]]
        place = np.arange(ids.shape[1])
        learned = (place >= n_prompt[:, None] + first) & (place < (n_prompt + n_answer)[:, None] + last)
        learned &= place + shift < ids.shape[1]
        targets[learned] = ahead[learned]
        return targets

    return answer


def image_case(rng: np.random.Generator, *, n: int = 2, rows: int = 2, columns: int = 3, size: int = 2) -> tuple:
    """Draw images that are not square, and the size of a patch."""
    return rng.integers(0, 100, size=(n, rows * size, columns * size)), size


def drawn_image(rng: np.random.Generator) -> tuple:
    """Draw a case of any sizes, neither patches nor pictures of which are square numbers alone."""
    rows = int(rng.integers(1, 4))
    return image_case(rng, n=int(rng.integers(1, 4)), rows=rows, columns=rows + 1, size=int(rng.integers(2, 4)))


def mended(images: Array, size: int) -> Array:
    """Return the patches of images in reading order, (B, N, P)."""
    return cut_by()(images, size)


def cut_by(
    *,
    split: Callable[[int, int, int], tuple[int, ...]] = lambda h, w, size: (h // size, size, w // size, size),
    order: tuple[int, ...] = (0, 1, 3, 2, 4),
) -> Callable[[Array, int], Array]:
    """Return an answer that splits or exchanges the axes otherwise."""

    def answer(images: Array, size: int) -> Array:
        B, height, width = images.shape
        cut = images.reshape(B, *split(height, width, size)).transpose(order)
        return cut.reshape(B, -1, size * size)

    return answer


EXERCISES_VISION = {
    "pixel_gradient": Exercise(
        right=pixel_gradient,
        cases=[
            pixel_case(_RNG),
            pixel_case(_RNG, 3, 2, 4, 1),
            pixel_case(_RNG, 2, 2, 2, 2),
            pixel_case(_RNG, 1, 4, 3, 1),
        ],
        draw=drawn_pixels,
        mistakes={
            "a pixel that several patches read keeps the gradient of the last of them; add them up": pixels_by(
                adds=False
            ),
            "the gradients of a pixel are averaged; each patch is a way of its own into the loss, so they add up": (
                pixels_by(mean=True)
            ),
            "the patches stand a whole size apart here, as if they did not overlap; they begin every stride pixels": (
                pixels_by(step=lambda size, stride: size)
            ),
            "the grid has as many columns as it should have rows: patches fill a row of the picture first": pixels_by(
                across=lambda n_rows, n_columns: n_rows
            ),
            "each patch is transposed: its pixels come row by row": pixels_by(turned=True),
            "this counts how many patches read a pixel; add their gradients": lambda d, *sizes: pixel_gradient(
                np.ones_like(d), *sizes
            ),
            "the image is transposed: height first": lambda *case: pixel_gradient(*case).T,
            "as many patches in a row of the picture as width // size, but overlapping ones are more": pixels_by(
                across=lambda n_rows, n_columns: max(1, n_columns - 1)
            ),
        },
    ),
    "answer_targets": Exercise(
        right=answer_targets,
        cases=[target_case(_RNG), target_case(_RNG, (1, 4, 2), (4, 1, 3)), target_case(_RNG, (2, 2), (1, 5))],
        draw=drawn_targets,
        mistakes={
            "the first token of the answer is not learned: it is the target of the prompt's *last* token": targets_by(
                first=0
            ),
            "the last token of the answer is not learned: without it the model never learns to stop": targets_by(
                last=-2
            ),
            "after the answer the padding is learned, too": targets_by(last=0),
            "all of the padding is learned, too": targets_by(last=10**6),
            "the question is learned, too, and with it the model would have to foresee pictures": targets_by(
                first=-(10**6)
            ),
            "the whole row is learned, question and padding": targets_by(first=-(10**6), last=10**6),
            "a target is the id itself here; it is the one *after* it": targets_by(shift=0),
            "the ids are those of the answer, in their own places; a target stands one place before its id": targets_by(
                first=0, last=0, shift=0
            ),
            "the target stands two places ahead; it is the next id": targets_by(shift=2),
            "the prompt is learned and the answer is not: the other way round": lambda ids, n_prompt, n_answer: (
                answer_targets(ids, np.ones_like(n_prompt), n_prompt - 1)
            ),
            "the lengths of prompt and answer are exchanged": lambda ids, n_prompt, n_answer: answer_targets(
                ids, n_answer, n_prompt
            ),
            "what is not learned is 0 here, which is the id of a token; −100 is no id": lambda *case: np.where(
                answer_targets(*case) == IGNORE, 0, answer_targets(*case)
            ),
            "what is not learned is −1; the course's mark, as PyTorch's, is −100": lambda *case: np.where(
                answer_targets(*case) == IGNORE, -1, answer_targets(*case)
            ),
        },
    ),
    "mended": Exercise(
        right=mended,
        cases=[
            image_case(_RNG),
            image_case(_RNG, n=1, rows=3, columns=1, size=3),
            image_case(_RNG, n=3, rows=1, columns=2, size=2),
        ],
        draw=drawn_image,
        mistakes={
            "a bug is left: two axes are not exchanged, so a row of numbers is a strip of the picture (and so "
            "it does not show how the axes were split)": cut_by(order=(0, 1, 2, 3, 4)),
            "a bug is left: the image is split as if height and width were exchanged": cut_by(
                split=lambda h, w, size: (w // size, size, h // size, size)
            ),
            "an axis is split the other way round: pixels that lie far apart make a patch": cut_by(
                split=lambda h, w, size: (size, h // size, size, w // size), order=(0, 2, 4, 1, 3)
            ),
            "the patches come column by column; reading order goes along a row first": cut_by(order=(0, 3, 1, 2, 4)),
            "the pixels of each patch come column by column; read them along a row first": cut_by(
                order=(0, 1, 3, 4, 2)
            ),
            "patches and pixels both come column by column: this is the picture transposed": cut_by(
                order=(0, 3, 1, 4, 2)
            ),
            "pixels and patches are exchanged: a row has one pixel of every patch": lambda images, size: mended(
                images, size
            ).swapaxes(1, 2),
        },
    ),
}
