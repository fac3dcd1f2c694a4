"""Train a part of a run by one layout after another; started by tests/test_parallel_snapshots.py.

    torchrun --nproc-per-node N snapshot_worker.py JOBS

JOBS is a JSON file with a list of dictionaries; see ``do``. One process group serves all of them.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from parallel_worker import SHAPES, TOKENS

from llama_minimal.model import build
from llama_minimal.parallel import open_mesh
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

RECIPE = TrainConfig(
    steps=12,
    batch_size=16,
    seq_len=16,
    lr=3e-3,
    warmup_steps=4,
    clip_norm=0.5,
    validate_every=3,
    snapshot_every=3,
    micro_batch_size=2,
)


def do(out, shape, *, source=None, until=12, tensor=1, pipeline=1, mesh=None, **changes):
    """Go on from the snapshots of another folder, or begin, and stop after step ``until``; return the trainer."""
    if source and (mesh is None or mesh.is_main):
        shutil.copytree(source, out)
    if mesh:
        mesh.first(lambda: None)
    trainer = Trainer(
        build(SHAPES[shape]), TOKENS, replace(RECIPE, **changes), out=out, mesh=mesh, validation=TOKENS[:500]
    )
    assert trainer.resume() == bool(source)
    for metrics in trainer.run():
        if metrics["step"] == until:
            break
    return trainer


def main(jobs):
    dist.init_process_group("gloo")
    for job in json.loads(Path(jobs).read_text()):
        with open_mesh("cpu", tensor=job.get("tensor", 1), pipeline=job.get("pipeline", 1)) as mesh:
            do(Path(job.pop("out")), job.pop("shape"), mesh=mesh, **job)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
