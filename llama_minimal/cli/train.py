"""``llama-minimal train``: text in, a model folder out."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from llama_minimal import cost
from llama_minimal.cli.console import check_counts, human, warn
from llama_minimal.cli.model_flags import ModelFlags
from llama_minimal.cli.processes import is_launched
from llama_minimal.cli.report import print_report, print_samples, print_sources
from llama_minimal.config.checks import settle
from llama_minimal.run_folder import DATA, SNAPSHOTS
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import PatternName

NEXT_TOKEN = "next-token"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a LLaMA on text, and save model and tokenizer in one folder.

    Stop with Ctrl-C whenever you like: the run is saved, and goes on with --resume.
    Several processes: torchrun --nproc-per-node 2 -m llama_minimal train …
    With torchrun --max-restarts 1 a run that lost a process goes on from its newest snapshot by itself.
    """

    corpus: tuple[str, ...] = ("python-docs",)
    """python-docs, python-source, valley, course, a text file, a folder, a glob, an http(s) address, or NAME:ARGUMENT
    of a corpus that an installed package brings; or several, which --weights mixes."""
    deduplicate: bool = False
    """Leave out documents that repeat an earlier one, word for word or nearly so."""
    redact: bool = False
    """Replace personal details in the text by their kinds: [EMAIL], [PHONE], [CARD], [ADDRESS], [NAME], [CODE]."""
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
    objective: str = NEXT_TOKEN
    """What to make smaller: the loss of the next token, or an objective of this name that an installed package
    brings."""
    init_from: str | None = None
    """Begin with the weights, shape and tokenizer of this model: a folder, a hub id, or: course."""
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
    """cuda, mps (Apple) or cpu; left out: the first of these that is there."""
    tensor: int = 1
    """Several processes: so many share each matrix among them."""
    pipeline: int = 1
    """Several processes: so many share the layers among them. What is left over shares the sequences."""
    tensorboard: bool = False
    """Also write TensorBoard's event files."""
    resume: bool = False
    """Go on from the newest snapshot in --out, with the values of that run; --steps may be more."""
    overwrite: bool = False
    """Delete the run that is in --out, and start anew; other files stay."""

    def __post_init__(self) -> None:
        # One name will do; and run.json gives a list back, or of older runs one name.
        settle(self, "corpus", (self.corpus,) if isinstance(self.corpus, str) else tuple(self.corpus))
        check_counts(self, "samples", least=0)
        check_counts(self, "tensor", "pipeline")

    def run(self) -> None:
        from llama_minimal.cli.start import started
        from llama_minimal.cli.train_checks import as_flags, check_flags
        from llama_minimal.parallel import open_mesh, was_begun

        check_flags(self)
        with ExitStack() as stack:
            with as_flags():
                mesh = stack.enter_context(open_mesh(self.device, tensor=self.tensor, pipeline=self.pipeline))
            # When torchrun starts the processes once more, what they had begun goes on.
            command = replace(self, resume=True, overwrite=False) if mesh.first(was_begun) else self
            status = _train(command, mesh, stack.enter_context(started(command, mesh)))
        if status:
            sys.exit(status)


def _train(command: Train, mesh: Any, initial: tuple[Any, Any] | None) -> int:
    """Train, save and report; return the status that the process should end with."""
    from llama_minimal.cli.start import write_run
    from llama_minimal.cli.train_checks import objective_of
    from llama_minimal.data import TokenFile
    from llama_minimal.tokenizer import load_tokenizer
    from llama_minimal.training import Trainer

    tokenizer = load_tokenizer(command.out)
    train, validation = (TokenFile.open(command.out / DATA, split) for split in ("train", "validation"))
    train.check_tokenizer(tokenizer)
    model = _model(command, mesh, tokenizer, initial)
    trainer = Trainer(
        model,
        train.texts,
        command.train,
        out=command.out,
        validation=validation.texts,
        mesh=mesh,
        tensorboard=command.tensorboard,
        objective=objective_of(command),
    )
    if command.resume and trainer.resume() and mesh.is_main:
        write_run(command, command.out, vocab_size=tokenizer.vocab_size)
        print(f"resumed at step {trainer.step} of {command.train.steps}")
    if mesh.is_main:
        size = human(sum(cost.parameters(model.config).values()))
        where = f"{mesh.device}, {mesh.size} process(es){_layout(mesh, command.train)}"
        print(f"{size} parameters, {human(train.n_tokens)} training tokens, on {where}")
    signals = _run_with_bar(trainer, command, mesh)
    if not trainer.finished:
        return 128 + (signals or [signal.SIGINT])[0]  # as the shell reports a process that a signal ended
    _finish(command, trainer, mesh, tokenizer, train, validation)
    return 0


