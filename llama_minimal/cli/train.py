"""``llama-minimal train``: text in, a model folder out."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from llama_minimal import cost
from llama_minimal.cli.console import bytes_bar, human, warn
from llama_minimal.cli.model_flags import ModelFlags
from llama_minimal.cli.report import print_report, print_samples
from llama_minimal.config import read_json
from llama_minimal.files import replace_file
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import PatternName

RUN = "run.json"  # the flags of a run, for --resume
TOKENIZER_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a LLaMA on text, and save model and tokenizer in one folder.

    Stop with Ctrl-C whenever you like: the run is saved, and goes on with --resume.
    Several processes: torchrun --nproc-per-node 2 -m llama_minimal train …
    """

    corpus: str = "python-docs"
    """python-docs, python-source, valley, a text file, a folder, a glob, or an http(s) address."""
    out: Path = Path("runs/train")
    """Folder for the model, its snapshots and its metrics."""
    preset: str = "small"
    """Named model shape to start from; `llama-minimal info` lists them."""
    vocab_size: int = 1024
    """Tokens of the tokenizer that is trained on the corpus."""
    pattern: PatternName = "llama"
    """How that tokenizer cuts text into pieces: as this package does, GPT-2 or Llama 3."""
    tokenizer: Path | None = None
    """Use this tokenizer instead (a file or a model folder)."""
    text_field: str = "text"
    """Field of the lines of a .jsonl file that holds the text."""
    document_separator: str | None = None
    """Line that separates the documents of a text file, such as: <|endoftext|>"""
    validation_fraction: float = 0.1
    """Share of the documents to validate on."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    samples: int = 3
    """Texts to write at the end."""
    device: str | None = None
    """cuda or cpu; left out: cuda if there is one."""
    tensorboard: bool = False
    """Also write TensorBoard's event files."""
    resume: bool = False
    """Go on from the newest snapshot in --out, with the values of that run."""
    overwrite: bool = False
    """Delete the run that is in --out, and start anew."""

    def run(self) -> None:
        import torch

        from llama_minimal.parallel import open_mesh

        self.model.apply_to(self.preset, vocab_size=self.vocab_size)  # refuse an impossible shape before any work
        with open_mesh(torch.device(self.device) if self.device else None) as mesh:
            if mesh.is_main:
                _prepare_folder(self)
                _prepare_data(self)
            mesh.wait()
            _train(self, mesh)


def with_saved_values(command: Train) -> Train:
    """Return the values of the run that ``--resume`` goes on from, to stand in for flags left out."""
    path = command.out / RUN
    if not path.exists():
        raise ValueError(f"--resume: there is no run in {command.out}; leave --resume out to start one")
    values = read_json(path)
    values["model"] = ModelFlags(**values["model"])
    values["train"] = TrainConfig(**values["train"])
    values["tokenizer"] = Path(values["tokenizer"]) if values["tokenizer"] else None
    return Train(**values, out=command.out, resume=True)


def _prepare_folder(command: Train) -> None:
    """Make the run's folder and note its flags in it; refuse to touch another run."""
    if (command.out / RUN).exists() and not command.resume:
        if not command.overwrite:
            raise ValueError(
                f"{command.out} holds a run already; go on with --resume, start anew with --overwrite, "
                f"or give another --out"
            )
        shutil.rmtree(command.out)
    command.out.mkdir(parents=True, exist_ok=True)
    _check_disk_space(command)
    skip = {"out", "resume", "overwrite"}
    values = {f.name: getattr(command, f.name) for f in fields(command) if f.name not in skip}
    values |= {"model": asdict(command.model), "train": asdict(command.train)}
    replace_file(command.out / RUN, json.dumps(values, indent=2, default=str).encode("utf-8"))


def _check_disk_space(command: Train) -> None:
    n = sum(cost.parameters(command.model.apply_to(command.preset, vocab_size=command.vocab_size)).values())
    needed = n * (4 + (command.train.keep_snapshots + 1) * 12)  # the model; weights and two moments each
    free = shutil.disk_usage(command.out).free
    if free < needed:
        raise OSError(
            f"{command.out} has {human(free, 'B')} free, but the model and its snapshots need {human(needed, 'B')}; "
            f"make room, give another --out or a smaller --keep-snapshots"
        )


