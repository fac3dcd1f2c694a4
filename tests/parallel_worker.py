"""Train by every layout that a number of processes can form; started by tests/test_parallel_training.py.

    torchrun --nproc-per-node N parallel_worker.py OUT

One process group serves all layouts. The first process writes, for each layout, losses and final parameters.
"""

import itertools
import json
import math
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from llama_minimal import chunked_loss
from llama_minimal.config import LlamaConfig
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.loss import IGNORE, next_token_loss
from llama_minimal.model import build
from llama_minimal.parallel import loss, open_mesh
from llama_minimal.parallel.loss import parallel_chunked_loss
from llama_minimal.parallel.stages import whole_name
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

TOKENS = (np.random.default_rng(0).integers(1, 4, 20_000).cumsum() % 61).astype(np.uint16)
SHAPE = LlamaConfig(dim=32, n_layers=2, n_heads=8, n_kv_heads=4, hidden_dim=64, vocab_size=61, max_seq_len=16)
SHAPES = {
    "llama": SHAPE,
    "tied and shared": replace(SHAPE, n_layers=4, share_layers=2, tie_embeddings=True),
    "one layer": replace(SHAPE, share_layers=2, tie_embeddings=True),
    "transformer": replace(
        SHAPE, n_kv_heads=8, norm="layer", norm_placement="post", ffn="relu", position="sinusoidal", bias=True
    ),
    "packed": replace(SHAPE, rope_theta=5000.0),  # trains on examples and text
    # For eight processes.
    "two layers": replace(SHAPE, n_heads=16, n_kv_heads=8, tie_embeddings=True),
    "four layers": replace(SHAPE, n_layers=4, n_heads=16, n_kv_heads=8, share_layers=2, tie_embeddings=True),
    "eight layers": replace(SHAPE, n_layers=8, share_layers=2, tie_embeddings=True),
}
EXAMPLES = [
    EncodedExample(TOKENS[start : start + n].tolist(), [i >= learned for i in range(n)])
    for start, n, learned in zip(range(0, 3000, 10), np.arange(300) % 6 + 3, np.arange(300) % 2 + 1, strict=True)
]
MIXTURE = {"examples": PackedExamples.pack(EXAMPLES[30:], seq_len=8), "text": TOKENS}
HELD_OUT = {"examples": PackedExamples.pack(EXAMPLES[:30], seq_len=8), "text": TOKENS[:300]}
RECIPE = TrainConfig(
    steps=12, batch_size=8, seq_len=8, lr=3e-3, warmup_steps=4, clip_norm=0.5, validate_every=12, micro_batch_size=1
)


def steps_of(size):
    """Return what a run of so many processes changes: many share few cores, and wait for each other at every step."""
    return {} if size < 4 else {"steps": 5, "validate_every": 5}  # four of them warm up


def layouts(size, shape):
    """Yield tensor, pipeline, shard: all boxes of so many processes that the shape can be divided among."""
    for tensor, pipeline in itertools.product([1, 2, 4, 8], repeat=2):
        if size % (tensor * pipeline) == 0 and shape.n_kv_heads % tensor == 0 and shape.n_layers >= pipeline:
            for shard in [False, True][: 1 + (size > tensor * pipeline)]:
                # Many processes share few cores: no more layers than there have to be.
                if size < 4 or shape.n_layers == max(2, pipeline):
                    yield tensor, pipeline, shard


