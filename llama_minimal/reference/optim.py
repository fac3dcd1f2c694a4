"""One step of AdamW or of Muon, and the clipping that goes before it."""

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


def muon_step(
    matrix: Array,
    grad: Array,
    m: Array,
    *,
    lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.1,
) -> tuple[Array, Array]:
    """Move a matrix against its mean gradient, in which every direction counts alike.

    m ← βm + (1 − β)g; matrix ← (1 − lr·weight_decay)·matrix − lr·0.2·√max(A, B)·orthogonalize(βm + (1 − β)g).

    Args:
        matrix, grad, m: (A, B); ``m`` is zeros before the first step.
        momentum: β.

    Returns:
        The new ``matrix`` and ``m``; the arguments stay as they were.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the factor and the decay:
    Liu et al. 2025, "Muon is scalable for LLM training".
    """
    m = momentum * m + (1 - momentum) * grad
    ahead = momentum * m + (1 - momentum) * grad  # Nesterov's: where the mean will be
    size = 0.2 * math.sqrt(max(matrix.shape))
    return (1 - lr * weight_decay) * matrix - lr * size * orthogonalize(ahead), m


def orthogonalize(matrix: Array, *, steps: int = 5) -> Array:
    """Bring the singular values of a matrix near 1, and leave its directions: from U S Vᵀ nearly U Vᵀ.

    X ← aX + b(XXᵀ)X + c(XXᵀ)²X sends every singular value s to as + bs³ + cs⁵.

    Args:
        matrix: (A, B).

    Source: Jordan et al. 2024 (Newton–Schulz, with these coefficients).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrix / max(1e-7, float(np.sqrt((matrix**2).sum())))
    for _ in range(steps):
        cube = X @ X.T @ X
        X = a * X + b * cube + c * X @ X.T @ cube
    return X


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
