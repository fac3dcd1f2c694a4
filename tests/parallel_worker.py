"""Train by every layout that a number of processes can form; started by tests/test_parallel_training.py.

    torchrun --nproc-per-node N parallel_worker.py OUT

One process group serves all layouts. The first process writes, for each layout, losses and final parameters.
"""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from llama_minimal.config import LlamaConfig
from llama_minimal.model import build
from llama_minimal.parallel import open_mesh
from llama_minimal.parallel.stages import whole_name
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

TOKENS = (np.random.default_rng(0).integers(1, 4, 20_000).cumsum() % 61).astype(np.uint16)
SHAPE = LlamaConfig(dim=32, n_layers=8, n_heads=8, n_kv_heads=8, hidden_dim=64, vocab_size=61, max_seq_len=32)
SHAPES = {
    "plain": SHAPE,
    "tied": replace(SHAPE, tie_embeddings=True),
    "grouped": replace(SHAPE, n_kv_heads=4, n_layers=4),
    "shared": replace(SHAPE, share_layers=2, tie_embeddings=True),
    "one layer": replace(SHAPE, share_layers=8),
    "transformer": replace(
        SHAPE, norm="layer", norm_placement="post", ffn="relu", position="sinusoidal", bias=True, n_layers=4
    ),
}
RECIPE = TrainConfig(
    steps=20, batch_size=16, seq_len=16, lr=3e-3, warmup_steps=4, clip_norm=0.5, validate_every=20, micro_batch_size=2
)


def layouts(size):
    """Yield tensor, pipeline, shard: all boxes of so many processes."""
    for tensor, pipeline in itertools.product([1, 2, 4, 8], repeat=2):
        if size % (tensor * pipeline) == 0:
            for shard in [False, True][: 1 + (size > tensor * pipeline)]:
                yield tensor, pipeline, shard


def train(mesh, shape, **changes):
    trainer = Trainer(build(shape), TOKENS, replace(RECIPE, **changes), mesh=mesh, validation=TOKENS[:500])
    return trainer, list(trainer.run())


def whole(trainer, mesh):
    """Gather all parameters by their names in a whole model."""
    mine = {}
    for name, parameter in trainer.model.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        mine[whole_name(name, trainer.model.config)] = value.detach().clone()
    gathered = [None] * mesh.size
    dist.all_gather_object(gathered, mine)
    return {name: value for part in gathered for name, value in part.items()}


def main(out, shapes):
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    curves = {}
    for name, (tensor, pipeline, shard) in itertools.product(shapes, layouts(size)):
        shape = SHAPES[name]
        if shape.n_kv_heads % tensor or shape.n_layers < pipeline:
            continue
        for schedule in ["1f1b", "gpipe"][: 1 + (pipeline > 1 and name == "plain")]:
            key = f"{name} tensor={tensor} pipeline={pipeline} shard={shard} {schedule}"
            with open_mesh("cpu", tensor=tensor, pipeline=pipeline) as mesh:
                trainer, metrics = train(mesh, shape, shard=shard, pipeline_schedule=schedule)
                parameters = whole(trainer, mesh)
            if dist.get_rank() == 0:
                curves[key] = metrics
                save_file(parameters, out / f"{key}.safetensors")
    if dist.get_rank() == 0:
        (out / "curves.json").write_text(json.dumps(curves))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:] or list(SHAPES))
