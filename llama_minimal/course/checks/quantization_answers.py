"""Answers to the exercises of chapter 14, right ones and almost right ones."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def error_case(rng: np.random.Generator, n: int = 3, n_out: int = 4, n_in: int = 5) -> tuple:
    """Draw the steps of a matrix's rows, and what its layer reads."""
    return rng.uniform(0.05, 0.5, size=(n_out, 1)), rng.normal(size=(n, n_in))


def expected_error(step: Array, x: Array) -> Array:
    """Return the mean squared error of each output of a layer with rounded weights."""
    return (x**2).sum(axis=-1, keepdims=True) * step.T**2 / 12


def clip_case(rng: np.random.Generator, n_out: int = 3, n_in: int = 40, bits: int = 3) -> tuple:
    """Draw rows with a few large numbers, and shares of the largest to try."""
    w = rng.normal(size=(n_out, n_in)) * rng.choice([1.0, 3.0], size=(n_out, n_in), p=[0.95, 0.05])
    return w, bits, np.linspace(0.3, 1.0, 8)


def clip_by(
    *,
    clamp: bool = True,
    size: Callable[[Array], Array] = np.square,
    together: bool = False,
    worst: bool = False,
    levels: int = 1,
    on_grid: bool = True,
) -> Callable[..., Array]:
    """Return an answer that has a part of the search otherwise.

    Args:
        clamp: whether what lies beyond the grid goes to its end.
        size: of an error.
        together: one share for all rows.
        worst: the largest error instead of the least.
        levels: taken from the power of two.
        on_grid: whether what is clamped is rounded, too.
    """

    def answer(w: Array, bits: int, shares: Array) -> Array:
        largest = 2 ** (bits - 1) - levels
        errors = []
        for share in shares:
            step = share * np.abs(w).max(axis=1, keepdims=True) / largest
            codes = np.rint(w / step) if on_grid else w / step
            codes = np.clip(codes, -largest, largest) if clamp else codes
            errors.append(size(step * codes - w).sum(axis=1))
        table = np.stack(errors)  # (shares, rows)
        if together:
            table = np.broadcast_to(table.sum(axis=1, keepdims=True), table.shape)
        return np.asarray(shares)[table.argmax(axis=0) if worst else table.argmin(axis=0)]

    return answer


def best_share(w: Array, bits: int, shares: Array) -> Array:
    """Return for each row which share of its largest number makes the best end of the grid."""
    return clip_by()(w, bits, shares)


def pack_case(rng: np.random.Generator, rows: int = 2, n: int = 16) -> tuple:
    """Draw codes of three bits."""
    return (rng.integers(0, 8, size=(rows, n)).astype(np.uint8),)


def pack3(codes: Array) -> Array:
    """Put eight codes of three bits into three bytes."""
    return packed_by()(codes)


def packed_by(
    *, first_high: bool = False, bytes_turned: bool = False, bits: int = 3, rows: bool = True
) -> Callable[[Array], Array]:
    """Return an answer that lays the bits out otherwise.

    Args:
        first_high: the first code has the highest bits of the 24.
        bytes_turned: the highest byte comes first.
        bits: that a code moves on.
        rows: whether every row is packed by itself.
    """

    def answer(codes: Array) -> Array:
        groups = codes.astype(np.int64).reshape(*codes.shape[:-1], -1, 8)
        places = bits * np.arange(8)
        numbers = (groups << (places[::-1] if first_high else places)).sum(axis=-1)
        shifts = np.array([16, 8, 0] if bytes_turned else [0, 8, 16])
        packed = ((numbers[..., None] >> shifts) & 255).astype(np.uint8)
        return packed.reshape(*codes.shape[:-1], -1) if rows else packed.reshape(-1)

    return answer


def correction_case(rng: np.random.Generator, n: int = 3, n_out: int = 2, n_in: int = 20) -> tuple:
    """Draw codes of inputs and of weights, and their zero points, all in uint8."""
    sizes = ((n, n_in), (n, 1), (n_out, n_in), (n_out, 1))
    return tuple(
        rng.integers(low, high, size=size).astype(np.uint8)
        for size, (low, high) in zip(sizes, ((0, 256), (60, 200)) * 2, strict=True)
    )


def correction(x: Array, zero_x: Array, w: Array, zero_w: Array) -> Array:
    """Return what a product of codes has too much."""
    return corrected_by(1, 1, -1)(x, zero_x, w, zero_w)


def corrected_by(of_x: int, of_w: int, of_both: int, *, per: int | None = None) -> Callable[..., Array]:
    """Return an answer with other factors of its three terms; ``per``: so many numbers instead of a row's."""

    def answer(x: Array, zero_x: Array, w: Array, zero_w: Array) -> Array:
        x, zero_x, w, zero_w = (part.astype(np.int64) for part in (x, zero_x, w, zero_w))
        n = x.shape[1] if per is None else per
        first = zero_x * w.sum(axis=1)  # (n, out)
        second = x.sum(axis=1, keepdims=True) * zero_w.T
        return of_x * first + of_w * second + of_both * n * zero_x * zero_w.T

    return answer


def correction_in_bytes(x: Array, zero_x: Array, w: Array, zero_w: Array) -> Array:
    """Return what comes out where zero points are multiplied as bytes."""
    n = x.shape[1]
    first = zero_x.astype(np.int64) * w.sum(axis=1, dtype=np.int64)
    second = x.sum(axis=1, keepdims=True, dtype=np.int64) * zero_w.T.astype(np.int64)
    return first + second - n * (zero_x * zero_w.T).astype(np.int64)


def balance_case(rng: np.random.Generator, n: int = 6, n_out: int = 4, n_in: int = 5) -> tuple:
    """Draw inputs whose columns differ in size, and weights."""
    return rng.normal(size=(n, n_in)) * rng.uniform(0.2, 9, size=n_in), rng.normal(size=(n_out, n_in))


def balance(x: Array, w: Array) -> Array:
    """Return by what to divide inputs and multiply weights so that both have columns of the same largest size."""
    return np.sqrt(np.abs(x).max(axis=0) / np.abs(w).max(axis=0))
