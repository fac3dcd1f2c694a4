"""What a private training has promised: epsilon of the subsampled Gaussian, by Rényi divergences."""

# q share of the examples that a step draws, σ noise in units of the clipping length, α order, r copies

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from llama_minimal.config.checks import check_integer

ORDERS = tuple(1 + tenth / 10 for tenth in range(1, 100)) + tuple(range(12, 65)) + (80, 96, 128, 192, 256)
"""Orders α to choose from: large ones serve a small epsilon."""
_MOST_POINTS = 1 << 20
_MOST_TERMS = 1 << 24  # points × numbers of copies


def rdp_of_step(rate: float, noise: float, *, orders: Sequence[float] = ORDERS, copies: int = 1) -> np.ndarray:
    """Return the Rényi divergence between a step with an example and one without it, for each order.

    Along the example's gradient the step gives z ~ N(0, σ²) without it. With it, z is shifted by 1 where the step drew
    it, which happens with probability q; with r copies by j, with the binomial probability of j. The density ratio is
    L(z) = Σ_j binom(r, j) q^j (1−q)^(r−j) exp((2jz − j²)/2σ²), and for both directions
    D_α = log E[L^α] / (α − 1) and log E[L^(1−α)] / (α − 1): the larger one counts.

    The smaller the noise and the larger the order, the more points the integral takes. An order that would take more
    than a million gets the divergence of a step that draws all copies, α·r²/2σ²: it is never below the true one, since
    drawing fewer gives nothing more away, and close to it where so little noise hides next to nothing anyway.

    Args:
        rate: q, above 0 and at most 1; each example is drawn by itself (Poisson sampling).
        noise: σ.
        copies: r, how often the training text holds the same example.

    Returns:
        (orders,), in nats.

    Source: Mironov et al. 2019, "Rényi differential privacy of the sampled Gaussian mechanism", §3.2 and 3.3. The
    integrals are added up on a grid, so fractional orders need no series.
    """
    check_rate(rate, noise)
    check_integer("copies", copies)
    orders = np.asarray(orders, dtype=float)
    with np.errstate(over="ignore"):  # infinite is a bound, too
        found = orders / 2 * np.square(np.float64(copies) / noise)
    step = min(noise, noise / copies * noise) / 8
    exact = copies * orders + 24 * noise <= step * min(_MOST_POINTS, _MOST_TERMS // (copies + 1))
    if exact.any():
        found[exact] = _integrals(rate, noise, orders[exact], copies, step)
    return found


def epsilon(
    *, rate: float, noise: float, steps: int, delta: float, copies: int = 1, orders: Sequence[float] = ORDERS
) -> float:
    """Return the ε of (ε, δ)-differential privacy after all steps; divergences of steps add up.

    ε = min over α of steps·D_α + log((α−1)/α) − (log δ + log α)/(α − 1). Neighbors differ by one example more or less.

    Args:
        delta: the probability with which the promise may fail; well below 1 / (number of examples).

    Source: Canonne et al. 2020, "The discrete Gaussian for differential privacy", proposition 12 (the conversion).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta!r} must be between 0 and 1, such as 1e-5")
    if steps < 0:
        raise ValueError(f"steps={steps!r} must be 0 or more")
    check_integer("copies", copies)
    if noise == 0:
        return math.inf
    orders = np.asarray(orders, dtype=float)
    total = steps * rdp_of_step(rate, noise, orders=orders, copies=copies)
    bounds = total + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(bounds.min()))


def noise_for(target: float, *, rate: float, steps: int, delta: float) -> float:
    """Return the smallest noise σ (to four digits, rounded up) whose epsilon is at most ``target``.

    Raises:
        ValueError: if no σ up to 1,000 does.
    """
    if not target > 0:
        raise ValueError(f"epsilon {target!r} must be above 0, such as 2")
    low, high = 0.2, 1000.0
    if epsilon(rate=rate, noise=high, steps=steps, delta=delta) > target:
        raise ValueError(f"epsilon {target} is out of reach with noise up to {high:g}; give more, or fewer steps")
    while high - low > 5e-5 * low:
        middle = math.sqrt(low * high)
        if epsilon(rate=rate, noise=middle, steps=steps, delta=delta) > target:
            low = middle
        else:
            high = middle
    return math.ceil(high * 1e4) / 1e4


def group_privacy(epsilon: float, delta: float, copies: int) -> tuple[float, float]:
    """Return what (ε, δ) promises to an example that the training text holds r times: (r·ε, δ·(e^rε − 1)/(e^ε − 1)).

    Copies are taken out one after the other, each a step between neighbors: P ≤ e^ε P' + δ, put into the next.
    """
    check_integer("copies", copies)
    growth = math.expm1(copies * epsilon) / math.expm1(epsilon) if epsilon else copies
    return copies * epsilon, min(1.0, delta * growth)


def library_epsilon(
    *, rate: float, noise: float, steps: int, delta: float, accountant: Literal["rdp", "prv"] = "prv"
) -> float:
    """Return epsilon as the library Opacus counts it: by Rényi divergences, or by the privacy loss itself (tighter).

    Raises:
        ImportError: without that library.
    """
    try:
        from opacus.accountants import PRVAccountant, RDPAccountant
    except ImportError:
        raise ImportError("these accountants are the library Opacus's: pip install 'llama_minimal[privacy]'") from None
    check_rate(rate, noise)
    account = {"rdp": RDPAccountant, "prv": PRVAccountant}[accountant]()
    account.history = [(noise, rate, steps)]
    return float(account.get_epsilon(delta))


def check_rate(rate: float, noise: float) -> None:
    """Raise ValueError if this is no share of the examples, or no noise."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate!r} is the share of the examples that a step draws: above 0 and at most 1")
    if not 0 < noise < math.inf:
        raise ValueError(f"noise={noise!r} must be a positive number, in units of the clipping length, such as 1.0")


def _integrals(rate: float, noise: float, orders: np.ndarray, copies: int, step: float) -> np.ndarray:
    """Return the divergences of ``rdp_of_step``, added up on a grid."""
    z = np.arange(-12 * noise, copies * orders.max() + 12 * noise, step)
    log_normal = -(z**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi)) + math.log(step)
    drawn = range(copies + 1) if rate < 1 else [copies]
    log_ratio = _log_sum(
        np.stack([_log_binomial(copies, j, rate) + (2 * j * z - j**2) / (2 * noise**2) for j in drawn])
    )
    both = [[_log_sum(log_normal + power * log_ratio) for power in (a, 1 - a)] for a in orders]
    return np.max(both, axis=1).clip(min=0) / (orders - 1)


def _log_binomial(n: int, j: int, q: float) -> float:
    rest = (n - j) * math.log1p(-q) if j < n else 0.0
    return math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * math.log(q) + rest


def _log_sum(logs: np.ndarray) -> np.ndarray:
    """Return log Σ exp over the first axis."""
    top = logs.max(axis=0)
    return top + np.log(np.exp(logs - top).sum(axis=0))