def runs(size, shapes):
    """Yield the key of each run, its shape, and what it changes."""
    for name in shapes:
        for tensor, pipeline, shard in layouts(size, SHAPES[name]):
            for schedule in ["1f1b", "gpipe"][: 1 + (pipeline > 1 and name == "llama")]:
                key = f"{name}: {tensor=} {pipeline=} {shard=} {schedule}"
                # DTensor is slow: beside it as few micro-batches as there can be.
                rows = RECIPE.batch_size * tensor * pipeline // size
                micro = max(1, rows // max(2 if size < 8 else 1, pipeline)) if tensor > 1 else 1
                changes = {"shard": shard, "pipeline_schedule": schedule, "micro_batch_size": micro}
                changes |= {"activation_checkpointing": shard, **steps_of(size)}
                yield key, SHAPES[name], tensor, pipeline, changes
                if shard and size < 8 and SHAPES[name].tie_embeddings:
                    yield f"{key} bf16", SHAPES[name], tensor, pipeline, changes | {"precision": "bf16"}


def keys(size, shapes):
    return [key for key, *_ in runs(size, shapes)]


def train(mesh, shape, **changes):
    model = build(shape, device=mesh.device)
    texts, held_out = (MIXTURE, HELD_OUT) if shape == SHAPES["packed"] else (TOKENS, TOKENS[:300])
    trainer = Trainer(model, texts, replace(RECIPE, **changes), mesh=mesh, validation=held_out)
    metrics = list(trainer.run())
    # A model that was just validated is what a snapshot would write: slices in float32, not what was gathered.
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert not changes.get("shard") or all(isinstance(p, DTensor) for p in model.parameters())
    return trainer, metrics


def whole(trainer, mesh):
    """Gather all parameters by their names in a whole model."""
    mine = {}
    for name, parameter in trainer.model.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        mine[whole_name(name, trainer.model.config)] = value.detach().cpu()
    gathered = [None] * mesh.size
    dist.all_gather_object(gathered, mine)
    return {name: value for part in gathered for name, value in part.items()}


def check_loss():
    """The loss of a split output layer and its gradients, against the whole ones: targets that do not count, weights,
    bf16, chunks, sequences whole and split."""
    size, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (size,))
    generator = torch.Generator().manual_seed(0)
    for vocab_size, dtype, tolerance in ((61, torch.float64, 1e-12), (4 * size, torch.bfloat16, 2e-2)):
        x, matrix = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((2, size, 9), (vocab_size, 9)))
        matrix = 10 * matrix
        targets = torch.randint(vocab_size, (2, size), generator=generator)
        targets[0, 1] = IGNORE
        weights = torch.rand(2, size, generator=generator, dtype=torch.float64)
        whole = [x.clone().requires_grad_(), matrix.clone().requires_grad_()]
        expected, expected_count = next_token_loss(F.linear(*whole).to(torch.float64), targets, weights)
        expected = torch.autograd.grad(expected / expected_count, whole), expected
        for split, rows in itertools.product((False, True), (None, 3)):
            mine = slice(rank, rank + 1) if split else slice(None)
            part = x[:, mine].clone().requires_grad_()
            output = torch.nn.Module()
            output.weight = torch.nn.Parameter(distribute_tensor(matrix, mesh, [Shard(0)]))
            total, count = parallel_chunked_loss(part, output, targets, weights, rows=rows)
            dx, dw = torch.autograd.grad(total / count, (part, output.weight))
            assert math.isclose(count, expected_count, rel_tol=1e-6)
            close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance, check_dtype=False)
            close(total, expected[1])
            close(dx, expected[0][0][:, mine])
            close(dw.full_tensor(), expected[0][1])


def in_small_chunks():
    """Cut the few tokens of a micro-batch into chunks as well; one process, in the tests, takes them whole."""
    chunked_loss.chunk_rows = loss.chunk_rows = lambda *_: 5


def losses(out):
    curves = json.loads((out / "curves.json").read_text())
    return {key: [metrics["loss"] for metrics in curve] for key, curve in curves.items()}


def main(out, shapes):
    device = os.environ.get("DEVICE", "cpu")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cpu":
        check_loss()
    in_small_chunks()
    curves = {}
    for key, shape, tensor, pipeline, changes in runs(dist.get_world_size(), shapes):
        with open_mesh(device, tensor=tensor, pipeline=pipeline) as mesh:
            trainer, metrics = train(mesh, shape, **changes)
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
    main(Path(sys.argv[1]), sys.argv[2:])
