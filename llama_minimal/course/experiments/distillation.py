"""Chapter 16: what does a small model gain from a teacher, what of the teacher does it need, and from which teacher?"""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from llama_minimal.checkpoint import load
from llama_minimal.cost import flops_per_token
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.course.students import shape, teach, text
from llama_minimal.data import PackedExamples
from llama_minimal.devices import default_device
from llama_minimal.distillation import (
    CachedDistillation,
    Distillation,
    DistillationConfig,
    forward_kl,
    reverse_kl,
    rows_of_text,
    teacher_writes,
    write_cache,
)
from llama_minimal.loss import Objective, next_token
from llama_minimal.model import Llama, build
from llama_minimal.observing import reading
from llama_minimal.settings import Sampling, TrainConfig
from llama_minimal.training import Trainer

WHAT = "How well a student predicts new stories, and how near it is to a teacher, by what it learned from and how."
BUDGET = (
    "240 steps of 16 × 512 tokens of texts that the course model has read, 4,000 unless said, always in the same rows; "
    "'text, longer': as many steps as the teacher's arithmetic would have bought. AdamW, cosine, three seeds. Measured "
    "on 32,768 tokens of stories from another split and seed."
)
CHECK = {"student": "tiny", "arm": "forward", "texts": 100, "lr": 5e-3, "seed": 0, "steps": 10, "rows": 1}
TOLERANCE = 0.05

STEPS, ROWS, SEQ_LEN = 240, 16, 512
N_MEASURED = 64  # rows of new stories
STRAY = 1e-3  # a token to which a model gives less, it does not expect
FORWARD = DistillationConfig(weight=1.0)
REVERSE = DistillationConfig(weight=1.0, divergence="reverse")
ARMS = {  # what the course model's student learns; None learns the text alone
    "text": None,
    "text, longer": None,
    "forward": FORWARD,
    "reverse": REVERSE,
    # In two trainings of half the steps each, so that only the second half differs.
    "forward, forward": FORWARD,
    "forward, reverse": FORWARD,
    "half": DistillationConfig(weight=0.5),
    "T = 4": DistillationConfig(weight=1.0, temperature=4.0),
    "top 1": FORWARD,
    "top 16": FORWARD,
    # From other teachers: one of the shape "middle" that has read the same text, and the larger model.
    "from middle": FORWARD,
    "from larger": FORWARD,
}
SEEDS = (0, 1, 2)
POINTS = [CHECK] + [
    {"student": student, "arm": arm, "texts": texts, "lr": lr, "seed": seed}
    for student, texts, arms, rates in (
        ("small", 4000, ("text", "forward"), (8e-3, 4e-3, 16e-3)),
        ("small", 4000, ("text, longer",), (8e-3, 4e-3, 16e-3)),
        ("small", 4000, ("reverse",), (8e-3, 4e-3)),
        ("small", 4000, ("forward, forward", "forward, reverse"), (8e-3,)),
        ("small", 4000, ("half", "T = 4", "top 1", "top 16"), (8e-3,)),
        ("small", 400, ("text", "forward"), (8e-3,)),
        ("tiny", 4000, ("text", "from middle", "forward", "from larger"), (12e-3,)),
    )
    for lr in rates
    for seed in SEEDS
    for arm in arms
]


def longer(name: str, teacher: Llama) -> float:
    """Return how many steps on the text alone cost as much as one with a teacher, in arithmetic."""
    student, taught = (
        sum(flops_per_token(config, context=(SEQ_LEN + 1) / 2).values()) for config in (shape(name), teacher.config)
    )
    return (3 * student + taught) / (3 * student)


@cache
def course() -> tuple[Llama, object]:
    """Return the course model and its tokenizer."""
    return load("course", dtype=torch.float32)


