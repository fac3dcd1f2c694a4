"""The start of a training run: everything is checked and made beside the folder's content, and moved in at the end.

A start that fails leaves the folder as it was. One that is killed leaves at most a ``run.json`` without snapshots,
which the same command begins anew.
"""

import json
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_minimal.cli.console import bytes_bar, warn
from llama_minimal.cli.sources import Sources
from llama_minimal.cli.train_checks import (
    check_disk_space,
    check_machine,
    check_nothing_is_lost,
    check_shape,
    config_of,
    goes_on,
)
from llama_minimal.config import read_json
from llama_minimal.files import made_folder, remove_leftovers, replace_file
from llama_minimal.locks import hold_folder
from llama_minimal.run_folder import DATA, RUN, SNAPSHOTS, has_snapshot, remove_run

if TYPE_CHECKING:
    from llama_minimal.cli.train import Train


@contextmanager
def started(command: "Train", mesh: Any) -> Iterator[tuple[Any, Any] | None]:
    """Make the folder of a run ready, and hold it until the block ends.

    Yields the model and tokenizer that ``--init-from`` names, if the run begins with them.
    """
    from llama_minimal.parallel import note_begun

    is_new = command.init_from and not (command.resume and has_snapshot(command.out))
    initial = mesh.every(lambda: _initial(command) if is_new else None)
    with ExitStack() as stack:
        mesh.first(lambda: _prepare(command, mesh, initial, stack))
        if mesh.is_main:
            note_begun()
        yield initial


def write_run(command: "Train", folder: Path, *, vocab_size: int) -> None:
    """Note the flags of a run, for ``--resume``, with the vocabulary that it really has."""
    skip = {"out", "resume", "overwrite"}
    values = {f.name: getattr(command, f.name) for f in fields(command) if f.name not in skip}
    values |= {"model": asdict(command.model), "train": asdict(command.train), "vocab_size": vocab_size}
    former = read_json(folder / RUN) if (folder / RUN).exists() else {}
    if "asked_vocab_size" in former:
        values["asked_vocab_size"] = former["asked_vocab_size"]
    elif vocab_size != command.vocab_size:
        values["asked_vocab_size"] = command.vocab_size
    replace_file(folder / RUN, json.dumps(values, indent=2, default=str).encode("utf-8"))


def _initial(command: "Train") -> tuple[Any, Any]:
    import torch

    from llama_minimal.checkpoint import load
    from llama_minimal.prompts import check_writes
    from llama_minimal.quantization import refuse_quantized

    model, tokenizer = load(command.init_from, dtype=torch.float32)
    refuse_quantized(model, f"begin with {command.init_from}")
    check_writes(model.config, f"--init-from {command.init_from}")
    if tokenizer is None:
        raise ValueError(f"--init-from {command.init_from} has no tokenizer; put the model's tokenizer there")
    check_shape(command, model.config, remedy="a smaller --seq-len")
    return model, tokenizer


def _prepare(command: "Train", mesh: Any, initial: tuple[Any, Any] | None, stack: ExitStack) -> None:
    out = command.out
    if out.is_symlink() and not out.exists():
        raise ValueError(f"--out {out} is a link to {out.readlink()}, which does not exist; make that folder first")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    check_machine(command, _config(command, initial), mesh)
    with made_folder(out):
        stack.enter_context(hold_folder(out))
        if goes_on(command):
            return
        check_nothing_is_lost(command)
        check_disk_space(command, _config(command, initial))
        with _stage(out) as stage:
            _fill(command, mesh, initial, stage)
            remove_run(out)
            _move_in(stage, out)


def _config(command: "Train", initial: tuple[Any, Any] | None) -> Any:
    """Return the shape of the model that will be trained, or that of the run that goes on."""
    from llama_minimal.checkpoint import open_checkpoint
    from llama_minimal.snapshot import snapshots

    if initial:
        return initial[0].config
    if command.init_from:
        return open_checkpoint(snapshots(command.out / SNAPSHOTS)[-1]).config
    return config_of(command)


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """Yield a temporary folder in which a run takes shape."""
    remove_leftovers(out)
    stage = out / f".start.{os.getpid()}.tmp"
    stage.mkdir()
    try:
        yield stage
    except BaseException as error:
        # What failed may have mapped the encoded text, and Windows deletes no file that is mapped.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fill(command: "Train", mesh: Any, initial: tuple[Any, Any] | None, stage: Path) -> None:
    """Train the tokenizer, encode the corpus, and see that training can begin."""
    from llama_minimal.data import TokenFile, encode_corpus, make_batches, sequential_batches
    from llama_minimal.prompts import check_tokens
    from llama_minimal.tokenizer import load_tokenizer

    sources = Sources(command, say=print)
    (initial[1] if initial else _tokenizer(command, sources)).save(stage)
    tokenizer = load_tokenizer(stage)  # the one that --resume will find
    train = command.train
    with bytes_bar("encoding") as update:
        encode_corpus(
            sources.documents(),
            tokenizer,
            stage / DATA,
            validation_fraction=command.validation_fraction,
            seed=train.seed,
            progress=update,
        )
    text, validation = (TokenFile.open(stage / DATA, split) for split in ("train", "validation"))
    make_batches(text.texts, train)
    for part in validation.sources.values() or [validation]:
        sequential_batches(part.tokens, batch_size=train.batch_size, seq_len=train.seq_len)
    if initial:  # whose tokenizer may have tokens that the model lacks
        for file in (text, validation):
            check_tokens(initial[0].config, file.tokens)
    write_run(command, stage, vocab_size=tokenizer.vocab_size)


def _tokenizer(command: "Train", sources: Sources) -> Any:
    from llama_minimal.tokenizer import Tokenizer, load_tokenizer

    if command.tokenizer:
        tokenizer = load_tokenizer(command.tokenizer)
        if command.vocab_size not in (type(command)().vocab_size, tokenizer.vocab_size):
            raise ValueError(
                f"--vocab-size {command.vocab_size} contradicts --tokenizer {command.tokenizer}, which has "
                f"{tokenizer.vocab_size} tokens; leave one out"
            )
        if command.pattern != type(command)().pattern:
            raise ValueError(f"--pattern {command.pattern} is for a new tokenizer; leave it or --tokenizer out")
        return tokenizer
    tokenizer = Tokenizer.train(sources.texts(), vocab_size=command.vocab_size, pattern=command.pattern)
    if tokenizer.vocab_size < command.vocab_size:
        warn(
            f"the corpus is too small for a vocabulary of {command.vocab_size} tokens: it gives "
            f"{tokenizer.vocab_size}, and so many the model gets"
        )
    return tokenizer


def _move_in(stage: Path, out: Path) -> None:
    # run.json first, by which an unfinished start is known for what it is; then what readers open last.
    files = [path for path in stage.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name != RUN, path.name == "corpus.json", path)):
        target = out / path.relative_to(stage)
        target.parent.mkdir(exist_ok=True)
        shutil.move(path, target)
