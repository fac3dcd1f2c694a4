"""One training of one arm: the model it starts with, its recipe, and how long a step takes."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from llama_minimal.finetuning.material import Material
from llama_minimal.finetuning.methods import LORA, prepare, with_labels
from llama_minimal.finetuning.search import Arm
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig, TuneConfig
from llama_minimal.training import Trainer

VALIDATIONS = (2, 10)  # of a training that is part of the search, and of the last one
_PATIENCE = 4  # validations of the last training without a lower loss
_STEPS_PER_EPOCH, _MOST_ROWS = 16, 8
_DROPOUT = 0.05
_REPLAYED = (0.8, 0.2)  # shares of the rows that are examples and replayed text


def new_model(material: Material, arm: Arm, *, seed: int) -> Llama:
    """Return a copy of the base model of which an arm's weights may change.

    Raises:
        ValueError: if the model does not have what the arm wants to change.
    """
    model = copy.deepcopy(material.base).requires_grad_(True)
    if material.asking.labels:
        model = with_labels(model, material.asking.labels)
    lora = LORA if arm.rank is None else replace(LORA, rank=arm.rank, alpha=2.0 * arm.rank, dropout=_DROPOUT)
    prepare(model, arm.method, lora=lora, seed=seed)
    return model


def new_trainer(material: Material, arm: Arm, steps: int, config: TuneConfig, *, out: Path | None = None) -> Trainer:
    """Return a trainer of a new model; with a folder it is the last training, which validates often and may stop early.

    A step reads a sixteenth of the rows, but not more than eight: a small file is read in small steps, so that an
    epoch has enough of them.
    """
    n_rows = len(material.train.inputs)
    every = math.ceil(steps / VALIDATIONS[out is not None])
    replayed = material.replay is not None
    recipe = TrainConfig(
        steps=steps,
        batch_size=min(_MOST_ROWS, max(1, n_rows // _STEPS_PER_EPOCH)),
        seq_len=material.train.seq_len,
        lr=arm.lr,
        warmup_steps=max(1, steps // 10),
        seed=config.seed,
        precision=config.precision,
        validate_every=every,
        snapshot_every=every,
        keep_snapshots=1,
        patience=_PATIENCE if out else None,
        weights=_REPLAYED if replayed else None,
    )
    data = {"examples": material.train, "replay": material.replay} if replayed else material.train
    return Trainer(new_model(material, arm, seed=config.seed), data, recipe, out=out, validation=material.validation)


def steps_per_epoch(material: Material, arm: Arm) -> int:
    """Return in how many steps all examples are read once."""
    epochs = new_trainer(material, arm, 1, TuneConfig()).batches.epochs(1)
    return math.ceil(1 / (epochs["examples"] if isinstance(epochs, dict) else epochs))


def seconds_of(material: Material, arms: Sequence[Arm], config: TuneConfig) -> tuple[float, float]:
    """Return how long a step takes here, and a validation; on average over the methods."""
    steps, validations = [], []
    for arm in {arm.method: arm for arm in arms}.values():
        trainer = new_trainer(material, arm, 1, config)
        with torch.random.fork_rng():
            trainer.train_step()  # the first one is slow
            started = time.monotonic()
            trainer.train_step()
            steps.append(time.monotonic() - started)
            started = time.monotonic()
            trainer.validate()
            validations.append(time.monotonic() - started)
    return mean(steps), mean(validations)
