"""Chapter 16: a student of the course model, with the course's whole vocabulary."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from llama_minimal.checkpoint import load
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.course.experiments.distillation import compare
from llama_minimal.course.students import shape, text
from llama_minimal.data import PackedExamples
from llama_minimal.distillation import CachedDistillation, CachedExamples, DistillationConfig, rows_of_text, write_cache
from llama_minimal.model import Llama, build
from llama_minimal.observing import reading
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "How well a student of the course model predicts new stories, by whether it learned from text or from teacher."
BUDGET = (
    "240 steps of 8 × 256 tokens, each read 4 times; width 64, 1 layer, vocabulary 2,048; the teacher's 32 likeliest "
    "tokens from a cache. AdamW, cosine. Measured on 5,120 tokens of stories from another split and seed."
)
CHECK = {"arm": "forward", "lr": 16e-3, "seed": 0, "steps": 4, "rows": 16}
TOLERANCE = 0.05

STEPS, ROWS, SEQ_LEN, BATCH, KEPT = 240, 480, 256, 8, 32
N_MEASURED = 20
POINTS = [CHECK] + [
    {"arm": arm, "lr": lr, "seed": seed} for lr in (16e-3,) for seed in (0, 1) for arm in ("text", "forward")
]


@cache
def course() -> tuple[Llama, Tokenizer]:
    """Return the course model and its tokenizer."""
    return load("course", dtype=torch.float32)


@cache
def given(n_rows: int) -> CachedExamples:
    """Return the rows that every student reads, with what the course model thinks of each token."""
    teacher, tokenizer = course()
    rows = rows_of_text(text(tokenizer, 2 * n_rows)[: n_rows * SEQ_LEN + 1], seq_len=SEQ_LEN)
    with tempfile.TemporaryDirectory() as folder:
        found = write_cache(teacher, rows, Path(folder) / "cache", k=KEPT)
        arrays = {"ids": np.array(found.ids), "log_probs": np.array(found.log_probs)}
    return CachedExamples(rows.inputs, rows.targets, rows.documents, **arrays, temperature=1.0, vocab_size=2048)


@torch.no_grad()
def measure(student: Llama) -> dict[str, float]:
    """Return what ``distillation.compare`` does, on new stories."""
    teacher, tokenizer = course()
    ids = token_stream(tokenizer, [story.text() for story in held_out(5 * N_MEASURED)])
    rows = rows_of_text(ids[: N_MEASURED * SEQ_LEN + 1], seq_len=SEQ_LEN)
    inputs, targets = (torch.from_numpy(part) for part in rows.rows(slice(None))[:2])
    with reading(student), reading(teacher):
        z, teacher_z = student(inputs).flatten(0, 1), teacher(inputs).flatten(0, 1)
    return compare(z, teacher_z, targets.flatten())


def run(*, arm: str, lr: float, seed: int, steps: int = STEPS, rows: int = ROWS) -> dict[str, float]:
    """Train a student, and return how it predicts.

    Args:
        arm: "text" or "forward".
        seed: of the weights and of the order of the rows.
        rows: of 256 tokens.
    """
    read, model = given(rows), build(shape("tiny"), seed=seed)
    learns = CachedDistillation(model, read, DistillationConfig(weight=1.0)) if arm == "forward" else None
    examples = PackedExamples(read.inputs, read.targets, read.documents) if learns is None else read
    settings = {"batch_size": BATCH, "seq_len": SEQ_LEN, "warmup_steps": steps // 10}
    for _ in Trainer(model, examples, TrainConfig(steps=steps, lr=lr, seed=seed, **settings), objective=learns).run():
        pass
    return measure(model)
