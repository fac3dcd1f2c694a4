"""AdamW's step, a schedule and a Newton–Schulz with their parts to change: for three exercises of chapter 08."""

from collections.abc import Callable

import numpy as np

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def adamw(
    w: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    *,
    correct: Callable[[float, int], float] = lambda beta, t: 1 - beta**t,
    under: Callable[[np.ndarray, float], np.ndarray] = lambda v, eps: np.sqrt(v) + eps,
    fading: str = "decoupled",
    sign: int = -1,
) -> Triple:
    """Take AdamW's step, right as it stands, or with one of its parts changed."""
    g = g + weight_decay * w if fading == "L2" else g
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = m / correct(beta1, t) / under(v / correct(beta2, t), eps)
    step = step + weight_decay * w if fading == "decoupled" else step
    faded = weight_decay * w if fading == "unscaled" else 0
    after = w + sign * lr * step - faded
    return after * (1 - lr * weight_decay) if fading == "after" else after, m, v


def adamw_but(**change: object) -> Callable[..., Triple]:
    """Return AdamW's step with one of its parts changed."""
    return lambda *case: adamw(*case, **change)


def swapped(w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, lr: float, *rest: float) -> Triple:
    """Take the step with the shares of old and new in both means exchanged."""
    beta1, beta2, eps, decay = rest
    m, v = (1 - beta1) * m + beta1 * g, (1 - beta2) * v + beta2 * g**2
    step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w - lr * (step + decay * w), m, v


def handing_on_corrected(*case: object) -> Triple:
    """Take the right step, and return the corrected means for the next."""
    w, m, v = adamw(*case)
    t, beta1, beta2 = case[4], case[6], case[7]
    return w, m / (1 - beta1**t), v / (1 - beta2**t)


def half_corrected(*case: object) -> Triple:
    """Take the step with the correction of the mean of squares alone."""
    w, m, v = adamw(*case)
    t, lr, beta1, decay = case[4], case[5], case[6], case[9]
    kept = case[0] * (1 - lr * decay)
    return kept + (w - kept) * (1 - beta1**t), m, v


def trapezoid(
    step: int, lr: float, steps: int, warmup: int, decay: int, *, first: int = 1, left: int = 1, last: float = 0.0
) -> float:
    """Return the trapezoid: rise and fall count from ``first`` and ``left``; ``last`` is the share at the end."""
    rise = (step + first) / warmup if warmup else 1.0
    fall = (steps - left - step) / decay if decay else 1.0
    return lr * min(1.0, rise, last + (1 - last) * max(0.0, fall))


def piecewise(step: int, lr: float, steps: int, warmup: int, decay: int) -> float:
    """Return the rate without the stable part: up, then at once down."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * (steps - 1 - step) / (steps - 1 - warmup)


def short_fall(step: int, lr: float, steps: int, warmup: int, decay: int) -> float:
    """Return the rate of a trapezoid whose first falling step still has the peak."""
    return trapezoid(step, lr, steps, warmup, decay - 1)


def with_cosine(step: int, lr: float, steps: int, warmup: int, decay: int) -> float:
    """Return the rate of a trapezoid that falls along half a cosine."""
    rate = trapezoid(step, lr, steps, warmup, decay)
    falls = step > steps - 1 - decay
    return lr * (1 - np.cos(np.pi * rate / lr)) / 2 if falls else rate


def polar(G: np.ndarray, rounds: int, a: float = 1.5, b: float = -0.5, c: float = 0.0) -> np.ndarray:
    """Return G after so many rounds, divided by its length first."""
    return newton_schulz(G / np.sqrt((G**2).sum()), rounds, a, b, c)


def newton_schulz(X: np.ndarray, rounds: int, a: float = 1.5, b: float = -0.5, c: float = 0.0) -> np.ndarray:
    """Return X after so many rounds of a polynomial with odd powers."""
    for _ in range(rounds):
        cube = X @ X.T @ X
        X = a * X + b * cube + c * X @ X.T @ cube
    return X


def undivided(G: np.ndarray, rounds: int) -> np.ndarray:
    """Return the rounds of G as it is, which may explode."""
    with np.errstate(over="ignore", invalid="ignore"):
        return newton_schulz(G, rounds)


def entrywise(G: np.ndarray, rounds: int) -> np.ndarray:
    """Return the rounds with the powers of the entries."""
    X = G / np.sqrt((G**2).sum())
    for _ in range(rounds):
        X = 1.5 * X - 0.5 * X**3
    return X


def exactly(G: np.ndarray, rounds: int) -> np.ndarray:
    """Return what the rounds come near to."""
    U, _, Vt = np.linalg.svd(G, full_matrices=False)
    return U @ Vt
