"""Where and how a model can be trained: which layouts fit, how long each takes, and why the others fail."""

# T tokens of a sequence, P processes, M micro-batches

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, check_number
from llama_minimal.cost.counts import flops_per_token
from llama_minimal.cost.layout import Layout, Work, why_not
from llama_minimal.cost.machines import Machine
from llama_minimal.cost.peak import Moment, peak
from llama_minimal.cost.traffic import traffic

USABLE = 0.9
"""Share of a GPU's memory for tensors; the rest is for the driver, the libraries' own buffers and gaps."""
MOST_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Say what a layout needs, whether it fits, and how fast it is."""

    layout: Layout
    work: Work | None = None
    """As it fits and is fastest; else the smallest that there is."""
    alive: Moment | None = None
    """What the fullest process holds at its fullest moment, in bytes."""
    moment: str = ""
    why_not: str = ""
    """Why it cannot be; empty if it can."""
    seconds: float = float("inf")
    """Of one step."""
    utilization: float = 0.0
    """Share of the machines' arithmetic that the model's own operations make use of (MFU)."""

    @property
    def needs(self) -> float:
        """Bytes at the fullest moment."""
        return sum(self.alive.values()) if self.alive else 0.0


def plans(
    config: LlamaConfig,
    machine: Machine,
    *,
    gpus: int,
    batch_tokens: float = 4e6,
    seq_len: int | None = None,
    precision: str = "bf16",
    utilization: float = 0.6,
) -> list[Plan]:
    """Return a plan for each layout, the fastest first and those that cannot be last.

    Args:
        batch_tokens: of one step, over all processes. LLaMA's are 4 million (§2.3).
        seq_len: tokens of a sequence; None means the model's longest.
        utilization: share of the machine's arithmetic that the products reach while nothing waits and nothing is
            computed twice. What a layout then loses is its own.

    Raises:
        ValueError: if a number is out of range.
    """
    seq_len = check_integer("seq_len", config.max_seq_len if seq_len is None else seq_len)
    check_integer("gpus", gpus)
    if not 0 < check_number("utilization", utilization) <= 1:
        raise ValueError(f"utilization={utilization} must be above 0 and at most 1, such as 0.5")
    sequences = int(check_number("batch_tokens", batch_tokens) // seq_len)
    if sequences < 1:
        raise ValueError(f"batch_tokens={batch_tokens:g} is less than one sequence of {seq_len} tokens; give more")
    options = {"seq_len": seq_len, "precision": precision}
    found = [_plan(config, machine, one, sequences, options, utilization) for one in layouts(gpus)]
    return sorted(found, key=lambda plan: (bool(plan.why_not), plan.seconds, plan.needs))


def layouts(gpus: int) -> Iterator[Layout]:
    """Yield every way to arrange so many processes: data × tensor × pipeline, with and without shards.

    Example:
        >>> [str(layout) for layout in layouts(2)]
        ['2 × 1 × 1', '2 sharded × 1 × 1', '1 × 1 × 2', '1 × 2 × 1']
    """
    for tensor in (n for n in range(1, gpus + 1) if gpus % n == 0):
        for pipeline in (n for n in range(1, gpus // tensor + 1) if gpus // tensor % n == 0):
            data = gpus // tensor // pipeline
            for shard in (False, True)[: 1 + (data > 1)]:
                yield Layout(data=data, tensor=tensor, pipeline=pipeline, shard=shard)


def seconds_per_step(
    config: LlamaConfig, work: Work, layout: Layout, machine: Machine, *, utilization: float
) -> tuple[float, float]:
    """Return the seconds of a step, and the share of the arithmetic that they make use of.

    The products: 3 forward passes, 4 with checkpointing, at the stated utilization. A pipeline waits for (P − 1)/M of
    that (Narayanan et al. 2021, §2.2). Traffic along ``tensor`` and ``pipeline`` is waited for; that along ``data``
    runs beside the products, and only what is left over is waited for.
    """
    of_token = sum(flops_per_token(config, context=(work.seq_len + 1) / 2).values())
    forward = of_token * work.sequences * work.seq_len / (layout.tensor * layout.pipeline)
    compute = (4 if work.checkpointing else 3) * forward / (machine.flops * utilization)
    compute *= 1 + (layout.pipeline - 1) / work.micro_batches
    sent = traffic(config, work, layout)
    waits = sent["tensor"] / (machine.link if layout.tensor <= machine.node else machine.network)
    waits += sent["pipeline"] / (machine.link if layout.size <= machine.node else machine.network)
    beside = sent["data"] / (machine.link if layout.size <= machine.node else machine.network)
    seconds = max(compute, beside) + waits
    return seconds, 3 * forward / machine.flops / seconds


def _plan(
    config: LlamaConfig, machine: Machine, layout: Layout, sequences: int, options: dict, utilization: float
) -> Plan:
    """Return the fastest way to work in a layout that fits, or why there is none."""
    reason = why_not(config, layout)
    if not reason and sequences < layout.data:
        reason = f"a step has {sequences} sequences, fewer than data={layout.data}"
    if reason:
        return Plan(layout=layout, why_not=reason)
    best, least = None, None
    for work in _works(sequences // layout.data, options):
        moment, alive = peak(config, work, layout)
        needs = sum(alive.values())
        if least is None or needs < least.needs:
            least = Plan(layout=layout, work=work, alive=alive, moment=moment)
        if needs <= USABLE * machine.memory:
            seconds, share = seconds_per_step(config, work, layout, machine, utilization=utilization)
            if best is None or seconds < best.seconds:
                fits = {"work": work, "alive": alive, "moment": moment, "seconds": seconds, "utilization": share}
                best = Plan(layout=layout, **fits)
    return best or replace(least, why_not=_too_much(least, machine))


def _works(sequences: int, options: dict) -> Iterator[Work]:
    most = min(MOST_MICRO_BATCH, sequences)
    sizes = sorted({*(2**i for i in range(most.bit_length())), most})
    for checkpointing in (False, True):
        for size in sizes:
            yield Work(sequences=sequences, micro_batch=size, checkpointing=checkpointing, **options)


def _too_much(plan: Plan, machine: Machine) -> str:
    what, size = max(plan.alive.items(), key=lambda part: part[1])
    how = " even with checkpointing" if plan.work.checkpointing else ""
    if what == "gradients" and plan.layout.shard and plan.work.micro_batches > 1:
        what = f"gradients, whole through {plan.work.micro_batches} micro-batches,"
    return (
        f"needs {plan.needs / 1e9:.0f} GB{how} ({what} {size / 1e9:.0f}), "
        f"and of {machine.memory / 1e9:.0f} GB {USABLE * machine.memory / 1e9:.0f} are for tensors"
    )
