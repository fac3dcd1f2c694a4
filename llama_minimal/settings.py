"""What a user chooses for a run, checked once: how to train, and how to write."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from llama_minimal.config import Precision
from llama_minimal.config.checks import check_integer, check_one_of, is_number, settle

OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear"]
PipelineSchedule = Literal["1f1b", "gpipe"]
TuneMethod = Literal["auto", "full", "lora", "head"]
Scheme = Literal["int8", "int4", "fp8", "int8-dynamic"]
RoundingMethod = Literal["rtn", "gptq", "awq"]


_CHOICES = {
    "optimizer": OptimizerName,
    "schedule": Schedule,
    "precision": Precision,
    "pipeline_schedule": PipelineSchedule,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Say how to train: the defaults are LLaMA's recipe (§2.3) at the size of a laptop."""

    steps: int = 1000
    """Optimizer steps in all. A resumed run may get more: it then goes on along the schedule of the new length."""
    batch_size: int = 16
    """Sequences per step, over all processes."""
    micro_batch_size: int | None = None
    """Sequences that a process holds in memory at once; None: its whole share. Fewer need less memory."""
    seq_len: int = 256
    """Tokens per sequence."""
    short_seq_len: int | None = None
    """Tokens per sequence at first, with more sequences a step instead; None: seq_len from the start."""
    short_share: float = 0.7
    """Share of the steps that read sequences of short_seq_len."""
    align_documents: bool = False
    """Begin every sequence with the beginning of a document, so that none is read from its middle."""
    weights: tuple[float, ...] | None = None
    """Of several corpora: how often each is read, such as 0.7 0.3; None: as often as it has tokens."""
    optimizer: OptimizerName = "adamw"
    """AdamW for all parameters, or Muon for the matrices of the layers and AdamW for the rest."""
    lr: float = 2e-3
    """Peak learning rate."""
    embedding_lr_ratio: float = 1.0
    """With Muon: the learning rate of the rest (embedding, output, norms) as a multiple of lr."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up: along half a cosine, or a straight line."""
    min_lr_ratio: float = 0.1
    """Final learning rate as a fraction of the peak."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.1
    """Decay of matrices; norms and biases are not decayed."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it."""
    precision: Precision = "fp32"
    """Format of matrix products: fp32, bf16 (autocast) or fp16 (autocast and loss scaling)."""
    compile: bool = False
    """Compile each block with torch.compile."""
    activation_checkpointing: bool = False
    """Keep only each block's input for the backward pass, and compute the rest anew: less memory, a third more work."""
    shard: bool = False
    """Several processes: keep a slice of parameters, gradients and optimizer state on each (FSDP2), not a copy."""
    pipeline_schedule: PipelineSchedule = "1f1b"
    """With pipeline stages: each micro-batch's backward pass as soon as it can be, or all forward passes first."""
    balance: tuple[int, ...] | None = None
    """With pipeline stages: layers of each, such as 2 2 2; None: stages of about as many parameters."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    validate_every: int = 100
    """Steps between validations."""
    snapshot_every: int = 100
    """Steps between snapshots."""
    keep_snapshots: int = 2
    """How many of the newest snapshots to keep."""
    keep_best: bool = True
    """Also keep the snapshot with the lowest validation loss: its weights are those of the finished model."""
    patience: int | None = None
    """Stop after so many validations in a row without a new lowest loss; None: never."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "validate_every", "snapshot_every", "keep_snapshots"):
            settle(self, name, check_integer(name, getattr(self, name)))
        for name in ("micro_batch_size", "patience", "short_seq_len"):
            if getattr(self, name) is not None:
                settle(self, name, check_integer(name, getattr(self, name)))
        for name in ("warmup_steps", "seed"):
            settle(self, name, check_integer(name, getattr(self, name), at_least=0))
        for name in ("align_documents", "compile", "keep_best", "activation_checkpointing", "shard"):
            check_one_of(name, getattr(self, name), (True, False))
            settle(self, name, bool(getattr(self, name)))
        for name, allowed in _CHOICES.items():
            check_one_of(name, getattr(self, name), get_args(allowed))
        if self.balance is not None:
            settle(self, "balance", tuple(check_integer("balance", layers) for layers in self.balance))
        _settle_numbers(self, "lr", "min_lr_ratio", "weight_decay", "beta1", "beta2", "clip_norm")
        _settle_numbers(self, "embedding_lr_ratio", "short_share")
        if self.weights is not None:
            settle(self, "weights", _weights(self.weights))
        _check_together(self)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr!r} must be a positive number, such as 1e-3")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be between 0 and steps={self.steps}; give fewer")
        if self.seed >= 1 << 62:
            raise ValueError(f"seed={self.seed!r} must be a whole number of at least 0, of 18 digits or fewer")
        for name, top in (("weight_decay", math.inf), ("beta1", 1), ("beta2", 1), ("min_lr_ratio", 1 + 1e-9)):
            if not 0 <= getattr(self, name) < top:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 0 and below {top:g}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm!r} must be positive; a huge value switches clipping off")


