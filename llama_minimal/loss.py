"""The next-token loss, kept as a sum and a count so that parts add up."""

# B batch, T time, V vocabulary

import torch
import torch.nn.functional as F
from torch import Tensor

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
    wide = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
    real = targets != IGNORE
    if weights is None:
        return F.cross_entropy(wide, targets.flatten(), ignore_index=IGNORE, reduction="sum"), real.sum().to(wide.dtype)
    losses = F.cross_entropy(wide, targets.flatten(), ignore_index=IGNORE, reduction="none")
    weights = (weights * real).to(wide.dtype)
    return (losses * weights.flatten()).sum(), weights.sum()
