"""The next-token loss of logits that are split by vocabulary: no process ever holds them whole."""

# N = B·T tokens, V vocabulary, P processes

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_minimal.loss import IGNORE


def parallel_next_token_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, *, first: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Return what ``next_token_loss`` returns, from logits of which each process has some columns.

    −log softmax(z)[t] = m + log Σ exp(z − m) − z_t: the maximum m, the sum and the target's logit z_t are found part
    by part, so N numbers are exchanged three times instead of N·V once.

    Args:
        logits: (B, T, V_local), this process's columns.
        targets: (B, T) ids of the whole vocabulary, the same on every process; ``IGNORE`` weighs nothing.
        weights: (B, T), or None for ones.
        first: the id that this process's first column is for.

    Returns:
        total and count, the same on every process.

    Source: Shoeybi et al. 2019, "Megatron-LM", §3 (parallel cross-entropy).
    """
    real = targets != IGNORE
    rows = torch.where(real, targets, 0).flatten()
    losses = _ParallelCrossEntropy.apply(logits.flatten(0, -2), rows, first, group).view(targets.shape)
    weights = (real if weights is None else weights * real).to(losses.dtype)
    return (torch.where(real, losses, 0) * weights).sum(), weights.sum()


class _ParallelCrossEntropy(torch.autograd.Function):
    """−log softmax(logits)[target] of each row; ∂ loss / ∂ logits = softmax(logits) − one-hot(target), part by part."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, first: int, group: dist.ProcessGroup) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (N, V_local)
        highest = wide.amax(-1)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
        exponentials = (wide - highest[:, None]).exp()
        column = (targets - first)[:, None]
        is_mine = (column >= 0) & (column < wide.size(-1))  # (N, 1)
        column = torch.where(is_mine, column, 0)
        of_target = (wide.gather(-1, column) * is_mine).squeeze(-1)
        sums = torch.stack((exponentials.sum(-1), of_target))  # (2, N)
        dist.all_reduce(sums, group=group)
        ctx.save_for_backward(exponentials.div_(sums[0][:, None]), column, is_mine)
        ctx.dtype = logits.dtype
        return highest + sums[0].log() - sums[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor, None, None, None]:
        probability, column, is_mine = ctx.saved_tensors
        d_logits = probability.scatter_add(-1, column, -is_mine.to(probability.dtype))
        return d_logits.mul_(d_losses[:, None]).to(ctx.dtype), None, None, None
