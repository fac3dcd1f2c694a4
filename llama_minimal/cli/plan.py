"""``llama-minimal plan``: which layouts of a training fit which machines, how long they take, and why others fail."""

from dataclasses import dataclass, fields
from typing import Literal

import tyro

from llama_minimal import cost
from llama_minimal.cli.console import check_counts, human
from llama_minimal.cli.models import find_config
from llama_minimal.cli.units import amount
from llama_minimal.config import LlamaConfig

_MOST_GPUS = 100_000
# Energy of the whole building for that of its machines: large data centers, llmbook.apartsin.com, §55.1.
_OVERHEAD = (1.1, 1.3)
_HEAD = ("data × tensor × pipeline", "micro", "again", "holds most", "needs", "MFU", "s/step", "days")


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Plan a training: every layout over so many GPUs, fastest first, and why the others fail. Or, with --serve, what
    it takes to write text.

    `plan llama-65b --gpus 64 --memory 80GB --tokens 1.4T`
    """

    model: tyro.conf.Positional[str]
    """A preset, or a model as `generate` takes it."""
    gpus: int = 8
    """How many, which data, tensor and pipeline share out among them."""
    machine: str = "a100-80gb"
    """a100-40gb, a100-80gb, h100-80gb, h200-141gb, rtx-4090 or l4-24gb: memory, speed, links, power."""
    memory: str | None = None
    """Of each GPU, such as 80GB; left out: the machine's."""
    tokens: str | None = None
    """Of the whole training, such as 1.4T; left out: no days."""
    batch_tokens: str = "4194304"
    """Of one step, such as 4M; LLaMA's are 2,048 sequences of 2,048."""
    seq_len: int | None = None
    """Tokens of a sequence; left out: the model's context."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the matrix products."""
    utilization: float = 0.6
    """Share of the machine's arithmetic that products reach while nothing waits."""
    serve: bool = False
    """Plan the writing of text instead."""
    batch: int = 1
    """With --serve: texts at a time."""
    context: int | None = None
    """With --serve: tokens of each; left out: the model's context."""
    cache: Literal["bf16", "int8"] = "bf16"
    """With --serve: format of keys and values."""

    def __post_init__(self) -> None:
        check_counts(self, "gpus", "seq_len", "batch", "context")
        if self.gpus > _MOST_GPUS:
            raise ValueError(f"--gpus {self.gpus} is more than anybody has; give at most {_MOST_GPUS:,}")
        if self.machine not in cost.MACHINES:
            raise ValueError(f"--machine {self.machine} is unknown; known are {', '.join(cost.MACHINES)}")
        if not 0 < self.utilization <= 1:
            raise ValueError(f"--utilization {self.utilization} must be above 0 and at most 1, such as 0.6")
        for name, of in (("serve", ("batch", "context", "cache")), ("train", ("tokens", "seq_len"))):
            given = [flag for flag in of if getattr(self, flag) != _default(flag)]
            if given and self.serve is (name == "train"):
                flag = "--" + given[0].replace("_", "-")
                raise ValueError(f"{flag} is for {'writing; give --serve, too' if name == 'serve' else 'training'}")

    def run(self) -> None:
        memory = None if self.memory is None else amount("--memory", self.memory, unit="B", example="80GB")
        machine, config = cost.machine(self.machine, memory=memory), find_config(self.model)
        n = human(sum(cost.parameters(config).values()))
        usable = human(cost.USABLE * machine.memory, "B")
        print(f"{self.model}: {n} parameters, {self.gpus} × {machine.name} of {human(machine.memory, 'B')}", end=", ")
        print(f"{usable} of them for tensors")
        length = self.context or self.seq_len or 0
        if length > config.max_seq_len:
            has = f"{self.model} has a context of {config.max_seq_len:,} tokens"
            print(f"warning: {has}; {length:,} are planned as if it had a longer one")
        if self.serve:
            self._serve(config, machine)
        else:
            self._train(config, machine)

    def _train(self, config: LlamaConfig, machine: cost.Machine) -> None:
        tokens = None if self.tokens is None else amount("--tokens", self.tokens)
        batch_tokens = amount("--batch-tokens", self.batch_tokens, example="4M")
        seq_len = self.seq_len or config.max_seq_len
        options = {"seq_len": seq_len, "precision": self.precision, "utilization": self.utilization}
        found = cost.plans(config, machine, gpus=self.gpus, batch_tokens=batch_tokens, **options)
        print(
            f"a step: {int(batch_tokens // seq_len):,} sequences of {seq_len:,} tokens, {self.precision}; products at",
            end=" ",
        )
        print(f"{self.utilization:.0%} of {machine.flops / 1e12:.0f} TFLOP/s\n")
        fitting = [plan for plan in found if not plan.why_not]
        if fitting:
            rows = [_HEAD, *(_row(plan, seq_len, tokens) for plan in fitting)]
            print(_columns(rows if tokens else [row[:-1] for row in rows]))
            print("\nmicro: sequences in memory at once; again: with checkpointing; MFU: share of the arithmetic used")
        else:
            print("no layout fits; more GPUs, or with more memory, may")
        failing = [(str(plan.layout), plan.why_not) for plan in found if plan.why_not]
        if failing:
            print("\ndo not fit\n" + _columns(failing))
        if fitting and tokens:
            _print_bill(fitting[0], machine, seq_len, tokens)

    def _serve(self, config: LlamaConfig, machine: cost.Machine) -> None:
        context = self.context or config.max_seq_len
        print(f"writing {self.batch} text(s) of {context:,} tokens, cache in {self.cache}; speeds are upper limits\n")
        rows = [("weights in", "weights", "cache", "of each GPU", "tokens/s at most", "limited by")]
        for form in ("bf16", "int8", "int4"):
            options = {"batch": self.batch, "context": context, "form": form, "cache_form": self.cache}
            need = cost.serving(config, machine, tensor=self.gpus, **options)
            share = (need.weights + need.cache) / machine.memory
            fits = f"{share:.0%}" + ("" if need.fits else ", does not fit")
            speed = f"{need.tokens_per_second:,.0f}" if need.fits else "-"
            rows.append((form, human(need.weights, "B"), human(need.cache, "B"), fits, speed, need.limit))
        print(_columns(rows))


