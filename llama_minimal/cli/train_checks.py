"""What must hold before a training run writes anything: the flags, the machine, and what the folder holds already."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_minimal import cost, plugins
from llama_minimal.cli.console import human
from llama_minimal.cli.model_flags import ModelFlags
from llama_minimal.config import LlamaConfig
from llama_minimal.run_folder import DATA, files_in_the_way, has_model, has_snapshot, run_files
from llama_minimal.settings import TrainConfig

if TYPE_CHECKING:
    from llama_minimal.cli.train import Train


def check_flags(command: "Train") -> None:
    """Refuse what the flags alone show to be impossible.

    Raises:
        ValueError: if flags contradict each other or a value is out of range.
    """
    if command.resume and command.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if not 0 < command.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction={command.validation_fraction} must be between 0 and 1, both excluded, such as 0.1"
        )
    _check_corpora(command)
    objective_of(command)
    if not command.init_from:
        check_shape(command, config_of(command), remedy="a smaller --seq-len or a larger --max-seq-len")
    elif not command.resume:
        _check_initial_flags(command)


def _check_corpora(command: "Train") -> None:
    corpora, weights = command.corpus, command.train.weights
    if not corpora:
        raise ValueError("--corpus names nothing; give one or more, such as: --corpus valley python-docs")
    if twice := [name for number, name in enumerate(corpora) if name in corpora[:number]]:
        raise ValueError(f"--corpus names {twice[0]} twice; name it once, and weigh it with --weights")
    if weights and len(weights) != len(corpora):
        raise ValueError(
            f"--weights gives {len(weights)} for {len(corpora)} corpora, {', '.join(corpora)}; "
            f"give one to each, or none"
        )
    if weights and len(corpora) == 1:
        raise ValueError(f"--weights mixes several corpora, and {corpora[0]} is the only one; leave it out")


def objective_of(command: "Train") -> Any:
    """Return the objective that the flags name; None stands for the next token's loss.

    Raises:
        ValueError: if no package brings one of this name, or it cannot be used.
    """
    from llama_minimal.cli.train import NEXT_TOKEN

    if command.objective == NEXT_TOKEN:
        return None
    with as_flags():
        return plugins.load(plugins.OBJECTIVES, command.objective, built_in=(NEXT_TOKEN,))


def config_of(command: "Train") -> LlamaConfig:
    """Return the shape that the flags describe."""
    return command.model.apply_to(command.preset, vocab_size=command.vocab_size)


@contextmanager
def as_flags() -> Iterator[None]:
    """Write ``micro_batch_size=2`` as ``--micro-batch-size 2`` in the message of a ValueError."""
    from llama_minimal.cli.train import Train

    owners = (Train, ModelFlags, TrainConfig)
    names = "|".join(sorted({f.name for owner in owners for f in fields(owner)}, key=len, reverse=True))
    try:
        yield
    except ValueError as error:
        text = re.sub(rf"\b({names})=('?)(\([^()]*\)|[\w.]+)\2", _as_flag, str(error))
        raise ValueError(text) from None


def _as_flag(found: re.Match[str]) -> str:
    name, _, value = found.groups()
    return f"--{name.replace('_', '-')} {re.sub(r'[(),]', '', value)}"


def check_shape(command: "Train", config: LlamaConfig, *, remedy: str) -> None:
    """Raise ValueError, with what to do, if sequences are longer than the model's context."""
    if command.train.seq_len > config.max_seq_len:
        raise ValueError(
            f"--seq-len {command.train.seq_len} is longer than the model's context, max_seq_len={config.max_seq_len}; "
            f"give {remedy}"
        )


def _check_initial_flags(command: "Train") -> None:
    default = type(command)()
    own = ("preset", "vocab_size", "pattern", "tokenizer")
    given = [name for name in own if getattr(command, name) != getattr(default, name)]
    given += [name for name, value in asdict(command.model).items() if value is not None]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"--init-from {command.init_from} brings its own shape and tokenizer, so {flags} cannot be given with it"
        )


def check_machine(command: "Train", config: LlamaConfig, mesh: Any) -> None:
    """Raise ValueError or ImportError if these processes or this machine cannot do what the flags ask."""
    from llama_minimal.compiling import check_compiler
    from llama_minimal.training_checks import check_layout

    if command.train.batch_size % (n := mesh.size_of("data")):
        raise ValueError(
            f"--batch-size {command.train.batch_size} cannot be shared by {n} processes; give a multiple of it"
        )
    with as_flags():
        check_layout(config, command.train, mesh)
    if command.train.compile:
        check_compiler(mesh.device)
    if command.tensorboard:
        from llama_minimal.metrics import check_tensorboard

        check_tensorboard()


def goes_on(command: "Train") -> bool:
    """Return whether a run goes on that has been at work; refuse if its text is gone."""
    if not command.resume:
        return False
    if has_snapshot(command.out):
        if not (command.out / DATA / "corpus.json").exists():
            raise ValueError(f"the encoded text of the run is gone from {command.out / DATA}; put it back to go on")
        return True
    if has_model(command.out):
        raise ValueError(
            f"{command.out} has a finished model but no snapshot to go on from; to train on from its weights, "
            f"give --init-from {command.out} and another --out"
        )
    return False


def check_nothing_is_lost(command: "Train") -> None:
    """Refuse if a file would be deleted or replaced that no run wrote, that is not to be, or that is needed."""
    out = command.out
    if found := files_in_the_way(out):
        names = ", ".join(path.relative_to(out).as_posix() for path in found[:4])
        raise ValueError(
            f"{out} holds {names}, which would be replaced, but no run wrote them; give another --out, or move them "
            f"away (to train on from the weights of a model: --init-from {out} and another --out)"
        )
    if (has_snapshot(out) or has_model(out)) and not command.overwrite:
        raise ValueError(
            f"{out} holds a run already; go on with --resume, start anew with --overwrite, or give another --out"
        )
    doomed = {path.resolve() for path in run_files(out)}
    for flag in ("corpus", "init_from", "tokenizer"):
        if not getattr(command, flag):
            continue
        value = getattr(command, flag)
        for path in (Path(name).expanduser() for name in (value if isinstance(value, tuple) else (value,))):
            inside = path.iterdir() if path.is_dir() and flag != "corpus" else [path]  # of a corpus, runs are left out
            if any(file.resolve() in doomed for file in inside):
                raise ValueError(
                    f"{path} belongs to the run that would be deleted, but --{flag.replace('_', '-')} needs it; "
                    f"copy it to another place, or give another --out"
                )


def check_disk_space(command: "Train", config: LlamaConfig) -> None:
    """Raise OSError if model and snapshots will not fit on the disk."""
    n = sum(cost.parameters(config).values())
    n_snapshots = command.train.keep_snapshots + 1 + command.train.keep_best
    needed = n * (4 + n_snapshots * 12)  # the model; weights and two moments each
    free = shutil.disk_usage(command.out).free
    if free < needed:
        raise OSError(
            f"{command.out} has {human(free, 'B')} free, but the model and its snapshots need {human(needed, 'B')}; "
            f"make room, give another --out or a smaller --keep-snapshots"
        )
