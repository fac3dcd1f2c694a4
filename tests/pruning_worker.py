"""Retrain a pruned model in three layouts of two processes; started by tests/test_pruning.py.

torchrun --nproc-per-node 2 pruning_worker.py OUT
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.distributed as dist

from llama_minimal.config import LlamaConfig
from llama_minimal.model import build
from llama_minimal.parallel import open_mesh
from llama_minimal.pruning import keep_zeros, prune
from llama_minimal.pruning.layers import linear_layers
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

TOKENS = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 61).astype(np.uint16)
SHAPE = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=61, max_seq_len=16)
RECIPE = TrainConfig(steps=4, batch_size=8, seq_len=8, lr=3e-3, warmup_steps=2, weight_decay=0.5, micro_batch_size=2)
LAYOUTS = {"shard": {}, "tensor": {"tensor": 2}, "pipeline": {"pipeline": 2}}
PRUNED = ("layers.0.feed_forward.w1", "layers.0.attention.wq")  # nothing in the second stage of a pipeline


def retrain(mesh=None, *, shard=False):
    """Return the losses, and the number of zeros in every layer that has some."""
    model = build(SHAPE)
    prune(model, sparsity=0.6, layers=PRUNED)
    trainer = Trainer(model, TOKENS, replace(RECIPE, shard=shard), mesh=mesh, after_step=keep_zeros)
    losses = [metrics["loss"] for metrics in trainer.run()]
    zeros = {}
    for name, layer in linear_layers(model).items():
        weight = layer.weight.full_tensor() if hasattr(layer.weight, "full_tensor") else layer.weight
        zeros[name] = int((weight == 0).sum())
    return losses, {name: count for name, count in zeros.items() if count}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = {}
    for name, layout in LAYOUTS.items():
        with open_mesh("cpu", **layout) as mesh:
            found[name] = retrain(mesh, shard=name == "shard")
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.destroy_process_group()
