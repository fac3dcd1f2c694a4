"""What training needs, and when it has gone wrong: each said in one sentence."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llama_minimal.config import LlamaConfig, Precision
from llama_minimal.data.mixture import Text, Texts
from llama_minimal.data.packing import PackedExamples
from llama_minimal.lora import adapters
from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.pipeline import default_micro_batch_size
from llama_minimal.parallel.stages import make_cut
from llama_minimal.parallel.tensor import check_divisible, splits_sequences
from llama_minimal.prompts import check_tokens
from llama_minimal.quantization import quantization_of
from llama_minimal.settings import FREE_ON_RESUME, TrainConfig
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
        if how := quantization_of(model):
            raise ValueError(
                f"the model is quantized ({how.scheme}), and codes cannot take small steps; add_adapter puts something "
                f"beside them that learns, or train the original and quantize it after"
            )
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


def check_layout(shape: LlamaConfig, config: TrainConfig, mesh: Mesh) -> None:
    """Refuse a layout of processes that this model, or these batches, cannot be divided among.

    Raises:
        ValueError: naming the values that could.
    """
    data, tensor, stages = (mesh.size_of(name) for name in ("data", "tensor", "pipeline"))
    check_divisible(shape, tensor)
    if stages > 1:
        make_cut(shape, stages, config.balance)
    if config.optimizer == "muon" and (tensor > 1 or (config.shard and mesh.torch_mesh is not None)):
        raise ValueError(
            "optimizer='muon' needs whole matrices, and tensor and shard leave each process a part of them; "
            "give optimizer='adamw', or divide the work by sequences and pipeline stages alone"
        )
    if config.precision == "fp16" and (data < mesh.size or (config.shard and mesh.torch_mesh is not None)):
        raise ValueError(
            "precision='fp16' looks for overflow in whole gradients, and tensor, pipeline and shard leave each process "
            "a part of them; give precision='bf16', which needs no loss scaling"
        )
    for length in {config.seq_len, config.short_seq_len or config.seq_len}:
        if splits_sequences(shape) and length % tensor:
            raise ValueError(
                f"{length} tokens of a sequence cannot be shared by tensor={tensor} processes; give seq_len (and "
                f"short_seq_len) a multiple of {tensor}"
            )
    if stages > 1:
        _check_micro_batches(config, rows=config.batch_size // data, stages=stages)


def _check_micro_batches(config: TrainConfig, *, rows: int, stages: int) -> None:
    size = config.micro_batch_size or default_micro_batch_size(rows, stages)
    n = -(-rows // size)
    if config.pipeline_schedule == "1f1b" and n < stages:
        remedy = f"micro_batch_size={rows // stages} or less" if rows >= stages else f"batch_size of {stages} or more"
        raise ValueError(
            f"a process's {rows} sequences make {n} micro-batches of {size}, fewer than the {stages} stages that the "
            f"schedule 1f1b keeps busy; give {remedy}, or pipeline_schedule='gpipe'"
        )


def check_texts(config: LlamaConfig, tokens: Any, *, what: str) -> Texts:
    """Return one text, or several sources by name, as arrays; refuse ids that the model has no embeddings for."""
    if not isinstance(tokens, Mapping):
        return _check_text(config, tokens, what=what)
    if not tokens:
        raise ValueError(f"the {what} is a mapping without a source; give at least one")
    return {name: _check_text(config, part, what=f"{what} of {name}") for name, part in tokens.items()}


def _check_text(config: LlamaConfig, text: Any, *, what: str) -> Text:
    if not isinstance(text, PackedExamples):
        return check_tokens(config, text, what=what)
    check_tokens(config, text.inputs.ravel(), what=what)
    highest = int(text.targets.max())
    if highest >= config.n_outputs:
        raise ValueError(f"the {what} has a target {highest}, but the model's outputs are 0 to {config.n_outputs - 1}")
    return text


def describe_run(model: Llama, config: TrainConfig, tokens: Texts, after_step: Any = None) -> dict[str, Any]:
    """Return what may not change when a run goes on: the model's shape, the recipe, and the size of each text."""
    train = {name: value for name, value in asdict(config).items() if name not in FREE_ON_RESUME}
    train["after_step"] = getattr(after_step, "__name__", after_step and type(after_step).__name__)
    data: dict[str, Any] = {"n_tokens": len(tokens)}
    if isinstance(tokens, Mapping):
        sizes = [(name, len(part)) for name, part in tokens.items()]
        data = {"n_tokens": sum(size for _, size in sizes), "sources": sizes}
    shape = model.config.to_dict()
    how = quantization_of(model)
    shape["quantization"] = how and how.to_dict()
    if there := adapters(model):
        shape["adapters"] = {name: settings.to_dict() for name, settings in there.items()}
    return {"model": shape, "train": train, "data": data}


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
    loss: float, norm: float, step: int, lr: float, precision: Precision, *, snapshots_in: Path | None
) -> None:
    """Refuse to take a step that would spoil the weights.

    Args:
        norm: of the gradient.
        precision: under fp16 an infinite gradient is normal: the loss's scaler skips the step, and scales less.
        snapshots_in: the folder where a good state may be found.

    Raises:
        TrainingDivergedError: if the loss, or the gradient, is not finite.
    """
    if math.isfinite(loss) and (math.isfinite(norm) or precision == "fp16"):
        return
    saved = snapshots(snapshots_in) if snapshots_in else []
    last = f"the last good snapshot is {saved[-1]}" if saved else "no snapshot was saved"
    wider = {"fp32": "", "bf16": " or --precision fp32", "fp16": " or --precision bf16 or fp32"}[precision]
    raise TrainingDivergedError(
        f"loss {loss:g} with gradient norm {norm:g} at step {step}, learning rate {lr:.3g}; {last}. "
        f"Try a lower learning rate{',' if wider else ' or'} a longer warm-up{wider}"
    )
