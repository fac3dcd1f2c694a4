"""Chapter 18: what do exits know, trained or not, and does leaving early beat a smaller model of equal cost?"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama_minimal.adaptive_computation import (
    EarlyExit,
    ExitLoss,
    ExitRule,
    exit_logits,
    first_layers,
    read_with_exits,
)
from llama_minimal.checkpoint import load
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.course.exit_norm import ExitNorm, exit_states, least_squares, train_exits
from llama_minimal.data.valley import stories
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "Loss of the course model's exits, of models that end early, and of early exit by its rule, on held-out stories."
BUDGET = (
    "51,200 tokens of stories, three seeds. Matrices: one of 256 × 256 at each exit, the model frozen, by least "
    "squares (no steps), and then 150 steps of 512 of these tokens with Adam. First n: the first n layers with their "
    "matrix as a model of their own, trained on for 40 steps of 16 × 128 tokens with AdamW without decay. Exits: the "
    "same steps for the whole model, with its own norm and a loss at each exit. Measured on the first 128 tokens of 48 "
    "stories; by the rule, of 32 of them."
)
CHECK = {"arm": "untrained", "lr": 0.0, "seed": 0}
TOLERANCE = 0.05  # lively trainings

N_ROWS, SEQ_LEN, STEPS, BATCH_SIZE = 400, 128, 40, 16
THRESHOLDS = (0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
WEIGHT = 0.3  # of each exit's loss beside that of the end

POINTS = [
    {"arm": "untrained", "lr": 0.0, "seed": 0},
    {"arm": "least squares", "lr": 0.0, "seed": 0},
    {"arm": "first 1", "lr": 2e-3, "seed": 0},
    {"arm": "first 2", "lr": 2e-3, "seed": 0},
    *({"arm": "first 3", "lr": 1e-3, "seed": seed} for seed in (0, 1, 2)),
    *({"arm": "matrices", "lr": 2e-3, "seed": seed} for seed in (0, 1, 2)),
]


class Material(NamedTuple):
    """Stories as token ids."""

    train: np.ndarray
    held_out: Tensor
    """(48, 129): the beginnings of stories that no model here was trained on."""


@functools.cache
def material(tokenizer: TextCodec, n_tokens: int = N_ROWS * SEQ_LEN) -> Material:
    """Return so many tokens of stories to train on, and those to measure with."""
    texts = [story.text() for story in stories(n_tokens // 150, split="train")]
    ids = (tokenizer.encode(story.text(), bos=True)[:129] for story in held_out(100))
    rows = [row for row in ids if len(row) == 129]
    return Material(token_stream(tokenizer, texts)[:n_tokens], torch.tensor(rows[:48]))


@functools.cache
def course_states(n_rows: int) -> tuple[Tensor, Tensor]:
    """Return rows of text, (B, T), and the course model's states while it reads them, (L, B, T, D)."""
    whole, tokenizer = load("course", dtype=torch.float32)
    tokens = material(tokenizer, n_rows * SEQ_LEN).train
    rows = torch.from_numpy(tokens.astype(np.int64)).view(n_rows, SEQ_LEN)
    return rows, exit_states(whole.eval(), rows)


def with_matrices(whole: Llama, *, steps: int = 150, lr: float = 2e-3, seed: int = 0) -> ExitNorm:
    """Give the course model exits; without steps, by least squares alone."""
    rows, states = course_states(N_ROWS)
    whole.norm = least_squares(whole, states)
    if steps:
        train_exits(whole, whole.norm, states, rows, steps=steps, lr=lr, seed=seed)
    return whole.norm


def tuned(model: Llama, train: np.ndarray, *, objective: object, lr: float, seed: int, steps: int = STEPS) -> Llama:
    """Go on with the training of a model."""
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        lr=lr,
        warmup_steps=steps // 10,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        seed=seed,
    )
    for _ in Trainer(model, train, recipe, objective=objective).run():
        pass
    return model.eval()


def losses(logits: Tensor, texts: Tensor) -> Tensor:
    """Return the loss of each next token, (E, B, T): logits (E, B, T, V) against texts (B, T + 1)."""
    targets = texts[None, :, 1:, None].expand(len(logits), -1, -1, -1)
    return -logits.log_softmax(-1).gather(-1, targets)[..., 0]


def by_rule(model: Llama, texts: Tensor, exits: list[int], threshold: float) -> dict[str, float]:
    """Read as generation would, and return loss, mean depth, and the share of tokens with another choice."""
    inputs = texts[:, :-1]
    early = EarlyExit(model, ExitRule(threshold=threshold), exits=exits)
    logits, depths = read_with_exits(early, inputs)
    with torch.no_grad():
        whole = model(inputs).argmax(-1)
    # Without the first token: it is a prompt, and uses all layers.
    return {
        "loss": losses(logits[None], texts)[0, :, 1:].mean(),
        "depth": depths[:, 1:].double().mean(),
        "differing": (logits.argmax(-1) != whole)[:, 1:].double().mean(),
    }


def run(*, arm: str, lr: float, seed: int) -> dict[str, float]:
    """Train one arm, and return its losses in nats per token.

    Args:
        arm: ``"untrained"``: the exits of the course model as it is; ``"least squares"`` and ``"matrices"``: those of
            ``course/exit_norm.py``; ``"exits"``: the whole model trained on with ``ExitLoss``; ``"first 2"``: the first
            two layers with the matrix of least squares, trained as a model of their own.

    Returns:
        ``loss n`` after n layers. Of trained exits also, by rule and threshold, what ``by_rule`` says, and ``whole``,
        the loss of the same tokens where none leaves.
    """
    whole, tokenizer = load("course", dtype=torch.float32)
    texts = material(tokenizer)
    if arm.startswith("first "):
        depth = int(arm.removeprefix("first "))
        with_matrices(whole, steps=0)
        part = tuned(first_layers(whole, depth), texts.train, objective=None, lr=lr, seed=seed)
        with torch.no_grad():
            return {f"loss {depth}": losses(part(texts.held_out[:, :-1])[None], texts.held_out).mean()}
    n_layers = whole.config.n_layers
    if arm in ("least squares", "matrices"):
        with_matrices(whole, steps=150 if arm == "matrices" else 0, lr=lr, seed=seed)
    if arm == "exits":
        tuned(whole, texts.train, objective=ExitLoss(dict.fromkeys(range(1, n_layers), WEIGHT)), lr=lr, seed=seed)
    logits = exit_logits(whole.eval(), texts.held_out[:, :-1])
    means = losses(logits, texts.held_out).mean((1, 2)).tolist()
    figures = {f"loss {depth}": value for depth, value in enumerate(means, start=1)}
    if arm in ("matrices", "exits"):
        figures["whole"] = losses(logits[-1:, :32], texts.held_out[:32])[..., 1:].mean()
        for threshold in THRESHOLDS:
            found = by_rule(whole, texts.held_out[:32], list(range(1, n_layers)), threshold)
            figures |= {f"{threshold} {what}": value for what, value in found.items()}
    return figures
