"""Chapter 08: what does each part of LLaMA's recipe do, and what do other optimizers do in AdamW's place?"""

import math

import torch

from llama_minimal.course.lab import BATCH_SIZE, SEQ_LEN, small_config, small_text
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer, TrainingDivergedError

WHAT = "Validation loss of a small LLaMA by recipe and peak learning rate."
BUDGET = "500 steps of 8 × 64 tokens, two layers of width 32, vocabulary 300, stories from the valley, three seeds."
CHECK = {"recipe": "adamw", "lr": 5e-3, "seed": 0}  # calm: at larger rates other processors get other losses

STEPS, WARMUP = 500, 50
RECIPES = {  # what each changes in the whole recipe
    "adamw": {},
    "no warm-up": {"warmup_steps": 0},
    "no cosine": {"min_lr_ratio": 1.0},
    "no clipping": {"clip_norm": 1e9},
    "muon": {"optimizer": "muon"},
    "descent": {},
    "momentum": {},
}
PLAIN = {"descent": 0.0, "momentum": 0.9}  # gradient descent with so much momentum, without decay

POINTS = [
    {"recipe": recipe, "lr": lr, "seed": seed}
    for seed in (0, 1, 2)
    for recipes, rates in (
        (("adamw", "muon"), (5e-3, 1e-2, 2e-2, 4e-2)),
        (("no warm-up", "no cosine", "no clipping"), (1e-2, 2e-2, 4e-2)),
        (("descent", "momentum"), (0.3, 1.0, 3.0)),
    )
    for recipe in recipes
    for lr in rates
]


def trainer(recipe: str, *, lr: float, seed: int) -> Trainer:
    """Return what trains a small model by a recipe of ``RECIPES``."""
    text = small_text()
    settings = {"warmup_steps": WARMUP, "validate_every": STEPS} | RECIPES[recipe]
    config = TrainConfig(steps=STEPS, batch_size=BATCH_SIZE, seq_len=SEQ_LEN, lr=lr, seed=seed, **settings)
    model = build(small_config(dim=32, n_heads=2, n_kv_heads=1, hidden_dim=88), seed=seed)
    training = Trainer(model, text.train, config, validation=text.validation[:10_000])
    if recipe in PLAIN:
        training.optimizer = torch.optim.SGD(model.parameters(), momentum=PLAIN[recipe], dampening=PLAIN[recipe])
    return training


def run(*, recipe: str, lr: float, seed: int) -> dict[str, float]:
    """Train by a recipe, and return the validation loss in nats per token, infinite if the training broke down.

    Also how long the gradient was at most, before clipping, and in how many of the steps it was longer than 1.
    """
    training, norms = trainer(recipe, lr=lr, seed=seed), []
    try:
        norms += [metrics["grad_norm"] for metrics in training.run()]
    except TrainingDivergedError:
        return {"loss": math.inf, "largest": math.inf, "clipped": math.inf}
    return {"loss": training.validation_loss, "largest": max(norms), "clipped": sum(norm > 1 for norm in norms)}
