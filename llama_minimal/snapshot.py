"""Training snapshots: all that a run needs to go on as if it had never stopped.

A snapshot is a folder ``step-00000100`` that appears at once and whole, or not at all. It is also a model
folder (``config.json``, ``model.safetensors``) that ``llama_minimal.load`` reads.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.native import write_native
from llama_minimal.checkpoint.reading import read_tensors
from llama_minimal.checkpoint.tensors import fill, load_safetensors, write_safetensors
from llama_minimal.config import read_json
from llama_minimal.files import atomic_folder, remove_leftovers, update_folder
from llama_minimal.model import Llama
from llama_minimal.run_folder import SNAPSHOT, STATE, remove_snapshot


def save_snapshot(
    folder: Path,
    step: int,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    run: dict[str, Any],
    keep: int,
    best: dict[str, Any] | None = None,
    spare: int | None = None,
) -> Path:
    """Write one snapshot and delete the oldest, so that ``keep`` remain, and the one of step ``spare``.

    Args:
        folder: where the snapshots of the run are.
        step: how many steps are done.
        run: plain values for JSON that the resumed run has to agree with.
        best: plain values for JSON about the lowest validation loss.

    Raises:
        OSError: if the disk is full or the folder is not writable; older snapshots are untouched.
    """
    path = snapshot_path(folder, step)
    if path not in snapshots(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        state = {"step": step, "run": run, "scaler": scaler.state_dict(), "best": best or {}}
        # A folder of that name may hold something of the user's, which stays.
        with update_folder(path, last=STATE) if path.is_dir() else atomic_folder(path) as temporary:
            write_native(model, temporary)
            write_safetensors(
                _optimizer_tensors(model, optimizer) | _rng_tensors(model), temporary / "trainer.safetensors"
            )
            (temporary / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    kept = [*snapshots(folder)[-keep:], *([] if spare is None else [snapshot_path(folder, spare)])]
    for old in set(_step_folders(folder)).difference(kept):
        with suppress(PermissionError):  # Windows: someone reads it; it goes with the next one
            remove_snapshot(old)
    return path


def snapshot_path(folder: Path, step: int) -> Path:
    """Return where the snapshot of a step is, or would be."""
    return folder / f"step-{step:08d}"


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, oldest first; what lacks its ``trainer.json`` is none."""
    return [path for path in _step_folders(folder) if (path / STATE).exists()]


def _step_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(SNAPSHOT) if path.is_dir())


def read_state(path: Path) -> dict[str, Any]:
    """Return a snapshot's ``step``, ``run``, ``scaler`` and ``best``."""
    return read_json(path / STATE)


def check_same_run(state: dict[str, Any], current: dict[str, Any], *, steps: int) -> None:
    """Compare what a snapshot says of its run with the run of so many steps that wants to go on from it.

    Raises:
        ValueError: if they differ; the message says where. Or if more steps are done already.
    """
    saved, current = state["run"], json.loads(json.dumps(current))  # whose tuples were written as lists
    differences = [
        f"{name} was {old!r}, is {current[part][name]!r}"
        for part in ("model", "train", "data")
        for name, old in saved[part].items()
        if name in current[part] and current[part][name] != old
    ]
    if differences:
        raise ValueError(
            f"cannot resume with another configuration: {'; '.join(differences)}. "
            f"Resume with the old values, or start a new run in another folder"
        )
    if state["step"] > steps:
        raise ValueError(f"the run has done {state['step']} steps already, more than steps={steps}; ask for more")


def load_weights(path: Path, model: Llama) -> None:
    """Put a snapshot's weights into a model.

    Raises:
        ValueError: if the snapshot is damaged or belongs to a model of another shape.
    """
    fill(model, read_tensors([path / "model.safetensors"]), path)


def load_snapshot(path: Path, model: Llama, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Put a snapshot's state into model, optimizer, scaler and random generators.

    Raises:
        ValueError: if the snapshot is damaged or belongs to a model of another shape.
    """
    load_weights(path, model)
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
        for key, value in optimizer.state.get(parameter, {}).items()  # frozen ones have none
    }


def _optimizer_state(model: Llama, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    # Copies: else the optimizer would keep the file mapped, which Windows then could not delete.
    state = {
        i: {key: tensors[f"{names[parameter]}.{key}"].clone() for key in _state_keys(group)}
        for i, (parameter, group) in enumerate(order)
    }
    return optimizer.state_dict() | {"state": state}


def _state_keys(group: dict[str, Any]) -> tuple[str, ...]:
    """Return what the optimizer remembers of each parameter of a group: Muon a mean, AdamW two and a count."""
    return ("momentum_buffer",) if group.get("orthogonal") else ("exp_avg", "exp_avg_sq", "step")


def _rng_tensors(model: Llama) -> dict[str, Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    return tensors
