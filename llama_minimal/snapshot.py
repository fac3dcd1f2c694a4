"""Training snapshots: all that a run needs to go on as if it had never stopped.

A snapshot is a folder ``step-00000100`` that appears at once and whole, or not at all. It is also a model
folder (``config.json``, ``model.safetensors``) that ``llama_minimal.load`` reads.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.native import write_native
from llama_minimal.checkpoint.reading import read_tensors
from llama_minimal.checkpoint.tensors import fill, load_safetensors, write_safetensors
from llama_minimal.config import read_json
from llama_minimal.files import atomic_folder, remove_leftovers
from llama_minimal.model import Llama


def save_snapshot(
    folder: Path,
    step: int,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    run: dict[str, Any],
    keep: int,
) -> Path:
    """Write one snapshot and delete the oldest, so that ``keep`` remain.

    Args:
        folder: where the snapshots of the run are.
        step: how many steps are done.
        run: plain values for JSON that the resumed run has to agree with.

    Raises:
        OSError: if the disk is full or the folder is not writable; older snapshots are untouched.
    """
    path = folder / f"step-{step:08d}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        state = {"step": step, "run": run, "scaler": scaler.state_dict()}
        with atomic_folder(path) as temporary:
            write_native(model, temporary)
            write_safetensors(
                _optimizer_tensors(model, optimizer) | _rng_tensors(model), temporary / "trainer.safetensors"
            )
            (temporary / "trainer.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    for old in snapshots(folder)[:-keep]:
        # Renamed first: a process killed while deleting must not leave half a snapshot under a whole one's name.
        shutil.rmtree(old.rename(old.with_name(f".{old.name}.tmp")))
    return path


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def read_state(path: Path) -> dict[str, Any]:
    """Return a snapshot's ``step``, ``run`` and ``scaler``."""
    return read_json(path / "trainer.json")


def load_snapshot(path: Path, model: Llama, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Put a snapshot's state into model, optimizer, scaler and random generators.

    Raises:
        ValueError: if the snapshot is damaged or belongs to a model of another shape.
    """
    fill(model, read_tensors([path / "model.safetensors"]), path)
    tensors = load_safetensors(path / "trainer.safetensors")
    try:
        optimizer.load_state_dict(_optimizer_state(model, optimizer, tensors))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: trainer.safetensors does not fit this model ({error})") from None
    scaler.load_state_dict(read_state(path)["scaler"])
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def _optimizer_tensors(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimizer's tensors after parameters: ``norm.weight.exp_avg``."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _optimizer_state(model: Llama, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = ("exp_avg", "exp_avg_sq", "step")
    state = {i: {key: tensors[f"{names[p]}.{key}"] for key in keys} for i, p in enumerate(order)}
    return optimizer.state_dict() | {"state": state}


def _rng_tensors(model: Llama) -> dict[str, Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    return tensors
