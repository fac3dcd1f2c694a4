"""Train an adapter by several processes; started by tests/test_lora_parallel.py.

    torchrun --nproc-per-node 2 lora_worker.py OUT

The first process writes, for each layout, losses and final parameters.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from parallel_worker import RECIPE, SHAPE, TOKENS, in_small_chunks, whole
from safetensors.torch import save_file

from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.model import build
from llama_minimal.parallel import open_mesh
from llama_minimal.training import Trainer

LAYOUTS = {
    "data": ({}, {"batch_size": 8}),
    "shard": ({}, {"shard": True, "activation_checkpointing": True}),
    "pipeline": ({"pipeline": 2}, {"micro_batch_size": 2}),
}


def train(mesh, **changes):
    model = build(SHAPE, device=mesh.device)
    add_adapter(model, "one", LoRAConfig(rank=3, targets=("wq", "wv", "w2", "output")))
    trainer = Trainer(model, TOKENS, replace(RECIPE, steps=8, lr=0.02, **changes), mesh=mesh)
    return trainer, [metrics["loss"] for metrics in trainer.run()]


def main(out):
    dist.init_process_group("gloo")
    in_small_chunks()
    curves = {}
    for name, (layout, changes) in LAYOUTS.items():
        with open_mesh("cpu", **layout) as mesh:
            trainer, curves[name] = train(mesh, **changes)
            parameters = whole(trainer, mesh)
        if dist.get_rank() == 0:
            save_file(parameters, out / f"{name}.safetensors")
    with open_mesh("cpu", tensor=2) as mesh:
        try:
            train(mesh)
        except ValueError as error:
            curves["tensor"] = str(error)
    if dist.get_rank() == 0:
        (out / "curves.json").write_text(json.dumps(curves))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
