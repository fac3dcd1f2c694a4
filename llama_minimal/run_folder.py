"""What a training run writes, by name: to recognize it, to leave it out of a corpus, to delete it and nothing else."""

import json
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llama_minimal.files import LEFTOVER, explained, remove_leftovers

RUN = "run.json"  # the flags of the run
METRICS = "metrics.jsonl"
DATA, SNAPSHOTS, TENSORBOARD = "data", "snapshots", "tensorboard"
SNAPSHOT = "step-" + 8 * "[0-9]"
STATE = "trainer.json"  # what a snapshot is not whole without
SNAPSHOT_FILES = (STATE, "trainer.safetensors", "config.json", "model.safetensors", "shard-*.safetensors")
_MODEL = ("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
_BESIDE = ("added_tokens.json", "chat_template.jinja", "generation_config.json")
# In the order in which they are deleted: whatever is left after a crash is still recognized by its run.json.
_FILES = (
    *(f"{SNAPSHOTS}/{SNAPSHOT}/{name}" for name in SNAPSHOT_FILES),
    *(*_MODEL, *_TOKENIZER, *_BESIDE),
    *(f"{DATA}/{name}" for name in ("corpus.json", "train.bin", "validation.bin")),
    f"{TENSORBOARD}/events.out.tfevents.*",
    METRICS,
    RUN,
)
_FOLDERS = (f"{SNAPSHOTS}/{SNAPSHOT}", SNAPSHOTS, DATA, TENSORBOARD)
# Not a run's, but saving a model would take its place.
_OTHER_MODELS = ("params.json", "consolidated.*.pth")


def run_files(folder: Path) -> list[Path]:
    """Return the files in a folder that have names which a run writes; ``run.json`` comes last."""
    return list(dict.fromkeys(path for pattern in _FILES for path in sorted(folder.glob(pattern)) if path.is_file()))


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, or the beginning of one: a ``run.json`` of ours."""
    content = _read(folder / RUN)
    return isinstance(content, dict) and isinstance(content.get("train"), dict) and "model" in content


def has_snapshot(folder: Path) -> bool:
    """Return whether there is something that a run could go on from."""
    return any(folder.glob(f"{SNAPSHOTS}/{SNAPSHOT}/{STATE}"))


def has_model(folder: Path) -> bool:
    """Return whether there is a finished model."""
    return (folder / "config.json").exists()


def files_in_the_way(folder: Path) -> list[Path]:
    """Return the files that a new run would replace though no run wrote them."""
    others = [path for pattern in _OTHER_MODELS for path in sorted(folder.glob(pattern))]
    others += [folder / name for name in (DATA, SNAPSHOTS, TENSORBOARD) if (folder / name).is_file()]
    return others if is_run(folder) else run_files(folder) + others


def remove_run(folder: Path) -> None:
    """Delete the files of the run in a folder; folders go when nothing else is in them.

    Raises:
        OSError: if a file cannot be deleted.
    """
    for name in (DATA, SNAPSHOTS):
        remove_leftovers(folder / name)
    for path in run_files(folder):
        with explained(path):
            path.unlink()
    for pattern in _FOLDERS:
        _remove_empty(folder.glob(pattern))


def remove_snapshot(folder: Path) -> None:
    """Delete one snapshot; its ``trainer.json`` goes first, for what lacks it is none."""
    for pattern in SNAPSHOT_FILES:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    _remove_empty([folder])


def is_run_file(path: Path) -> bool:
    """Return whether a run wrote this file, so that it is no text to learn from.

    It is one of a run's names, in the place where a run puts it, beside a ``run.json`` or snapshots; or it is a
    file that holds metrics; or it is half-written.
    """
    if any(LEFTOVER.fullmatch(part) for part in path.parts[-3:]):
        return True
    if not any(fnmatch(path.name, pattern.rpartition("/")[2]) for pattern in _FILES):
        return False
    if path.name == METRICS and _holds_metrics(path):
        return True
    path = path.absolute()
    for folder in path.parents[:3]:
        named = any(path.relative_to(folder).match(pattern) for pattern in _patterns(path, folder))
        if named and (is_run(folder) or has_snapshot(folder)):
            return True
    return False


def _patterns(path: Path, folder: Path) -> Iterator[str]:
    # ``match`` compares from the right: a pattern must have as many parts as the path.
    n_parts = len(path.relative_to(folder).parts)
    return (pattern for pattern in _FILES if pattern.count("/") + 1 == n_parts)


def _holds_metrics(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline(100_000))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"step", "loss"} <= first.keys() and "text" not in first


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _remove_empty(folders: Any) -> None:
    for folder in list(folders):
        with suppress(OSError):  # it holds something of the user's, or is a link
            folder.rmdir()
