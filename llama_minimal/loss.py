"""The next-token loss, kept as a sum and a count so that parts add up."""

# B batch, T time, N = B·T tokens, V vocabulary

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llama_minimal.prompts import IGNORE

Batch = tuple[Tensor, ...]
"""Inputs, targets (B, T), and what else an objective reads; the first axis of each counts sequences."""
Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""(model, batch) -> the sum of the losses, which training makes smaller, and how many there are."""
HeadLoss = Callable[[Tensor, nn.Module, Tensor], tuple[Tensor, Tensor]]
"""(hidden states (B, T, D), output layer, targets) -> the sum of the losses, and how many there are."""


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

    Raises:
        ValueError: if a target is none of the V ids; on a GPU the device stops instead.
    """
    real = targets != IGNORE
    rows = torch.where(real, targets, 0).flatten()
    try:
        losses, _ = _CrossEntropy.apply(logits.flatten(0, -2), rows)
    except (IndexError, RuntimeError):  # looked at only when something is wrong: it would cost every step
        refuse_unknown(rows, logits.size(-1))
        raise
    losses = losses.view(targets.shape)
    weights = (real if weights is None else weights * real).to(losses.dtype)
    return (torch.where(real, losses, 0) * weights).sum(), weights.sum()


def next_token(model: nn.Module, batch: Batch, *, loss: HeadLoss | None = None) -> tuple[Tensor, Tensor]:
    """Return total and count of the next-token loss of a batch: the objective of pretraining and supervised tuning.

    Args:
        batch: inputs and targets, (B, T), and where rows are packed the documents of their tokens, (B, T).
        loss: of hidden states, output layer and targets, such as ``chunked_loss``; the model calls it with the first
            two. None means ``next_token_loss`` of all logits.
    """
    if loss is None:
        return next_token_loss(call(model, batch), batch[1])
    return call(model, batch, loss=lambda x, output: loss(x, output, batch[1]))


def call(model: Callable[..., Any], batch: Batch, **options: Any) -> Any:
    """Return what a model, or a method of one, makes of a batch's inputs and, where it has them, its documents."""
    inputs, _, *documents = batch
    return model(inputs, **({"documents": documents[0]} if documents else {}), **options)


def refuse_unknown(targets: Tensor, vocab_size: int) -> None:
    """Refuse targets that no logit is for.

    Raises:
        ValueError: if there is one.
    """
    unknown = targets[(targets < 0) | (targets >= vocab_size)]
    if len(unknown):
        raise ValueError(
            f"target {int(unknown[0])} is not among the ids 0 to {vocab_size - 1} that the logits are for; "
            f"{IGNORE} marks what does not count"
        )


class _CrossEntropy(torch.autograd.Function):
    """−log softmax(logits)[target] of each row, with the gradient that one can write down.

    ∂ loss / ∂ logits = softmax(logits) − one-hot(target). PyTorch goes back through the choice of the target
    and the logarithm one by one, with two more arrays of the size of the logits.
    """

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_probability = logits.log_softmax(-1, dtype=wide)  # (N, V)
        return -log_probability.gather(-1, targets[:, None]).squeeze(-1), log_probability  # (N,), (N, V)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        (logits, targets), (_, log_probability) = inputs, output
        ctx.mark_non_differentiable(log_probability)
        ctx.set_materialize_grads(False)  # no zeros of the size of the logits
        ctx.save_for_backward(log_probability, targets)
        ctx.dtype = logits.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor | None, _: None) -> tuple[Tensor | None, None]:
        if d_losses is None:
            return None, None
        log_probability, targets = ctx.saved_tensors
        d_logits = log_probability.exp()
        d_logits.scatter_add_(-1, targets[:, None], torch.full_like(d_logits[:, :1], -1))
        return d_logits.mul_(d_losses[:, None]).to(ctx.dtype), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Treat examples as more rows: rows do not know of each other."""
        n = info.batch_size
        rows = [
            (x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        return tuple(out.unflatten(0, (n, -1)) for out in _CrossEntropy.apply(*rows)), (0, 0)