def _default(name: str) -> object:
    return next(field.default for field in fields(PlanCommand) if field.name == name)


def _row(plan: cost.Plan, seq_len: int, tokens: float | None) -> tuple[str, ...]:
    days = f"{_hours(plan, seq_len, tokens) / 24:,.1f}" if tokens else ""
    return (
        str(plan.layout),
        str(plan.work.rows),
        "yes" if plan.work.checkpointing else "no",
        plan.moment,
        human(plan.needs, "B"),
        f"{plan.utilization:.0%}",
        f"{plan.seconds:.3g}",
        days,
    )


def _hours(plan: cost.Plan, seq_len: int, tokens: float) -> float:
    steps = tokens / (plan.work.sequences * plan.layout.data * seq_len)
    return steps * plan.seconds / 3600


def _print_bill(plan: cost.Plan, machine: cost.Machine, seq_len: int, tokens: float) -> None:
    hours = _hours(plan, seq_len, tokens)
    gpu_hours = plan.layout.size * hours
    print(f"\nfastest: {plan.layout}, {hours / 24:,.1f} days, {human(gpu_hours)} GPU-hours", end="")
    low, high = (f"{overhead * gpu_hours * machine.power / 1e6:,.3g}" for overhead in _OVERHEAD)
    print(f"; {low} to {high} MWh at full power, building included", end="")
    if machine.rent:
        low, high = (human(gpu_hours * rent) for rent in machine.rent)
        print(f"; {low} to {high} dollars of rent", end="")
    print()


def _columns(rows: list[tuple[str, ...]]) -> str:
    """Align the cells of each column: the first, and texts, on the left, numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_text = [i == 0 or len(widths) == 2 or (i == 3 and len(widths) > 6) for i in range(len(widths))]
    lines = []
    for row in rows:
        cells = zip(row, widths, is_text, strict=True)
        lines.append("  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells))
    return "\n".join(f"  {line}".rstrip() for line in lines)
