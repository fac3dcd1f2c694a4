"""Muon: a step for matrices in which every direction counts alike, beside AdamW for the rest."""

# A, B rows and columns of a matrix; N matrices of one shape

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# The odd polynomial a·s + b·s³ + c·s⁵ that pushes every singular value s toward 1: steep at 0, and near 1 not exact
# but quick. From Jordan et al. 2024.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Set the singular values of matrices to about 1, and keep their directions.

    From X = U S Vᵀ it makes nearly U Vᵀ, with products of matrices alone: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, which is the
    polynomial of ``QUINTIC`` in every singular value. After five steps they lie between 0.7 and 1.2, but for those
    that began far below the largest.

    Args:
        matrices: (..., A, B).

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (Newton–Schulz).
    """
    a, b, c = QUINTIC
    is_tall = matrices.size(-2) > matrices.size(-1)
    X = matrices.mT if is_tall else matrices  # the smaller side first: XXᵀ is then as small as can be
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(steps):
        G = X @ X.mT
        X = a * X + (b * G + c * G @ G) @ X
    return X.mT if is_tall else X


class Muon(torch.optim.AdamW):
    """Update matrices by their orthogonalized momentum, and everything else by AdamW.

    M ← βM + (1−β)G, then W ← W − η·λ·W − η·0.2·√max(A, B) · orthogonalize(βM + (1−β)G). The factor gives the update
    the size that AdamW's usually has, so that one learning rate η serves both.

    Args:
        groups: parameter groups; those with ``"orthogonal": True`` hold matrices for Muon, all others are AdamW's.
        momentum: β.
        dtype: of the orthogonalization; bfloat16 is precise enough, and fast where there is hardware for it.
        options: what ``torch.optim.AdamW`` takes.

    Source: Jordan et al. 2024 (the algorithm, with Nesterov's momentum); Liu et al. 2025, "Muon is scalable for LLM
    training", §2.2 (decay, and the factor).
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, dtype: torch.dtype, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.momentum, self.dtype = momentum, dtype
        # Fused AdamW looks for overflows of float16 by itself; the matrices need the scaler to look for all.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._step_matrices(group)
        with self._without_matrices():
            return super().step(closure)

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)
        with self._without_matrices():  # AdamW misses its own figures in the state of a matrix
            super().__setstate__({})

    @contextmanager
    def _without_matrices(self) -> Iterator[None]:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("orthogonal")]
            yield
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike: dict[Any, list[Tensor]] = {}  # matrices of one shape, standing or lying, go through one product
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault((*sorted(parameter.shape), parameter.device), []).append(parameter)
        for (_, larger, _), matrices in alike.items():
            updates = orthogonalize(torch.stack([self._direction(m) for m in matrices]).to(self.dtype))  # (N, A, B)
            rate = group["lr"] * 0.2 * math.sqrt(larger)
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for matrix, update in zip(matrices, updates.to(matrices[0].dtype), strict=True):
                matrix.sub_(_lying(matrix, update), alpha=rate)

    def _direction(self, matrix: Tensor) -> Tensor:
        """Return the gradient with momentum, lying: (smaller side, larger side)."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - self.momentum)
        return _lying(matrix, matrix.grad.lerp(average, self.momentum))  # Nesterov's look ahead


def _lying(matrix: Tensor, values: Tensor) -> Tensor:
    """Transpose values of a standing matrix, or transpose them back."""
    return values.mT if matrix.size(0) > matrix.size(1) else values
