"""What a secret's rank gives away, gradients cut one by one, and the divergence that a noisy step leaves.

B examples, N parameters in a row, R candidates. Gradients are (B, N): one row for each example.
"""

import math

import numpy as np

from llama_minimal.reference._types import Array


def exposure(scores: Array, place: int) -> float:
    """Return log₂ R − log₂ rank of one candidate among all, in bits; as likely ones stand before it.

    Args:
        scores: log-likelihoods, (R,).
        place: which of them is the secret.

    Source: Carlini et al. 2019, "The secret sharer", §4.
    """
    before = sum(1 for score in scores if score >= scores[place])
    return math.log2(len(scores) / before)


def clip_factors(norms: Array, clip: float) -> Array:
    """Return min(1, clip/‖g‖) for each length, (B,); 1 for a gradient of 0.

    Source: Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1.
    """
    return np.minimum(1.0, clip / np.maximum(norms, np.finfo(np.float64).tiny))


def clipped_sum(gradients: Array, clip: float) -> Array:
    """Return Σ g·min(1, clip/‖g‖) over the examples, (N,)."""
    norms = np.sqrt((gradients**2).sum(axis=1))
    return clip_factors(norms, clip) @ gradients


def private_gradient(gradients: Array, clip: float, noise: float, expected: float, rng: np.random.Generator) -> Array:
    """Return (Σ clipped + σ·C·z) / (expected number of examples), z ~ N(0, 1) for each parameter, (N,).

    Args:
        gradients: of the examples that the step drew, (B, N); B may be 0.
        clip: C.
        noise: σ.
        expected: a number that does not tell how many were drawn.
    """
    total = clipped_sum(gradients, clip)
    return (total + noise * clip * rng.normal(size=total.shape)) / expected


def rdp_of_step(rate: float, noise: float, order: int) -> float:
    """Return the Rényi divergence of a whole order α between a step with an example and one without, in nats.

    log Σ_k binom(α, k) (1−q)^(α−k) q^k exp((k² − k)/2σ²) / (α − 1), added up in logarithms.

    Args:
        rate: q, the share of the examples that a step draws.
        noise: σ, in clipping lengths.
        order: α, 2 or more.

    Source: Mironov et al. 2019, "Rényi differential privacy of the sampled Gaussian mechanism", §3.3.
    """
    if rate == 1:
        return order / (2 * noise**2)  # of the sum the last term alone
    logs = [
        math.log(math.comb(order, k))
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + (k * k - k) / (2 * noise**2)
        for k in range(order + 1)
    ]
    return float(np.logaddexp.reduce(logs)) / (order - 1)
