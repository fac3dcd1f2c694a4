"""The next-token loss, kept as a sum and a count so that parts add up."""

# B batch, T time, N = B·T tokens, V vocabulary

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100  # a target that counts for nothing, as everywhere in PyTorch


def next_token_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the summed negative log-likelihood of the targets, and how many targets there are.

    total = −Σ w·log softmax(logits)[target] in nats, count = Σ w. The mean loss is total / count; keeping
    the two apart makes it right under gradient accumulation, masks and data parallelism, where a mean of
    means is not.

    Args:
        logits: (B, T, V), or any (..., V).
        targets: (B, T) token ids; ``IGNORE`` weighs nothing.
        weights: (B, T), or None for ones.

    Returns:
        total and count, scalars in at least float32.
    """
    real = targets != IGNORE
    rows = torch.where(real, targets, 0).flatten()
    losses = _CrossEntropy.apply(logits.flatten(0, -2), rows).view(targets.shape)
    weights = (real if weights is None else weights * real).to(losses.dtype)
    return (torch.where(real, losses, 0) * weights).sum(), weights.sum()


class _CrossEntropy(torch.autograd.Function):
    """−log softmax(logits)[target] of each row, with the gradient that one can write down.

    ∂ loss / ∂ logits = softmax(logits) − one-hot(target). PyTorch goes back through the choice of the target
    and the logarithm one by one, with two more arrays of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_probability = logits.log_softmax(-1, dtype=wide)  # (N, V)
        ctx.save_for_backward(log_probability, targets)
        ctx.dtype = logits.dtype
        return -log_probability.gather(-1, targets[:, None]).squeeze(-1)  # (N,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor, None]:
        log_probability, targets = ctx.saved_tensors
        d_logits = log_probability.exp()
        d_logits.scatter_add_(-1, targets[:, None], torch.full_like(d_logits[:, :1], -1))
        return d_logits.mul_(d_losses[:, None]).to(ctx.dtype), None