def _layout(mesh: Any, train: TrainConfig) -> str:
    """Say what the processes share: matrices, layers, sequences."""
    sizes = {name: mesh.size_of(name) for name in ("tensor", "pipeline", "data")}
    words = " × ".join(f"{name} {n}" for name, n in sizes.items() if n > 1)
    return f": {words}{', parameters sharded' if train.shard and sizes['data'] > 1 else ''}" if words else ""


def _model(command: Train, mesh: Any, tokenizer: Any, initial: tuple[Any, Any] | None) -> Any:
    """Return the model to train: a new one, or that of ``--init-from``, or the empty shape of one that goes on."""
    from llama_minimal.checkpoint import open_checkpoint
    from llama_minimal.model import build
    from llama_minimal.snapshot import snapshots

    if initial:
        return initial[0].to(mesh.device).train()
    if command.init_from:
        config = open_checkpoint(snapshots(command.out / SNAPSHOTS)[-1]).config
    else:
        config = command.model.apply_to(command.preset, vocab_size=tokenizer.vocab_size)
    return build(config, device=mesh.device, seed=command.train.seed)


def _finish(command: Train, trainer: Any, mesh: Any, tokenizer: Any, train: Any, validation: Any) -> None:
    step = trainer.load_best() if command.train.keep_best else None
    loss = trainer.best.loss if step else trainer.validation_loss
    if loss is None or validation.sources:
        loss = trainer.validate()  # every process takes part
    # What the first process still has to do may take long; the others wait for it.
    mesh.first(lambda: _report(command, trainer, tokenizer, train, validation, loss=loss, best=step))


def _report(command: Train, trainer: Any, tokenizer: Any, *texts: Any, loss: float, best: int | None) -> None:
    from llama_minimal.checkpoint import save

    if trainer.step < command.train.steps:
        print(f"stopped after step {trainer.step}: no lower validation loss in {trainer.best.since} validations")
    if best and best < trainer.step:
        print(f"the validation loss was lowest after step {best}, and the model of that step is saved")
    model = trainer.whole_model(best)
    save(model, command.out, tokenizer)
    if command.objective == NEXT_TOKEN:
        print_report(loss, *texts)
        print_sources(trainer, *texts)
    else:
        print(f"\nvalidation loss, as {command.objective} counts it: {loss:.4f}")
    print_samples(model, tokenizer, n=command.samples)
    print(f"\nsaved in {command.out}; write more with: llama-minimal generate {command.out} --prompt 'Once'")


def _run_with_bar(trainer: Any, command: Train, mesh: Any) -> list[int]:
    """Train with a progress bar; return the signals that ended it before its time."""
    interval = 0.2 if sys.stderr.isatty() else 15
    steps = command.train.steps
    with (
        tqdm(total=steps, initial=trainer.step, unit="step", disable=not mesh.is_main, mininterval=interval) as bar,
        stop_on_signal(trainer, mesh) as signals,
    ):
        validation = ""
        for metrics in trainer.run():
            if "validation_loss" in metrics:
                validation = f", validation {metrics['validation_loss']:.3f}"
            speed = human(metrics["tokens_per_second"], "tokens/s")
            bar.set_postfix_str(f"loss {metrics['loss']:.3f}{validation}, {speed}", refresh=False)
            bar.update()
    if not trainer.finished and mesh.is_main:
        print(f"stopped after step {trainer.step} of {steps}, and saved; go on with:")
        several = f"torchrun --nproc-per-node {mesh.size} -m llama_minimal"
        program = several if mesh.size > 1 else "llama-minimal"
        print(f"  {program} train --out {shlex.quote(str(command.out))} --resume")
    return signals


@contextmanager
def stop_on_signal(trainer: Any, mesh: Any) -> Iterator[list[int]]:
    """Let the step that is being computed finish, then stop; a second Ctrl-C stops at once.

    Under torchrun it does not: one Ctrl-C may come twice, from the terminal and from torchrun, which ends whoever takes
    too long.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if trainer.stop_requested and not is_launched():
            raise KeyboardInterrupt
        if not received and mesh.is_main:
            once_more = "" if is_launched() else "; once more to stop at once, without saving"
            warn(f"stopping after this step{once_more}")
        trainer.stop_requested = True
        received.append(number)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