def _weights(weights: Iterable[float]) -> tuple[float, ...]:
    """Return weights as a tuple, which JSON gives back as a list; refuse what is none."""
    weights = tuple(weights) if isinstance(weights, Iterable) and not isinstance(weights, str) else ()
    if not weights or not all(is_number(weight) and 0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights={weights!r} must be positive numbers, one for each source, such as 0.7 0.3")
    return tuple(map(float, weights))


def _check_together(config: TrainConfig) -> None:
    """Refuse what one field says and another cannot serve."""
    if not 0 < config.embedding_lr_ratio < math.inf:
        raise ValueError(f"embedding_lr_ratio={config.embedding_lr_ratio!r} must be a positive number, such as 2")
    if config.embedding_lr_ratio != 1 and config.optimizer != "muon":
        raise ValueError(f"embedding_lr_ratio={config.embedding_lr_ratio!r} is for optimizer='muon'; leave it out")
    if not 0 < config.short_share < 1:
        raise ValueError(f"short_share={config.short_share!r} must be between 0 and 1, both excluded, such as 0.7")
    short = config.short_seq_len
    if short is not None and (short >= config.seq_len or config.seq_len % short):
        raise ValueError(
            f"short_seq_len={short!r} must be a smaller divisor of seq_len={config.seq_len}, such as "
            f"{config.seq_len // 2}, so that a step has as many tokens; or leave it out"
        )


# What a resumed run may change: nothing that has been computed depends on it.
FREE_ON_RESUME = frozenset(
    ("steps", "micro_batch_size", "compile", "validate_every", "snapshot_every", "keep_snapshots", "keep_best")
    + ("patience", "activation_checkpointing", "shard", "pipeline_schedule", "balance")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Say how to choose the next token. The defaults choose freely; ``temperature=0`` is greedy."""

    temperature: float = 1.0
    """Divides the logits: below 1 is more cautious, above 1 wilder; 0 always takes the most likely token."""
    top_k: int | None = None
    """Choose among the k most likely tokens."""
    top_p: float | None = None
    """Choose among the fewest tokens that have this probability together."""
    min_p: float | None = None
    """Choose among tokens at least this many times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that are there already less likely."""

    def __post_init__(self) -> None:
        _settle_numbers(self, "temperature", "repetition_penalty", "top_k", "top_p", "min_p")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature!r} must be 0 (greedy) or a positive number")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"top_k={self.top_k!r} must be at least 1, and whole; leave it out to allow every token")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value!r} must be above 0 and at most 1; leave it out to allow every token")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty={self.repetition_penalty!r} must be positive; 1 penalizes nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Say how to fine-tune by itself, and for how long; what is left out is searched on the validation part."""

    minutes: float = 5.0
    """About how long all may take; with steps, how long it takes follows from them."""
    method: TuneMethod = "auto"
    """Which weights may change: all (full), low-rank adapters (lora), or the output layer alone (head)."""
    rank: int | None = None
    """Rank of the adapters."""
    lr: float | None = None
    """Peak learning rate."""
    steps: int | None = None
    """Optimizer steps of the last training; then no clock decides, and the same command gives the same model."""
    precision: Precision = "fp32"
    """Format of matrix products: fp32, bf16 (autocast) or fp16 (autocast and loss scaling)."""
    seed: int = 0
    """Seed of the split, of the new weights and of the order of the examples."""

    def __post_init__(self) -> None:
        check_one_of("method", self.method, get_args(TuneMethod))
        check_one_of("precision", self.precision, get_args(Precision))
        settle(self, "seed", check_integer("seed", self.seed, at_least=0))
        for name in ("rank", "steps"):
            if getattr(self, name) is not None:
                settle(self, name, check_integer(name, getattr(self, name)))
        for name in ("minutes", "lr"):
            value = getattr(self, name)
            if name == "lr" and value is None:
                continue
            if not is_number(value) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r} must be a positive number, such as {2e-3 if name == 'lr' else 5}")
            settle(self, name, float(value))
        if self.rank is not None and self.method in ("full", "head"):
            raise ValueError(f"rank={self.rank} is of adapters, and method={self.method!r} has none; leave one out")


def _settle_numbers(settings: object, *names: str) -> None:
    """Turn NumPy's numbers into Python's, which JSON knows; refuse what is no number."""
    for name in names:
        value = getattr(settings, name)
        if value is None and name in ("top_k", "top_p", "min_p"):
            continue
        if not is_number(value):
            raise ValueError(f"{name}={value!r} must be a number")
        settle(settings, name, int(value) if isinstance(value, Integral) else float(value))


GREEDY = Sampling(temperature=0)