@cache
def find_teacher(name: str, texts: int, rows: int, steps: int) -> Llama:
    """Return a teacher: the course model, the larger one, or one of a student's shape that is trained here."""
    if name == "course":
        return course()[0].to(default_device())
    if name == "larger":
        from llama_minimal.course import larger  # its weights do not come with the package

        return larger.load(dtype=torch.float32)[0].to(default_device())
    model = build(shape(name), seed=0).to(default_device())
    settings = TrainConfig(steps=steps, batch_size=rows, seq_len=SEQ_LEN, lr=6e-3, warmup_steps=steps // 10)
    teach(model, examples(texts), settings, teacher=None)
    return model


@cache
def examples(texts: int) -> PackedExamples:
    """Return the rows that every student reads."""
    return rows_of_text(text(course()[1], texts), seq_len=SEQ_LEN)


def objective(arm: str, teacher: Llama, student: Llama, given: PackedExamples, folder: str) -> tuple[Objective, object]:
    """Return what a student is to make smaller, and what it reads."""
    config = ARMS[arm]
    if config is None:
        return None, given
    if not arm.startswith("top"):
        return Distillation(teacher, student, config), given
    kept = write_cache(teacher, given, Path(folder) / "cache", k=int(arm.removeprefix("top ")))
    return CachedDistillation(student, kept, config), kept


@torch.no_grad()
def measure(student: Llama, teacher: Llama, n_rows: int) -> dict[str, float]:
    """Return how a student predicts new stories, beside a teacher; means over all tokens.

    Returns:
        ``loss`` of the next token, in nats, and ``teacher``, that of the teacher; ``forward`` and ``reverse``, KL(p ‖
        q) and KL(q ‖ p); ``entropy`` of q; ``missed``, what p gives to tokens that the student does not expect;
        ``stray``, what q gives to tokens that the teacher does not; ``same``, the share of first choices that agree.
    """
    ids = token_stream(course()[1], [story.text() for story in held_out(max(20, 5 * n_rows))])
    rows = rows_of_text(ids[: n_rows * SEQ_LEN + 1], seq_len=SEQ_LEN)
    sums: dict[str, float] = {}
    with reading(student), reading(teacher):
        for i in range(n_rows):
            inputs, targets = (torch.from_numpy(part).to(student.device) for part in rows.rows([i])[:2])
            for name, value in _compare(student(inputs)[0], teacher(inputs)[0], targets[0]).items():
                sums[name] = sums.get(name, 0.0) + value.double().mean().item() / n_rows
    return sums


def _compare(z: Tensor, teacher_z: Tensor, targets: Tensor) -> dict[str, Tensor]:
    log_q, log_p = z.log_softmax(-1), teacher_z.log_softmax(-1)  # (T, V)
    q, p = log_q.exp(), log_p.exp()
    return {
        "loss": -log_q.gather(-1, targets[:, None]),
        "teacher": -log_p.gather(-1, targets[:, None]),
        "forward": forward_kl(z, teacher_z),
        "reverse": reverse_kl(z, teacher_z),
        "entropy": -(q * log_q).sum(-1),
        "missed": (p * (q < STRAY)).sum(-1),
        "stray": (q * (p < STRAY)).sum(-1),
        "same": (z.argmax(-1) == teacher_z.argmax(-1)).double(),
    }


def judge(student: Llama, teacher: Llama, n: int) -> float:
    """Return how surprised the teacher is by texts that the student writes at temperature 1, in nats per token."""
    tokenizer = course()[1]
    prompts = [[tokenizer.bos_id]] * n
    settings = {"max_new_tokens": 128, "sampling": Sampling(temperature=1.0), "stop_ids": [tokenizer.eos_id]}
    rows = PackedExamples.pack(teacher_writes(student, prompts, **settings, batch_size=n), seq_len=SEQ_LEN)
    with reading(teacher):
        batch = tuple(torch.from_numpy(part).to(teacher.device) for part in rows.rows(slice(None)))
        total, count = next_token(teacher, batch)
    return (total / count).item()


def train(model: Llama, read: PackedExamples, config: TrainConfig, learns: Objective | None) -> None:
    """Train to the end."""
    for _ in Trainer(model, read, config, objective=learns).run():
        pass


def run(
    *, student: str, arm: str, texts: int, lr: float, seed: int, steps: int = STEPS, rows: int = ROWS
) -> dict[str, float]:
    """Train a student, and return what ``measure`` does, and how many steps it took.

    Args:
        student: a shape of ``students.SHAPES``.
        arm: what it learns from, a name of ``ARMS``.
        texts: how many it reads.
        seed: of the weights and of the order of the rows.
        rows: of 512 tokens in a step.
    """
    name = arm.removeprefix("from ") if arm.startswith("from") else "course"
    teacher, given = find_teacher(name, texts, rows, steps), examples(texts)
    if arm == "text, longer":
        steps = round(steps * longer(student, teacher))
    model = build(shape(student), seed=seed).to(default_device())
    halves = 2 if ", " in arm and "forward" in arm else 1
    config = TrainConfig(
        steps=steps // halves, batch_size=rows, seq_len=SEQ_LEN, lr=lr, warmup_steps=steps // 10 // halves, seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        learns, read = objective(arm, teacher, model, given, folder)
        train(model, read, config, learns)
    if halves == 2:
        then = REVERSE if arm == "forward, reverse" else FORWARD
        train(model, given, replace(config, seed=seed + 100), Distillation(teacher, model, then))
    n = N_MEASURED if rows == ROWS else 4
    return {"took": steps, **measure(model, teacher, n), "written": judge(model, teacher, n)}
