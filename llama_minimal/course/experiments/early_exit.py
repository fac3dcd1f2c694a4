"""Chapter 18: what do trained exits know, and does leaving early beat a smaller model of equal cost?"""

import copy
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

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
from llama_minimal.data.valley import stories
from llama_minimal.devices import default_device
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "Loss of trained exits, of models that end early, and of early exit by its rule, on held-out stories."
BUDGET = (
    "150 steps of 32 × 256 tokens from stories of the valley (untrained: none), starting from the trained model, AdamW "
    "without decay, three seeds. Measured on the first 128 tokens of 48 stories; by the rule, of 32 of them."
)
CHECK = {"model": "course", "arm": "untrained", "lr": 0.0, "seed": 0}
TOLERANCE = 0.05  # lively trainings, perhaps on a GPU

STEPS, BATCH_SIZE, SEQ_LEN = 150, 32, 256
THRESHOLDS = (0.99, 0.95, 0.9, 0.8, 0.6, 0.4)
WEIGHT = 0.3  # of each exit's loss beside that of the end

POINTS = [{"model": model, "arm": "untrained", "lr": 0.0, "seed": 0} for model in ("course", "larger")] + [
    {"model": model, "arm": arm, "lr": lr, "seed": seed}
    for model, arms, rates in (
        ("course", ("exits", "own norms", "first 1", "first 2", "first 3", "whole"), (5e-4, 1.5e-3)),
        ("larger", ("exits", "first 2", "first 3", "first 4"), (1e-3,)),
    )
    for arm in arms
    for lr in rates
    for seed in (0, 1, 2)
]


class Material(NamedTuple):
    """Stories as token ids."""

    train: np.ndarray
    held_out: Tensor
    """(48, 129): the beginnings of stories that no model here was trained on."""


class Norms(nn.Module):
    """Be the model's norm at the end and, of its own weights, at each exit; ``ExitLoss`` calls them in this order."""

    def __init__(self, norm: nn.Module, n_exits: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm, *(copy.deepcopy(norm) for _ in range(n_exits))])
        self.calls = itertools.cycle(self.norms)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.calls)(x)

    def of_exits(self) -> Iterator[nn.Module]:
        """Return the norms in the order in which a text passes them."""
        return itertools.cycle([*self.norms[1:], self.norms[0]])


def start(model: str) -> tuple[Llama, TextCodec]:
    """Return a trained model in float32, ``"course"`` or ``"larger"``, with its tokenizer."""
    if model == "course":
        return load("course", dtype=torch.float32)
    from llama_minimal.course import larger

    whole, tokenizer = larger.load()
    return whole.float(), tokenizer


@functools.cache
def material(tokenizer: TextCodec, n_stories: int) -> Material:
    """Return so many stories to train on, and those to measure with."""
    train = token_stream(tokenizer, [story.text() for story in stories(n_stories, split="train")])
    ids = (tokenizer.encode(story.text(), bos=True)[:129] for story in held_out(100))
    rows = [row for row in ids if len(row) == 129]
    return Material(train, torch.tensor(rows[:48]))


def tuned(model: Llama, train: np.ndarray, *, objective: object, lr: float, seed: int, steps: int = STEPS) -> Llama:
    """Go on with the training of a model on the best device, and return it on the CPU."""
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
    for _ in Trainer(model.to(default_device()), train, recipe, objective=objective).run():
        pass
    return model.cpu().eval()


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


def run(*, model: str, arm: str, lr: float, seed: int) -> dict[str, float]:
    """Train one arm, and return its losses in nats per token.

    Args:
        model: ``"course"`` or ``"larger"``.
        arm: ``"untrained"``: the exits of the model as it is; ``"exits"``: exits after each layer, trained along with
            the end; ``"own norms"``: the same, but each exit has a norm of its own, where else all share the model's;
            ``"first 2"``: the first two layers, trained as a model of their own; ``"whole"``: the whole one.

    Returns:
        ``loss n`` after n layers; of trained exits also, by rule and threshold, what ``by_rule`` says, where ``all``
        means an exit after each layer and ``half`` one after half of them, and ``whole``, the loss of the same tokens
        where none leaves.
    """
    whole, tokenizer = start(model)
    texts = material(tokenizer, 16 if arm == "untrained" else 6500)
    n_layers = whole.config.n_layers
    if arm.startswith("first "):
        depth = int(arm.removeprefix("first "))
        part = tuned(first_layers(whole, depth), texts.train, objective=None, lr=lr, seed=seed)
        with torch.no_grad():
            return {f"loss {depth}": losses(part(texts.held_out[:, :-1])[None], texts.held_out).mean()}
    if arm != "untrained":
        objective = None if arm == "whole" else ExitLoss(dict.fromkeys(range(1, n_layers), WEIGHT))
        if arm == "own norms":
            whole.norm = Norms(whole.norm, n_layers - 1)
        tuned(whole, texts.train, objective=objective, lr=lr, seed=seed)
    if arm == "own norms":
        whole.norm.calls = whole.norm.of_exits()
    logits = exit_logits(whole.eval(), texts.held_out[:, :-1])
    means = losses(logits, texts.held_out).mean((1, 2)).tolist()
    figures = {f"loss {depth}": value for depth, value in enumerate(means, start=1)}
    if arm == "exits":
        figures["whole"] = losses(logits[-1:, :32], texts.held_out[:32])[..., 1:].mean()
        for name, exits in (("all", list(range(1, n_layers))), ("half", [n_layers // 2])):
            for threshold in THRESHOLDS:
                found = by_rule(whole, texts.held_out[:32], exits, threshold)
                figures |= {f"{name} {threshold} {what}": value for what, value in found.items()}
    return figures
