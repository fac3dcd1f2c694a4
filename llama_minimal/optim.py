"""AdamW with its groups, the learning-rate schedule, and clipping."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make_adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1
) -> torch.optim.AdamW:
    """Build AdamW that decays matrices only, in one fused kernel per step on CUDA devices and CPUs.

    Norm scales and biases are left alone: to pull them to zero is to switch features off.

    Source: Loshchilov and Hutter 2019, alg. 2; the values are LLaMA's, §2.3.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=fused)


def learning_rate(step: int, *, lr: float, steps: int, warmup_steps: int, min_lr_ratio: float = 0.1) -> float:
    """Return the learning rate of one step: a linear rise, then half a cosine down to a fraction.

    Args:
        step: counted from 0.
        steps: the last step, ``steps − 1``, is the first that gets exactly ``lr · min_lr_ratio``.

    Source: LLaMA, §2.3 (final rate 10 % of the peak).
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``max_norm``; return the norm before.

    Source: Pascanu et al. 2013, alg. 1.
    """
    return nn.utils.clip_grad_norm_(parameters, max_norm)
