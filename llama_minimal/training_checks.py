"""What training needs, and when it has gone wrong: each said in one sentence."""

import math
from pathlib import Path

import torch

from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import snapshot_path, snapshots


class TrainingDivergedError(RuntimeError):
    """Say that loss or gradients are no longer finite; the weights are those before the step."""


def check_trainable(model: Llama, config: TrainConfig, *, has_validation: bool) -> None:
    """Refuse what can be known to be wrong before the first step.

    Raises:
        ValueError: if the weights are not float32 or float64, or none may change, or the config asks for what model or
            text do not have.
    """
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config={config!r} must be a TrainConfig, such as TrainConfig(steps=100)")
    if next(model.parameters()).is_meta:
        raise ValueError("the model is on the meta device, which holds no numbers; build it with device='cpu', say")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("no weight of the model may change: requires_grad is False for all; set it for some")
    if other := {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}:
        name = str(other.pop()).removeprefix("torch.")
        raise ValueError(
            f"the model's weights are {name}, in which small steps of training are lost; make them float32, with "
            f"load(…, dtype=torch.float32) or model.float(), and save time with precision='bf16'"
        )
    if config.seq_len > model.config.max_seq_len:
        raise ValueError(f"seq_len={config.seq_len} is longer than the model's max_seq_len={model.config.max_seq_len}")
    if config.patience is not None and not has_validation:
        raise ValueError(f"patience={config.patience} counts validations; give a validation text, or leave it out")


def check_later(saved: list[Path], step: int) -> None:
    """Refuse to mix two runs: the snapshots in a folder must not be ahead of the run that writes there.

    Raises:
        ValueError: if one is.
    """
    if saved and saved[-1] > snapshot_path(saved[-1].parent, step):
        raise ValueError(
            f"{saved[-1].parent} holds {saved[-1].name} of another run; call resume() to go on from it, "
            f"or give another folder"
        )


def check_finite(
    loss: float, norm: float, step: int, lr: float, *, scaler: torch.amp.GradScaler, snapshots_in: Path | None
) -> None:
    """Refuse to take a step that would spoil the weights.

    Args:
        norm: of the gradient.
        scaler: if it scales the loss, an infinite gradient is normal: it skips the step, and scales less.
        snapshots_in: the folder where a good state may be found.

    Raises:
        TrainingDivergedError: if the loss, or the gradient, is not finite.
    """
    if math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled()):
        return
    saved = snapshots(snapshots_in) if snapshots_in else []
    last = f"the last good snapshot is {saved[-1]}" if saved else "no snapshot was saved"
    raise TrainingDivergedError(
        f"loss {loss:g} with gradient norm {norm:g} at step {step}, learning rate {lr:.3g}; {last}. "
        f"Try a lower learning rate, a longer warm-up or --precision bf16 or fp32"
    )
