"""Chapter 16: what does a small model gain from a teacher, what of the teacher does it need, and from which teacher?"""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.cost import flops_per_token
from llama_minimal.course.card import token_stream
from llama_minimal.course.lab import small_config, small_text
from llama_minimal.data import PackedExamples
from llama_minimal.data.valley import stories
from llama_minimal.distillation import (
    CachedDistillation,
    CachedExamples,
    Distillation,
    DistillationConfig,
    OnPolicyDistillation,
    forward_kl,
    principal_projections,
    reverse_kl,
    rows_of_text,
    teacher_writes,
    write_cache,
)
from llama_minimal.loss import Objective, next_token
from llama_minimal.model import Llama, build
from llama_minimal.observing import reading
from llama_minimal.settings import GREEDY, Sampling, TrainConfig
from llama_minimal.training import Trainer

WHAT = "How well a student predicts new stories, and how near it is to a teacher, by what it learned from and how."
BUDGET = (
    "200 steps of 8 × 64 tokens, fresh but for the arms with few rows; student: width 32, 1 layer, vocabulary 300; "
    "teachers: 600 steps. 'text, longer': as many steps as the teacher's arithmetic would have bought. 'then …': 40 "
    "steps more, after 200 of forward KL. AdamW, cosine. Measured on 9,984 tokens of stories from another split."
)
CHECK = {"arm": "forward", "lr": 12e-3, "seed": 0, "teacher": "32 x 1", "rows": 80, "steps": 30, "teacher_steps": 30}
TOLERANCE = 0.05

