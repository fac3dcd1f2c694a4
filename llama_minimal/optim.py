"""AdamW and Muon with their groups, the learning-rate schedules, and clipping."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.muon import Muon
from llama_minimal.settings import Schedule, TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build what a configuration asks for: AdamW for all parameters, or Muon for the matrices of the layers.

    Beside Muon, embedding, output and norms are AdamW's, without decay and at their own rate.
    """
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    if config.optimizer == "adamw":
        return make_adamw(model, **options, weight_decay=config.weight_decay)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    is_matrix = {name: name.startswith("layers.") and parameter.ndim == 2 for name, parameter in trained.items()}
    matrices, rest = ([p for name, p in trained.items() if is_matrix[name] is wanted] for wanted in (True, False))
    groups = [
        {"params": matrices, "orthogonal": True, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0, "lr_ratio": config.embedding_lr_ratio},
    ]
    groups = [group for group in groups if group["params"]]
    dtype = torch.bfloat16 if config.precision == "bf16" else next(model.parameters()).dtype
    return Muon(groups, dtype=dtype, fused=_can_fuse(trained.values()), **options)


def _can_fuse(parameters: Iterable[nn.Parameter]) -> bool:
    return all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)


def state_keys(group: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of what the optimizer remembers of each parameter of a group: Muon's mean, or AdamW's three."""
    return ("momentum_buffer",) if group.get("orthogonal") else ("exp_avg", "exp_avg_sq", "step")


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
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=_can_fuse(parameters))


def learning_rate(
    step: int,
    *,
    lr: float,
    steps: int,
    warmup_steps: int,
    min_lr_ratio: float = 0.1,
    schedule: Schedule = "cosine",
) -> float:
    """Return the learning rate of one step: a linear rise, then half a cosine, or a straight line, down to a fraction.

    Args:
        step: counted from 0.
        steps: the last step, ``steps − 1``, is the first that gets exactly ``lr · min_lr_ratio``; a line that ends at 0
            ends one step later, so that no step is lost.

    Source: LLaMA, §2.3 (cosine, final rate 10 % of the peak).
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    last = steps - 1 if schedule == "cosine" or min_lr_ratio else steps
    done = min(1.0, (step - warmup_steps) / max(1, last - warmup_steps))
    left = 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done
    return lr * (min_lr_ratio + (1 - min_lr_ratio) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times its own ``lr_ratio`` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients by a number, in place; 1 leaves them alone."""
    if factor != 1 and (gradients := [parameter.grad for parameter in parameters if parameter.grad is not None]):
        torch._foreach_mul_(gradients, factor)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``max_norm``; return the norm before.

    Source: Pascanu et al. 2013, alg. 1.
    """
    return nn.utils.clip_grad_norm_(parameters, max_norm)
