"""``train --resume``: the values of the run that goes on, and the flags that may not change in it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro

from llama_minimal.cli.model_flags import ModelFlags
from llama_minimal.cli.train import Train
from llama_minimal.config import read_json
from llama_minimal.run_folder import RUN, has_snapshot, is_run
from llama_minimal.settings import FREE_ON_RESUME, TrainConfig

# What may be another when a run goes on; all other flags are compared.
_FREE = FREE_ON_RESUME | {"out", "resume", "overwrite", "device", "tensor", "pipeline", "samples", "tensorboard"}


@dataclass(frozen=True, kw_only=True)
class _Place:
    out: Path = Train.out
    resume: bool = False
    overwrite: bool = False


def saved_command(args: Sequence[str]) -> Train | None:
    """Return the values of the run that arguments ask to resume, or None if they ask for something else.

    Raises:
        ValueError: if there is no such run, or it is to be resumed and deleted at once.
    """
    if args[:1] != ["train"] or "--resume" not in args or {"--help", "-h"} & set(args):
        return None
    place, _ = tyro.cli(_Place, args=args[1:], return_unknown_args=True, prog="llama-minimal train")
    if not place.resume:
        return None
    if place.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if has_snapshot(place.out) and not is_run(place.out):
        raise ValueError(
            f"{place.out / RUN} is missing or damaged, so the flags of the run are lost; its newest weights are not: "
            f"train on from them with --init-from {place.out} and another --out"
        )
    if not is_run(place.out):
        raise ValueError(f"--resume: there is no run in {place.out}; leave --resume out to start one")
    values = read_json(place.out / RUN)
    values.pop("asked_vocab_size", None)
    try:
        values |= {"model": ModelFlags(**values["model"]), "train": TrainConfig(**values["train"])}
        values["tokenizer"] = Path(values["tokenizer"]) if values["tokenizer"] else None
        return Train(**values, out=place.out, resume=True)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{place.out / RUN} is not what this version writes ({error}); start a new run") from None


def compared(command: Train, saved: Train) -> Train:
    """Return the command if it goes on with the saved run and not with another one.

    Raises:
        ValueError: if a flag was given that would change the run; the message names all of them.
    """
    if command.vocab_size == read_json(saved.out / RUN).get("asked_vocab_size"):
        command = replace(command, vocab_size=saved.vocab_size)  # asked for then, too; the corpus gave fewer
    old, new = _values(saved), _values(command)
    changes = [
        f"--{name.replace('_', '-')} was {_shown(old[name])}, is {_shown(new[name])}"
        for name in old
        if name not in _FREE and not _same(old[name], new[name])
    ]
    if changes:
        raise ValueError(
            f"cannot resume with other values: {'; '.join(changes)}. Leave them out to go on with {saved.out}, "
            f"or start a new run with another --out"
        )
    return command


def _values(command: Train) -> dict[str, Any]:
    own = {f.name: getattr(command, f.name) for f in fields(command) if f.name not in ("model", "train")}
    return own | asdict(command.model) | asdict(command.train)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return all(map(_same, old, new))
    if isinstance(old, str | Path) and isinstance(new, str | Path) and Path(old).exists() and Path(new).exists():
        return Path(old).samefile(new)  # two ways to write one path
    return old == new


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return str(value) if isinstance(value, Path) else repr(value)