STEPS, ROWS, SEQ_LEN, BATCH = 200, 1600, 64, 8
PROMPT, THEN_STEPS, FIRST_LR = 8, 40, 12e-3
STRAY = 1e-3  # a token to which a model gives less, it does not expect
TEACHERS = {
    "32 x 1": {"dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "hidden_dim": 88},
    "64 x 2": {"n_layers": 2},
    "128 x 3": {"dim": 128, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "hidden_dim": 344},
}
FORWARD = DistillationConfig(weight=1.0)
REVERSE = DistillationConfig(weight=1.0, divergence="reverse")
CACHED = {"forward": FORWARD, "reverse": REVERSE, "top 1": FORWARD, "top 8": FORWARD}
BESIDE = {  # what a cache cannot give
    "T = 2": DistillationConfig(weight=1.0, temperature=2.0),
    "T = 4": DistillationConfig(weight=1.0, temperature=4.0),
    "hidden": DistillationConfig(weight=1.0, hidden_weight=0.1, layers=((0, 1),)),
}
POINTS = [CHECK] + [
    {"arm": arm, "lr": lr, "seed": seed} | other
    for arms, lr, seeds, other in (
        (("text", "forward", "text, longer", "reverse"), 12e-3, (0, 1, 2), {}),
        (("text", "forward", "reverse"), 6e-3, (0,), {}),
        (("text", "forward", "reverse"), 24e-3, (0,), {}),
        (("then forward", "then reverse"), 4e-3, (0, 1, 2), {}),
        (("then on-policy forward", "then on-policy reverse"), 4e-3, (0, 1, 2), {}),
        (("text", "forward"), 12e-3, (0, 1, 2), {"rows": 100}),
        (("top 1", "top 8", "T = 2", "T = 4", "hidden"), 12e-3, (0, 1, 2), {}),
        (("forward",), 12e-3, (0, 1, 2), {"teacher": "32 x 1"}),
        (("forward",), 12e-3, (0, 1, 2), {"teacher": "128 x 3"}),
        (("writes",), 12e-3, (0, 1, 2), {}),
    )
    for seed in seeds
    for arm in arms
]


@cache
def text(n_stories: int = 2000) -> np.ndarray:
    """Return the ids of stories to learn from, in one stream."""
    return token_stream(small_text().tokenizer, [story.text() for story in stories(n_stories, split="train")])


@cache
def given(n_rows: int) -> PackedExamples:
    """Return the rows that every student reads."""
    return rows_of_text(text()[: n_rows * SEQ_LEN + 1], seq_len=SEQ_LEN)


@cache
def measured() -> PackedExamples:
    """Return rows of new stories."""
    return rows_of_text(small_text().validation[:10_000], seq_len=SEQ_LEN)


def student_shape() -> LlamaConfig:
    """Return the student's shape."""
    return small_config(**TEACHERS["32 x 1"])


def ratio(teacher: str) -> float:
    """Return how many steps on the text alone cost as much arithmetic as one with this teacher beside."""
    context = (SEQ_LEN + 1) / 2
    ours, theirs = (
        sum(flops_per_token(config, context=context).values())
        for config in (student_shape(), small_config(**TEACHERS[teacher]))
    )
    return (3 * ours + theirs) / (3 * ours)


@cache
def find_teacher(name: str, steps: int) -> Llama:
    """Return a teacher; it learns from the stream behind what students read with it."""
    model = build(small_config(**TEACHERS[name]), seed=100)
    fit(model, text()[ROWS * SEQ_LEN * 4 :], None, lr=3e-3, seed=100, steps=steps)
    return model


@cache
def kept(name: str, steps: int, n_rows: int, k: int) -> CachedExamples:
    """Return rows with what a teacher thinks of each token, read from the disk into memory."""
    with tempfile.TemporaryDirectory() as folder:
        found = write_cache(find_teacher(name, steps), given(n_rows), Path(folder) / "cache", k=k)
        arrays = {"ids": np.array(found.ids), "log_probs": np.array(found.log_probs)}
        fields = {"temperature": found.temperature, "vocab_size": found.vocab_size}
    return CachedExamples(found.inputs, found.targets, found.documents, **arrays, **fields)


@cache
def written_by(name: str, steps: int, n_rows: int, sampled: bool) -> PackedExamples:
    """Return as much text, of which a teacher has written all but the first tokens of each row."""
    prompts = [row[:PROMPT].tolist() for row in given(n_rows).inputs]
    sampling = Sampling(temperature=1.0) if sampled else GREEDY
    settings = {"max_new_tokens": SEQ_LEN + 1 - PROMPT, "sampling": sampling, "batch_size": 128}
    return PackedExamples.pack(teacher_writes(find_teacher(name, steps), prompts, **settings), seq_len=SEQ_LEN)


def fit(model: Llama, read: object, learns: Objective | None, *, lr: float, seed: int, steps: int) -> None:
    """Train to the end."""
    settings = {"batch_size": BATCH, "seq_len": SEQ_LEN, "warmup_steps": steps // 10}
    for _ in Trainer(model, read, TrainConfig(steps=steps, lr=lr, seed=seed, **settings), objective=learns).run():
        pass


def learn(
    student: Llama, arm: str, name: str, teacher_steps: int, n_rows: int, *, lr: float, seed: int, steps: int
) -> int:
    """Train a student by one of the arms, and return how many steps that took."""
    read, learns = given(n_rows), None
    if arm == "text, longer":
        steps, read = round(steps * ratio(name)), text()[: round(n_rows * SEQ_LEN * ratio(name)) + 1]
    elif arm.startswith("writes"):
        read = written_by(name, teacher_steps, n_rows, arm == "writes")
    elif arm in CACHED:
        k = int(arm.removeprefix("top ")) if arm.startswith("top") else student.config.vocab_size
        read = kept(name, teacher_steps, n_rows, k)
        learns = CachedDistillation(student, read, CACHED[arm])
    elif arm != "text":
        teacher = find_teacher(name, teacher_steps)
        batches = [torch.from_numpy(read.inputs[i : i + 64]) for i in range(0, 256, 64)]
        narrowed = principal_projections(teacher, batches, [1], student.config.dim) if arm == "hidden" else None
        learns = Distillation(teacher, student, BESIDE[arm], projections=narrowed)
    fit(student, read, learns, lr=lr, seed=seed, steps=steps)
    return steps


def go_on(student: Llama, arm: str, teacher: Llama, *, lr: float, seed: int) -> None:
    """Let a student that has learned go on: on other rows of text, or on what it writes itself."""
    rows = rows_of_text(text()[ROWS * SEQ_LEN : 2 * ROWS * SEQ_LEN + 1], seq_len=SEQ_LEN)
    learns = Distillation(teacher, student, REVERSE if arm.endswith("reverse") else FORWARD)
    if "on-policy" in arm:
        learns = OnPolicyDistillation(learns, prompt_tokens=PROMPT, seed=seed)
    fit(student, rows, learns, lr=lr, seed=seed + 50, steps=THEN_STEPS)


@torch.no_grad()
def measure(student: Llama, teacher: Llama) -> dict[str, float]:
    """Return what ``compare`` does, on new stories."""
    inputs, targets = (torch.from_numpy(part) for part in measured().rows(slice(None))[:2])
    with reading(student), reading(teacher):
        z, teacher_z = student(inputs).flatten(0, 1), teacher(inputs).flatten(0, 1)
    return compare(z, teacher_z, targets.flatten())


def compare(z: Tensor, teacher_z: Tensor, targets: Tensor) -> dict[str, float]:
    """Return how a student predicts, beside a teacher; means over all tokens.

    Args:
        z, teacher_z: logits, (N, V).
        targets: ids, (N,).

    Returns:
        ``loss`` of the next token, in nats, and ``teacher_loss``, that of the teacher; ``forward_kl`` and
        ``reverse_kl``, KL(p ‖ q) and KL(q ‖ p); ``entropy`` of q; ``missed``, what p gives to tokens that the student
        does not expect; ``stray``, what q gives to tokens that the teacher does not; ``same``, the share of first
        choices that agree.
    """
    log_q, log_p = z.log_softmax(-1), teacher_z.log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    values = {
        "loss": -log_q.gather(-1, targets[:, None]),
        "teacher_loss": -log_p.gather(-1, targets[:, None]),
        "forward_kl": forward_kl(z, teacher_z),
        "reverse_kl": reverse_kl(z, teacher_z),
        "entropy": -(q * log_q).sum(-1),
        "missed": (p * (q < STRAY)).sum(-1),
        "stray": (q * (p < STRAY)).sum(-1),
        "same": (z.argmax(-1) == teacher_z.argmax(-1)).double(),
    }
    return {name: value.double().mean().item() for name, value in values.items()}


def judge(writer: Llama, teacher: Llama) -> float:
    """Return how surprised the teacher is by texts that a model writes at temperature 1, in nats per token."""
    prompts = [row[:PROMPT].tolist() for row in measured().inputs]
    settings = {"max_new_tokens": SEQ_LEN + 1 - PROMPT, "sampling": Sampling(temperature=1.0), "batch_size": 256}
    rows = PackedExamples.pack(teacher_writes(writer, prompts, **settings), seq_len=SEQ_LEN)
    with reading(teacher):
        total, count = next_token(teacher, tuple(map(torch.from_numpy, rows.rows(slice(None)))))
    return (total / count).item()


def run(
    *,
    arm: str,
    lr: float,
    seed: int,
    teacher: str = "64 x 2",
    rows: int = ROWS,
    steps: int = STEPS,
    teacher_steps: int = 600,
) -> dict[str, float]:
    """Train a student, and return what ``measure`` does, how many steps it took, and what of it the teacher thinks.

    Args:
        arm: what it learns from.
        seed: of the weights and of the order of the rows.
        teacher: its width and layers, a name of ``TEACHERS``; for "text" the one that it is compared with.
        rows: of 64 tokens, to be read again where the steps are more.
    """
    expert, model = find_teacher(teacher, teacher_steps), build(student_shape(), seed=seed)
    if arm.startswith("then"):
        learn(model, "forward", teacher, teacher_steps, rows, lr=FIRST_LR, seed=seed, steps=steps)
        go_on(model, arm, expert, lr=lr, seed=seed)
        took = steps + THEN_STEPS
    else:
        took = learn(model, arm, teacher, teacher_steps, rows, lr=lr, seed=seed, steps=steps)
    return {"took": took, **measure(model, expert), "written": judge(model, expert)}
