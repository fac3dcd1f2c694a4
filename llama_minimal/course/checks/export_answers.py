"""The exercise on what a model takes along into another program: a block of ``q4_0``, byte by byte."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llama_minimal.course.exercises import Exercise

Array = np.ndarray

_RNG = np.random.default_rng(22)
_HALF = 16
_CLOSE = np.linspace(-5, 5, 2 * _HALF)  # in steps of 0.1, which a float16 makes smaller by a part in 4,000
_CLOSE[[3, 12, 25]] = -8, 6.4995, -6.4995


def block_case(rng: np.random.Generator, scale: float = 1.0, far: float = 3.0, other: float | None = None) -> tuple:
    """Draw 32 numbers.

    Args:
        far: the number farthest from 0, in units of ``scale``.
        other: one on the other side, just as far or nearly: the grid has no place for it.
    """
    x = np.clip(rng.normal(size=2 * _HALF), -2.5, 2.5)
    where = rng.permutation(2 * _HALF)[:2]
    x[where[0]] = far
    if other is not None:
        x[where[1]] = other
    return ((scale * x).astype(np.float32),)


def drawn_block(rng: np.random.Generator) -> tuple:
    """Draw a case of any size and sign."""
    far = rng.uniform(2.6, 5) * rng.choice([-1, 1])
    return block_case(rng, 10.0 ** rng.uniform(-3, 2), far, -0.97 * far if rng.random() < 0.5 else None)


def q4_0_bytes(x: Array) -> Array:
    """Return the 18 bytes of a block: two of the step, then number i below number i + 16 in each of 16 bytes."""
    return block_by()(x)


def _farthest(x: Array) -> Any:
    return x[np.abs(x).argmax()]


def block_by(
    *,
    step: Callable[[Array], Any] = lambda x: _farthest(x) / np.float32(-8),
    codes: Callable[[Array], Array] = lambda turns: np.clip(np.trunc(turns + np.float32(8.5)), 0, 15),
    pairs: Callable[[Array], tuple[Array, Array]] = lambda codes: (codes[:_HALF], codes[_HALF:]),
    order: str = "<f2",
) -> Callable[[Array], Array]:
    """Return an answer that does one thing otherwise.

    Args:
        step: of 32 numbers.
        codes: of the numbers divided by the step.
        pairs: the lower and the upper halves of the bytes.
        order: how the step is stored.
    """

    def answer(x: Array) -> Array:
        own = np.float32(step(x))
        turns = x * (np.float32(1) / own if own else np.float32(0))
        low, high = (part.astype(np.int64) & 15 for part in pairs(codes(turns)))
        stored = np.array([own]).astype(order).view(np.uint8)
        return np.concatenate([stored, (low | high << 4).astype(np.uint8)])

    return answer


def _unpacked(x: Array) -> Array:
    own = np.float32(_farthest(x) / np.float32(-8))
    codes = np.clip(np.trunc(x / own + np.float32(8.5)), 0, 15) if own else np.full(len(x), 8)
    return np.concatenate([np.array([own]).astype("<f2").view(np.uint8), codes.astype(np.uint8)])


def _early(x: Array) -> Array:
    right, own = q4_0_bytes(x), np.float32(np.float16(_farthest(x) / np.float32(-8)))
    codes = np.clip(np.trunc(x / (own or np.float32(1)) + np.float32(8.5)), 0, 15).astype(np.uint8)
    return np.concatenate([right[:2], codes[:_HALF] | codes[_HALF:] << 4])


EXERCISES_EXPORT = {
    "q4_0_bytes": Exercise(
        right=q4_0_bytes,
        cases=[
            block_case(_RNG),
            block_case(_RNG, 0.02, -3.0, 2.95),
            block_case(_RNG, 5.0, 4.0, -3.98),
            (np.zeros(2 * _HALF, np.float32),),
            ((0.1 * _CLOSE).astype(np.float32),),
        ],
        draw=drawn_block,
        mistakes={
            "the codes are made with the float16; round the step only when its bytes are made": _early,
            "the step has lost its sign: it is x_far / −8, so that x_far is code 0 whichever side it is on": block_by(
                step=lambda x: np.abs(x).max() / np.float32(8)
            ),
            "the sign of the step is turned; x_far / step must be −8": block_by(
                step=lambda x: _farthest(x) / np.float32(8)
            ),
            "this is chapter 14's symmetric grid, −7 … 7; here the grid goes to −8, and x_far stands there": block_by(
                step=lambda x: _farthest(x) / np.float32(-7)
            ),
            "the step is that of the *largest* number; it is that of the one farthest from 0": block_by(
                step=lambda x: x.max() / np.float32(-8)
            ),
            "the smallest number is taken for the farthest from 0": block_by(step=lambda x: x.min() / np.float32(-8)),
            "a code of 16 has no place in 4 bits: it runs over, and becomes 0; cut the codes to 15": block_by(
                codes=lambda turns: np.trunc(turns + np.float32(8.5))
            ),
            "the codes are cut off, not rounded: add 8.5, not 8": block_by(
                codes=lambda turns: np.clip(np.trunc(turns + 8), 0, 15)
            ),
            "the codes lack their 8: a file holds 0 … 15, and 8 stands for 0": block_by(
                codes=lambda turns: np.clip(np.trunc(turns + np.float32(8.5)), 0, 15) - 8
            ),
            "neighbors share a byte here; in this format it is number i and number i + 16": block_by(
                pairs=lambda codes: (codes[0::2], codes[1::2])
            ),
            "the halves of the bytes are exchanged: number i is in the lower one": block_by(
                pairs=lambda codes: (codes[_HALF:], codes[:_HALF])
            ),
            "the two bytes of the step are exchanged: the file is little-endian, '<f2'": block_by(order=">f2"),
            "each code has a byte of its own here; two share one, so a block has 18 bytes": _unpacked,
            "the bytes of the step come last here; they come first": lambda x: np.roll(q4_0_bytes(x), -2),
            "the 16 bits of the step are a bfloat16's here; they are a float16's": lambda x: np.concatenate(
                [np.float32([_farthest(x) / np.float32(-8)]).view(np.uint8)[2:], q4_0_bytes(x)[2:]]
            ),
        },
    ),
}
