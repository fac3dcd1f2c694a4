"""Train a part of a run by one layout after another; started by tests/test_parallel_snapshots.py.

    torchrun --nproc-per-node N snapshot_worker.py JOBS

JOBS is a JSON file with a list of dictionaries: the arguments of ``go_on``, and perhaps one of ``THEN``. One process
group serves all of them.
"""

import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from llama_minimal import cost
from llama_minimal.config import LlamaConfig
from llama_minimal.evaluation import BestLoss
from llama_minimal.metrics import read_metrics
from llama_minimal.model import build
from llama_minimal.parallel import open_mesh
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import snapshots
from llama_minimal.training import Trainer

TOKENS = (np.random.default_rng(0).integers(1, 4, 20_000).cumsum() % 61).astype(np.uint16)
SHAPE = LlamaConfig(dim=32, n_layers=8, n_heads=8, n_kv_heads=8, hidden_dim=64, vocab_size=61, max_seq_len=32)
SHAPES = {
    "tied": replace(SHAPE, tie_embeddings=True),
    "grouped": replace(SHAPE, n_kv_heads=4, n_layers=4),
    "shared": replace(SHAPE, share_layers=2, tie_embeddings=True),
    "transformer": replace(
        SHAPE, norm="layer", norm_placement="post", ffn="relu", position="sinusoidal", bias=True, n_layers=4
    ),
}
RECIPE = TrainConfig(
    steps=6,
    batch_size=16,
    seq_len=16,
    lr=3e-3,
    warmup_steps=2,
    clip_norm=0.5,
    validate_every=2,
    snapshot_every=2,
    micro_batch_size=4,
)


def go_on(out, shape, *, source=None, until=6, mesh=None, **changes):
    """Go on from the snapshots of another folder, or begin, and stop after step ``until``; return the trainer."""
    if source:
        copy = lambda: shutil.copytree(source, out)  # noqa: E731
        mesh.first(copy) if mesh else copy()
    trainer = make_trainer(out, shape, mesh=mesh, **changes)
    assert trainer.resume() == bool(source)
    for metrics in trainer.run():
        if metrics["step"] == until:
            break
    return trainer


def make_trainer(out, shape, *, mesh=None, **changes):
    return Trainer(
        build(SHAPES[shape]), TOKENS, replace(RECIPE, **changes), out=out, mesh=mesh, validation=TOKENS[:500]
    )


def load_the_best(trainer, mesh, out):
    """The weights of an earlier snapshot have the loss that was measured then."""
    then = next(m for m in read_metrics(out / "metrics.jsonl") if m["step"] == 2)
    trainer.best = BestLoss(loss=then["validation_loss"], step=2)
    assert trainer.load_best() == 2
    assert trainer.validate() == pytest.approx(then["validation_loss"], rel=1e-6)
    whole = trainer.whole_model(2)
    assert sum(p.numel() for p in whole.parameters()) == sum(cost.parameters(whole.config).values())


def fill_the_disk(trainer, mesh, out):
    """What one process cannot write, all report, and nothing half-written stays."""
    before = mesh.first(lambda: sorted(out.rglob("*")))
    write_data = HuggingFaceStorageWriter.write_data

    def full(writer, *arguments):
        if mesh.rank == 1:
            raise OSError(errno.ENOSPC, "no space left")
        return write_data(writer, *arguments)

    HuggingFaceStorageWriter.write_data = full
    trainer.step += 1
    with pytest.raises(OSError, match="no space left"):
        trainer.save()
    HuggingFaceStorageWriter.write_data = write_data
    mesh.every(lambda: None)
    assert mesh.first(lambda: sorted(out.rglob("*"))) == before


def damage(trainer, mesh, out):
    """What one process cannot read, all refuse."""
    (last,) = snapshots(out / "snapshots")[-1:]
    mesh.first(lambda: (last / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"half"))
    with pytest.raises(ValueError, match="is damaged"):
        trainer.resume()
    mesh.first(lambda: shutil.rmtree(last))
    assert trainer.resume()


def disagree(trainer, mesh, out):
    """An error of one process is the error of all, whoever has it; and it is gone then."""

    def fail(*, on):
        if mesh.rank == on:
            raise ValueError(f"process {on} failed")
        return mesh.rank

    with pytest.raises(ValueError, match="process 1 failed"):
        mesh.every(lambda: fail(on=1))
    assert mesh.every(lambda: fail(on=None)) == mesh.rank
    with pytest.raises(ValueError, match="process 0 failed"):
        mesh.first(lambda: fail(on=0))
    assert mesh.first(lambda: fail(on=1)) == 0


THEN = {function.__name__: function for function in (load_the_best, fill_the_disk, damage, disagree)}


def main(jobs):
    dist.init_process_group("gloo")
    for job in json.loads(Path(jobs).read_text()):
        layout = {name: job.pop(name, 1) for name in ("tensor", "pipeline")}
        out, then = Path(job.pop("out")), job.pop("then", [])
        with open_mesh("cpu", **layout) as mesh:
            trainer = go_on(out, mesh=mesh, **job)
            for name in then:
                THEN[name](trainer, mesh, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
