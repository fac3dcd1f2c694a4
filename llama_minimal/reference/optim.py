"""One step of AdamW, and the clipping that goes before it."""

import math

import numpy as np

from llama_minimal.reference._types import Array


def adamw_step(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    step: int,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> tuple[Array, Array, Array]:
    """Move a parameter against its gradient, in units of the gradient's own size.

    m ← β₁m + (1 − β₁)g and v ← β₂v + (1 − β₂)g²; m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ);
    param ← param − lr·(m̂/(√v̂ + eps) + weight_decay·param).

    Args:
        param, grad, m, v: one shape; ``m`` and ``v`` are zeros before the first step.
        step: t, counted from 1.

    Returns:
        The new ``param``, ``m`` and ``v``; the arguments stay as they were.

    Source: Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by lr as in PyTorch.
    """
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    # Both averages start at zero; the division makes up for it.
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    # The decay stands beside the gradient, not in it: v̂ does not rescale it.
    return param - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * param), m, v


def clip_gradients(grads: dict[str, Array], max_norm: float) -> tuple[dict[str, Array], float]:
    """Shrink all gradients together until their joint length is at most ``max_norm``.

    g ← g · min(1, max_norm / (‖g‖ + 10⁻⁶)), the norm over all entries of all arrays.

    Returns:
        The clipped gradients, and the norm before clipping.

    Source: Pascanu et al. 2013, algorithm 1.
    """
    norm = math.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
    scale = min(1.0, max_norm / (norm + 1e-6))
    return {name: grad * scale for name, grad in grads.items()}, norm
