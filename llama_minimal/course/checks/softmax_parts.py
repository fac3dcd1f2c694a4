"""A softmax over a part of the keys, and how two parts make the whole: an exercise of chapter 02."""

import numpy as np

Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def part(rng: np.random.Generator, rows: int, keys: int, *, high: float = 0.0, blind: tuple[int, ...] = ()) -> Part:
    """What a part of the keys leaves behind: maximum, sum and mixed values; nothing where a row is blind."""
    z = high + rng.normal(size=(rows, keys))
    m, e = z.max(axis=-1, keepdims=True), np.exp(z - z.max(axis=-1, keepdims=True))
    left = m, e.sum(axis=-1, keepdims=True), e @ rng.normal(size=(keys, 4))
    for array, empty in zip(left, (-np.inf, 0.0, 0.0), strict=True):
        array[list(blind)] = empty
    return left


def merge(first: Part, second: Part, *, powers: tuple[int, int] = (1, 1), divide: bool = True) -> np.ndarray:
    """Merge two parts, each brought to the common maximum: with a power of 0 not, with −1 upside down."""
    m = np.maximum(first[0], second[0])
    with np.errstate(over="ignore", invalid="ignore"):
        one, two = (np.exp(a * np.where(a, part[0] - m, 0.0)) for part, a in zip((first, second), powers, strict=True))
        out = one * first[2] + two * second[2]
        return out / (one * first[1] + two * second[1]) if divide else out


def merged_outputs(first: Part, second: Part) -> np.ndarray:
    """Return the mean of the outputs of two parts, which is no attention to the whole."""
    with np.errstate(invalid="ignore"):
        return (first[2] / first[1] + second[2] / second[1]) / 2
