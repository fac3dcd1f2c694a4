"""The folder of a fine-tuning: what has been done is noted in it, so that it can go on, and nothing else is touched."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_minimal.config import read_json
from llama_minimal.files import LEFTOVER, explained, replace_file
from llama_minimal.run_folder import remove_run, run_files

STATE = "finetune.json"
REPORT, PAGE = "report.json", "report.html"
TRAINING, ADAPTER = "training", "adapter"  # the last training, while it goes on; the adapter by itself
_FORMAT = 1
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter.json", "adapter.safetensors")


class State:
    """Remember what a fine-tuning has done, in a file that is replaced as a whole at each step.

    Args:
        folder: of the fine-tuning.
        command: plain values that must be the same when it goes on.

    Raises:
        ValueError: if the folder holds something else, or a fine-tuning with other values; the message names them.
    """

    def __init__(self, folder: Path, command: Mapping[str, Any]) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {"format": _FORMAT, "command": dict(command), "seconds": 0.0, "losses": {}}
        if is_tuning(folder):
            found = read_json(folder / STATE)
            _check_same(found["command"], json.loads(json.dumps(dict(command))), folder)
            self.values = found

    def __getitem__(self, name: str) -> Any:
        """Return what was noted under a name, or None."""
        return self.values.get(name)

    def note(self, **values: Any) -> None:
        """Write values to the file; whoever is stopped from here on finds them again.

        Raises:
            OSError: if the disk is full or the folder not writable.
        """
        self.values |= values
        replace_file(self.folder / STATE, json.dumps(self.values, indent=1, ensure_ascii=False).encode("utf-8"))


def is_tuning(folder: Path) -> bool:
    """Return whether a folder holds a fine-tuning, whole or begun."""
    try:
        found = read_json(folder / STATE)
    except (OSError, ValueError):
        return False
    return found.get("format") == _FORMAT and isinstance(found.get("command"), dict)


def check_folder(folder: Path) -> None:
    """Refuse a folder in which somebody else's files are.

    Raises:
        ValueError: if it is a file, or holds files and no fine-tuning.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; give a folder")
    if folder.is_symlink() and not folder.exists():
        raise ValueError(
            f"--out {folder} is a link to {folder.readlink()}, which does not exist; make that folder first"
        )
    if is_tuning(folder) or not folder.is_dir():
        return
    if first := next((path for path in folder.iterdir() if not LEFTOVER.fullmatch(path.name)), None):
        raise ValueError(
            f"{folder} holds {first.name}, and no fine-tuning; nothing there is touched: give a new folder"
        )


def remove_tuning(folder: Path) -> None:
    """Delete what a fine-tuning wrote; what else is in the folder stays.

    Raises:
        OSError: if a file cannot be deleted.
    """
    if not is_tuning(folder):
        return
    remove_training(folder)
    files = [folder / ADAPTER / name for name in _ADAPTER_FILES] + [folder / REPORT, folder / PAGE]
    for path in (*files, *run_files(folder), folder / STATE):
        with explained(path):
            path.unlink(missing_ok=True)
    _remove_if_empty(folder / ADAPTER)


def remove_training(folder: Path) -> None:
    """Delete the snapshots of the last training, which nobody needs when its model is saved."""
    remove_run(folder / TRAINING)
    _remove_if_empty(folder / TRAINING)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    changes = [
        f"{'the content of DATA' if name == 'sha256' else f'--{name}' if name != 'data' else 'DATA'} was "
        f"{_shown(old.get(name))}, is {_shown(value)}"
        for name, value in new.items()
        if not _same(old.get(name), value)
    ]
    if changes:
        raise ValueError(
            f"{folder} holds a fine-tuning with other values: {'; '.join(changes)}. Give the same to go on with it, "
            f"another --out, or --overwrite to delete it and start anew"
        )


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, str) and isinstance(new, str) and Path(old).exists() and Path(new).exists():
        return Path(old).samefile(new)  # two ways to write one path
    return old == new


def _shown(value: Any) -> str:
    text = "left out" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