def _prepare_data(command: Train) -> None:
    """Train the tokenizer and encode the corpus, unless a run that is resumed has done so."""
    from llama_minimal.data import documents, encode_corpus
    from llama_minimal.tokenizer import Tokenizer, load_tokenizer

    read = partial(documents, command.corpus, text_field=command.text_field, separator=command.document_separator)
    if (command.out / "data" / "corpus.json").exists():
        return
    if command.tokenizer:
        tokenizer = load_tokenizer(command.tokenizer)
    else:
        with bytes_bar("reading") as update:
            texts = _first_bytes(read(progress=update), TOKENIZER_BYTES)
            tokenizer = Tokenizer.train(texts, vocab_size=command.vocab_size, pattern=command.pattern)
    tokenizer.save(command.out)
    with bytes_bar("encoding") as update:
        encode_corpus(
            read(),
            tokenizer,
            command.out / "data",
            validation_fraction=command.validation_fraction,
            seed=command.train.seed,
            progress=update,
        )


def _first_bytes(documents: Iterator[Any], limit: int) -> Iterator[str]:
    """Yield texts until there is enough to learn a vocabulary from."""
    for document in documents:
        for text in document.chunks():
            yield text
            limit -= len(text)
            if limit <= 0:
                return


def _train(command: Train, mesh: Any) -> None:
    from llama_minimal.checkpoint import save
    from llama_minimal.data import TokenFile
    from llama_minimal.model import build
    from llama_minimal.tokenizer import load_tokenizer
    from llama_minimal.training import Trainer

    tokenizer = load_tokenizer(command.out)
    train, validation = (TokenFile.open(command.out / "data", split) for split in ("train", "validation"))
    config = command.model.apply_to(command.preset, vocab_size=tokenizer.vocab_size)
    model = build(config, device=mesh.device, seed=command.train.seed)
    trainer = Trainer(
        model,
        train.tokens,
        command.train,
        out=command.out,
        validation=validation.tokens,
        mesh=mesh,
        tensorboard=command.tensorboard,
    )
    if command.resume and trainer.resume() and mesh.is_main:
        print(f"resumed at step {trainer.step} of {command.train.steps}")
    if mesh.is_main:
        size = human(sum(p.numel() for p in model.parameters()))
        print(f"{size} parameters, {human(train.n_tokens)} training tokens, on {mesh.device}, {mesh.size} process(es)")
    if not _run_with_bar(trainer, command, mesh):
        return
    loss = trainer.validation_loss or trainer.validate()  # every process takes part
    if not mesh.is_main:
        return
    save(model, command.out, tokenizer)
    print_report(loss, train, validation)
    print_samples(model, tokenizer, n=command.samples)
    print(f"\nsaved in {command.out}; write more with: llama-minimal generate {command.out} --prompt 'Once'")


def _run_with_bar(trainer: Any, command: Train, mesh: Any) -> bool:
    """Train with a progress bar; return whether the run came to its end."""
    interval = 0.2 if sys.stderr.isatty() else 15
    steps = command.train.steps
    with (
        tqdm(total=steps, initial=trainer.step, unit="step", disable=not mesh.is_main, mininterval=interval) as bar,
        _stop_on_signal(trainer),
    ):
        best = ""
        for metrics in trainer.run():
            if "validation_loss" in metrics:
                best = f", validation {metrics['validation_loss']:.3f}"
            speed = human(metrics["tokens_per_second"], "tokens/s")
            bar.set_postfix_str(f"loss {metrics['loss']:.3f}{best}, {speed}", refresh=False)
            bar.update()
    if trainer.step < steps and mesh.is_main:
        print(f"stopped after step {trainer.step} of {steps}, and saved; go on with:")
        print(f"  llama-minimal train --out {command.out} --resume")
    return trainer.step == steps


@contextmanager
def _stop_on_signal(trainer: Any) -> Iterator[None]:
    """Let the step that is being computed finish, then stop; a second Ctrl-C stops at once."""

    def stop(number: int, _frame: object) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True
        warn("stopping after this step; once more to stop at once, without saving")

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
