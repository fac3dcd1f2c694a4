"""Distill by several processes; started by tests/test_distillation_text.py.

    torchrun --nproc-per-node 2 distillation_worker.py OUT CACHE

The first process writes the losses of each way to distill.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tiny_models import draw_model

from llama_minimal.distillation import (
    CachedDistillation,
    Distillation,
    DistillationConfig,
    OnPolicyDistillation,
    open_cache,
    rows_of_text,
)
from llama_minimal.parallel import open_mesh
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

V = 61
TOKENS = np.random.default_rng(0).integers(1, 4, 3000).cumsum() % V
ROWS = rows_of_text(TOKENS[:400], seq_len=8)
RECIPE = TrainConfig(steps=6, batch_size=4, seq_len=8, lr=3e-3, warmup_steps=2, validate_every=3, snapshot_every=3)
WAYS = {"teacher": {}, "shard": {"shard": True, "activation_checkpointing": True}, "student": {}, "cache": {}}


def draw_teacher():
    return draw_model(seed=2, n_layers=4, dim=48, n_heads=3, n_kv_heads=3, hidden_dim=64)


def losses(mesh, way, cache):
    """Train in one of the ways, and return the losses of all steps."""
    student, teacher, text = draw_model(seed=1), draw_teacher(), TOKENS
    if way == "cache":
        text = open_cache(cache, ROWS)
        objective = CachedDistillation(student, text)
    else:
        config = DistillationConfig(layers=((1, 3),), hidden_weight=0.1, divergence="reverse", temperature=2.0)
        projection = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
        objective = Distillation(teacher, student, config, projections=[projection], rows=5)
        if "student" in way:
            objective = OnPolicyDistillation(objective, prompt_tokens=2, share=0.7)
    recipe = replace(RECIPE, micro_batch_size=1, **WAYS.get(way, {"shard": True}))
    trainer = Trainer(student, text, recipe, validation=TOKENS[:100], mesh=mesh, objective=objective)
    return [metrics.get(name) for metrics in trainer.run() for name in ("loss", "grad_norm", "validation_loss")]


def main(out, cache):
    dist.init_process_group("gloo")
    with open_mesh("cpu") as mesh:
        found = {way: losses(mesh, way, cache) for way in WAYS}
        try:
            losses(mesh, "a spread student", cache)
        except ValueError as error:
            found["refused"] = str(error)
    if dist.get_rank() == 0:
        (out / "losses.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(Path, sys.argv[1:]))
