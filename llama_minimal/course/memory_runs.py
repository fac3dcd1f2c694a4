"""Training steps whose memory is planned, and then counted: varied ways to train one small model on a CPU."""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from llama_minimal.config import LlamaConfig
from llama_minimal.cost import Layout, Moment, Work, peak
from llama_minimal.course.live_bytes import LiveBytes
from llama_minimal.course.processes import run_processes
from llama_minimal.loss import next_token
from llama_minimal.model import build
from llama_minimal.parallel import Mesh
from llama_minimal.products import MKL_IS_SLOW
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

SHAPE = {"dim": 256, "n_layers": 4, "n_heads": 8, "hidden_dim": 704, "vocab_size": 1024, "max_seq_len": 128}
TRAIN = {"steps": 9, "warmup_steps": 1, "batch_size": 8, "seq_len": 128}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Describe a run: processes, and what differs from the plain one."""

    processes: int = 1
    tensor: int = 1
    pipeline: int = 1
    shape: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    whole_logits: bool = False

    @property
    def config(self) -> LlamaConfig:
        """The model's shape."""
        return LlamaConfig(**SHAPE | self.shape)

    @property
    def settings(self) -> TrainConfig:
        """How it is trained."""
        return TrainConfig(**TRAIN | self.train)

    @property
    def layout(self) -> Layout:
        """Where, as the planner calls it."""
        data = self.processes // self.tensor // self.pipeline
        return Layout(data=data, tensor=self.tensor, pipeline=self.pipeline, shard=self.settings.shard)

    @property
    def work(self) -> Work:
        """What a process does in a step, on this machine, as the planner calls it."""
        is_wide = self.settings.precision == "bf16" and not torch.cpu._is_amx_tile_supported()
        return Work(
            seq_len=self.settings.seq_len,
            sequences=self.settings.batch_size // self.layout.data,
            micro_batch=self.settings.micro_batch_size,
            precision=self.settings.precision,
            checkpointing=self.settings.activation_checkpointing,
            chunked_loss=not self.whole_logits,
            wide_attention=is_wide,
            new_logits=MKL_IS_SLOW,
        )


CASES = {
    "float32": Case(),
    "bfloat16": Case(train={"precision": "bf16"}),
    "checkpointing": Case(train={"activation_checkpointing": True}),
    "bfloat16, checkpointing": Case(train={"precision": "bf16", "activation_checkpointing": True}),
    "accumulation": Case(train={"micro_batch_size": 2}),
    "whole logits": Case(whole_logits=True, shape={"vocab_size": 4096}),
    "one sequence": Case(train={"batch_size": 1}),
    "2 copies (DDP)": Case(processes=2),
    "2 shards (FSDP2)": Case(processes=2, train={"shard": True}),
    "4 shards, bfloat16, checkpointing": Case(
        processes=4, train={"shard": True, "precision": "bf16", "activation_checkpointing": True}
    ),
    "tensor 2": Case(processes=2, tensor=2),
    "pipeline 2": Case(processes=2, pipeline=2, train={"micro_batch_size": 2}),
    "pipeline 4, bfloat16": Case(processes=4, pipeline=4, train={"micro_batch_size": 1, "precision": "bf16"}),
    "tensor 2 × pipeline 2": Case(processes=4, tensor=2, pipeline=2, train={"micro_batch_size": 2}),
}


def planned(name: str) -> tuple[str, Moment]:
    """Return the fullest moment of a case, and what is alive then, from the formulas."""
    case = CASES[name]
    return peak(case.config, case.work, case.layout)


def measured(name: str) -> list[dict[str, int]]:
    """Run a case in processes of its own; return, of each, the live bytes at most and the resident ones."""
    case = CASES[name]
    return run_processes(_measure, case.processes, timeout=200, name=name)


def _measure(rank: int, size: int, name: str) -> dict[str, int]:
    from llama_minimal.course.memory_runs import CASES, live_bytes_of, resident_bytes
    from llama_minimal.parallel import open_mesh

    with open_mesh("cpu", tensor=CASES[name].tensor, pipeline=CASES[name].pipeline) as mesh:
        live = live_bytes_of(CASES[name], mesh)
    return {"live": live.peak, "resident": resident_bytes()}


def live_bytes_of(case: Case, mesh: Mesh | None = None) -> LiveBytes:
    """Train two steps here, and return what was counted in the second, when the optimizer has its moments."""
    with LiveBytes() as live:
        tokens = np.arange(20_000) % case.config.vocab_size
        objective = next_token if case.whole_logits else None
        trainer = Trainer(build(case.config), tokens, case.settings, mesh=mesh, objective=objective)
        trainer.train_step()
        live.peak = 0
        trainer.train_step()
    return live


def resident_bytes() -> int:
    """Return the most memory that the system has given this process, libraries included."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
