"""Training snapshots: all that a run needs to go on as if it had never stopped.

A snapshot is a folder ``step-00000100`` that appears at once and whole, or not at all. It is also a model
folder (``config.json``, ``model.safetensors``) that ``llama_minimal.load`` reads. Where no process has the whole model,
each writes its part, and the names of the tensors are those of a whole one: any other layout can go on from it.
"""

import json
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint import load
from llama_minimal.checkpoint.native import write_config, write_native
from llama_minimal.checkpoint.reading import open_tensors
from llama_minimal.checkpoint.sharded import SHARDS, is_sharded, shards
from llama_minimal.checkpoint.tensors import fill, load_safetensors, write_safetensors
from llama_minimal.config import read_json
from llama_minimal.files import atomic_folder, remove_leftovers, update_folder
from llama_minimal.model import Llama
from llama_minimal.optim import state_keys
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.state import is_spread, read_parts, write_parts
from llama_minimal.quantization import quantization_of
from llama_minimal.run_folder import SNAPSHOT, SNAPSHOT_FILES, STATE, remove_snapshot


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
    mesh: Mesh | None = None,
) -> Path:
    """Write one snapshot and delete the oldest, so that ``keep`` remain, and the one of step ``spare``.

    Args:
        folder: where the snapshots of the run are.
        step: how many steps are done.
        run: plain values for JSON that the resumed run has to agree with.
        best: plain values for JSON about the lowest validation loss.
        mesh: the processes that take part; all call this, and wait for each other.

    Raises:
        OSError: if the disk is full or the folder is not writable; older snapshots are untouched.
    """
    mesh = mesh or Mesh(device=next(model.parameters()).device)
    path = snapshot_path(folder, step)
    state = {"step": step, "run": run, "scaler": scaler.state_dict(), "best": best or {}}
    kept = {"keep": keep, "spare": spare}
    with ExitStack() as stack:  # holds what the first process has begun
        if temporary := mesh.first(lambda: _begin(path, stack)):
            if spread := is_spread(model, mesh):
                write_parts(temporary, model, optimizer, _rng_tensors(model))

            def finish() -> None:
                if spread:
                    write_config(model, temporary)
                    state[SHARDS] = shards(temporary)
                else:
                    _write_whole(model, optimizer, temporary)
                (temporary / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
                stack.close()
                _prune(folder, **kept)

            mesh.first(finish)
        else:
            mesh.first(lambda: _prune(folder, **kept))
    return path


def _begin(path: Path, stack: ExitStack) -> Path | None:
    """Return a temporary folder that becomes the snapshot when the stack closes; None if the snapshot is there."""
    if path in snapshots(path.parent):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    # A folder of that name may hold something of the user's, which stays; what is left of a snapshot goes.
    update = partial(update_folder, last=STATE, obsolete=SNAPSHOT_FILES)
    return stack.enter_context(update(path) if path.is_dir() else atomic_folder(path))


def _write_whole(model: Llama, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    write_native(model, folder)
    write_safetensors(_optimizer_tensors(model, optimizer) | _rng_tensors(model), folder / "trainer.safetensors")


def _prune(folder: Path, *, keep: int, spare: int | None) -> None:
    kept = [*snapshots(folder)[-keep:], *([] if spare is None else [snapshot_path(folder, spare)])]
    for old in set(_step_folders(folder)).difference(kept):
        with suppress(PermissionError):  # Windows: someone reads it; it goes with the next one
            remove_snapshot(old)


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


def load_weights(path: Path, model: Llama, mesh: Mesh | None = None) -> None:
    """Put a snapshot's weights into a model, or the part of them that this process has.

    Raises:
        ValueError: if the snapshot is damaged or belongs to a model of another shape.
    """
    if _goes_by_parts(path, model, mesh):
        read_parts(path, model)
    else:
        codes = quantization_of(model) is not None  # beside which an adapter learns
        fill(model, open_tensors([path / "model.safetensors"], codes=codes), path)


def whole_model(model: Llama, mesh: Mesh, folder: Path | None, step: int | None = None) -> Llama:
    """Return a model of which no process has all as a snapshot has it, on the CPU; another is returned as it is.

    Args:
        folder: where the snapshots of the run are.
        step: None means the newest.

    Raises:
        ValueError: if there is no snapshot.
    """
    if not is_spread(model, mesh):
        return model
    if not (saved := snapshots(folder) if folder else []):
        raise ValueError("the model is spread over processes, and no snapshot has all of it; give out, a folder")
    return load(snapshot_path(folder, step) if step else saved[-1])[0]


def load_snapshot(
    path: Path,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    mesh: Mesh | None = None,
) -> None:
    """Put a snapshot's state into model, optimizer, scaler and random generators, whatever layout wrote it.

    Raises:
        ValueError: if the snapshot is damaged or belongs to a model of another shape.
    """
    if _goes_by_parts(path, model, mesh):
        tensors = {"rng.cpu": torch.zeros_like(torch.get_rng_state())}
        read_parts(path, model, optimizer, tensors)
    else:
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


def _goes_by_parts(path: Path, model: Llama, mesh: Mesh | None) -> bool:
    return is_sharded(path) or (mesh is not None and is_spread(model, mesh))


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
        i: {key: tensors[f"{names[parameter]}.{key}"].clone() for key in state_keys(group)}
        for i, (parameter, group) in enumerate(order)
    }
    return optimizer.state_dict() | {"state": state}


def _rng_tensors(model: Llama) -> dict[str, Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    return tensors
