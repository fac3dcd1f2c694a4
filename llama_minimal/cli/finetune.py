"""``llama-minimal finetune``: a file of examples in, a tuned model and a report out."""

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from llama_minimal.cli.console import table
from llama_minimal.cli.processes import is_one_of_several
from llama_minimal.settings import TuneConfig

_OUT = Path("runs/finetune")


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Tune a model on a file of examples, by itself: check, search, train, measure, report.

    The file says what is learned: texts with labels, prompts with completions, or conversations. What you do not say
    with --method, --rank, --lr and --steps is searched on a part of the examples, and judged on another part that was
    not looked at before. Stop with Ctrl-C whenever you like: the same command goes on, or --out and --resume alone.
    """

    data: tyro.conf.Positional[str]
    """A .jsonl, .json, .csv or .tsv file with text and label, prompt and completion, or messages."""
    base: str = "course"
    """The model to tune: a folder, a hub id, or: course."""
    out: Path = _OUT
    """Folder for the tuned model, report.html and report.json; with adapters also for them alone, in: adapter."""
    tune: tyro.conf.OmitArgPrefixes[TuneConfig] = field(default_factory=TuneConfig)
    template: Path | None = None
    """Chat template (a Jinja file) for conversations; left out: the base model's own."""
    replay: str | None = None
    """Text to train on besides, so that the model does not forget it: what `train` takes as --corpus."""
    device: str | None = None
    """cuda, mps (Apple) or cpu; left out: the first of these that is there."""
    resume: bool = False
    """Go on with what is in --out, with the values that it was begun with."""
    overwrite: bool = False
    """Delete the fine-tuning that is in --out, and start anew; other files stay."""

    def run(self) -> None:
        if is_one_of_several():
            raise ValueError("finetune runs in one process; start it without torchrun")
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a fine-tuning and --overwrite deletes it; give one of them")
        begun = time.monotonic()
        try:
            self._run(begun)
        except KeyboardInterrupt:
            self._end(signal.SIGINT)
        except _StoppedError as stopped:
            self._end(stopped.number)

    def _end(self, number: int) -> None:
        from llama_minimal.finetuning.state import is_tuning

        command = f"llama-minimal finetune --out {shlex.quote(str(self.out))} --resume"
        print(f"stopped; go on with: {command}" if is_tuning(self.out) else "stopped before anything was written")
        sys.exit(128 + number)

    def _run(self, begun: float) -> None:
        from llama_minimal.files import made_folder
        from llama_minimal.finetuning.material import file_checksum, gather
        from llama_minimal.finetuning.state import State, check_folder, remove_tuning
        from llama_minimal.finetuning.tool import FineTuning
        from llama_minimal.locks import hold_folder

        command = self._command() | {"sha256": file_checksum(Path(self.data).expanduser())}
        check_folder(self.out)
        if not self.overwrite:
            state = State(self.out, command)
            if state["finished"]:
                _finish(self.out, again=True)
                return
        material = gather(
            self.data,
            self.base,
            seed=self.tune.seed,
            template=self.template,
            replay=self.replay,
            device=self.device,
            say=print,
        )
        with made_folder(self.out), hold_folder(self.out):
            if self.overwrite:
                remove_tuning(self.out)
                state = State(self.out, command)
            tuning = FineTuning(material, self.tune, state, begun=begun, say=print, train=_train)
            tuning.run()
        _finish(self.out)

    def _command(self) -> dict[str, Any]:
        """Return the values that may not change when it goes on, by the names of their flags."""
        values = {"data": self.data, "base": self.base, "template": self.template, "replay": self.replay}
        found = {name: value if value is None else str(value) for name, value in values.items()} | asdict(self.tune)
        del found["minutes"]  # how many steps there is time for is noted once it is known
        return found


def saved_finetune(args: Sequence[str]) -> Finetune | None:
    """Return the values of the fine-tuning that arguments ask to resume, or None if they ask for something else.

    Raises:
        ValueError: if there is none.
    """
    if args[:1] != ["finetune"] or "--resume" not in args or {"--help", "-h"} & set(args):
        return None
    from llama_minimal.config import read_json
    from llama_minimal.finetuning.state import STATE, is_tuning

    place, _ = tyro.cli(_Place, args=args[1:], return_unknown_args=True, prog="llama-minimal finetune")
    if not place.resume:
        return None
    if not is_tuning(place.out):
        raise ValueError(f"--resume: there is no fine-tuning in {place.out}; leave --resume out to start one")
    values = dict(read_json(place.out / STATE)["command"])
    values.pop("sha256", None)
    tune = TuneConfig(**{name: values.pop(name) for name in asdict(TuneConfig()) if name in values})
    values["template"] = values["template"] and Path(values["template"])
    return Finetune(**values, tune=tune, out=place.out, resume=True)


@dataclass(frozen=True, kw_only=True)
class _Place:
    out: Path = _OUT
    resume: bool = False


class _StoppedError(Exception):
    """Say that a signal ended a training after the step that was being computed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _train(trainer: Any, title: str) -> None:
    """Train with a progress bar; a signal ends it after the step."""
    from llama_minimal.cli.train import stop_on_signal

    interval = 0.2 if sys.stderr.isatty() else 15
    with (
        tqdm(
            desc=title, total=trainer.config.steps, initial=trainer.step, unit="step", leave=False, mininterval=interval
        ) as bar,
        stop_on_signal(trainer, trainer.mesh) as signals,
    ):
        for metrics in trainer.run():
            bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
            bar.update()
    if signals and not trainer.finished:
        raise _StoppedError(signals[0])


def _finish(out: Path, *, again: bool = False) -> None:
    from llama_minimal.config import read_json
    from llama_minimal.finetuning.state import PAGE, REPORT

    report = read_json(out / REPORT)
    if again:
        print(f"{out} holds this fine-tuning already, finished:")
    rows = [(one["name"], f"{one['score']:.1f}  ({one['low']:.1f} to {one['high']:.1f})") for one in report["scores"]]
    print(f"\n{report['task']['metric']} on {report['n_measured']:,} test examples (95 % interval)")
    print(table(rows))
    place = shlex.quote(str(out))
    use = {
        "labels": f"in Python: llama_minimal.finetuning.classify(*llama_minimal.load({str(out)!r}), texts)",
        "pairs": f"llama-minimal generate {place} --prompt TEXT",
        "chat": f"llama-minimal chat {place}",
    }[report["task"]["kind"]]
    print(f"\n{report['verdict']}\n\nThe model is in {out}; use it with: {use}\nThe report: {out / PAGE}")
