"""Chapter 22: what does each rung bring? One training step after another, with one more technique each."""

from llama_minimal.course.processes import run_processes

WHAT = "Training tokens per second on two cores, and the memory at the peak, with one more technique at every rung."
BUDGET = (
    "The shape stories-15m, 4 sequences of 256 tokens a step, AdamW; the median of the last 5 of 8 steps, after the "
    "compiler is done. One process with two threads, or two processes with one each. Three repeats, one after the "
    "other for all rungs."
)
CHECK = {"rung": "sharded", "timed": "no", "repeat": 0}  # which measures no time
TOLERANCE = 0.01

RUNGS = {
    "float32": {},
    "compiled": {"compile": True},
    "bf16": {"compile": True, "precision": "bf16"},
    "loss in chunks": {"compile": True, "precision": "bf16", "chunks": True},
    "sharded": {"compile": True, "precision": "bf16", "chunks": True, "shard": True},
}
POINTS = [CHECK] + [{"rung": rung, "timed": "yes", "repeat": repeat} for repeat in (0, 1, 2) for rung in RUNGS]


def train(rank: int, size: int, how: dict[str, object], n_steps: int, threads: int) -> dict[str, float]:
    """Train in one of ``size`` processes; the first one's losses, speed and resident memory.

    It runs in a script of its own, and brings what it needs.
    """
    import resource
    import statistics

    import numpy as np
    import torch

    from llama_minimal import TrainConfig, Trainer, build, preset
    from llama_minimal.loss import next_token
    from llama_minimal.parallel import open_mesh

    torch.set_num_threads(threads)
    tokens = (np.random.default_rng(0).integers(1, 4, 40_000).cumsum() % 32_000).astype(np.uint16)
    how = dict(how)
    objective = None if how.pop("chunks", False) else next_token  # None: the trainer's own, in chunks
    recipe = TrainConfig(steps=n_steps, batch_size=4, seq_len=256, warmup_steps=2, **how)
    model = build(preset("stories-15m"), seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_mesh("cpu") as mesh:
        steps = list(Trainer(model, tokens, recipe, mesh=mesh, objective=objective).run())
    speeds = [step["tokens_per_second"] for step in steps[-5:]]
    return {
        "loss": steps[1]["loss"],
        "tokens_per_second": statistics.median(speeds),
        "resident_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


def run(*, rung: str, timed: str, repeat: int) -> dict[str, float]:
    """Return the loss of the second step, tokens per second, and the memory of each process above the model's.

    Args:
        rung: one of ``RUNGS``.
        timed: "yes", or "no": two steps, without a compiler, and zeros for what depends on the machine.
        repeat: its number; it changes nothing.
    """
    how = dict(RUNGS[rung])
    size = 2 if how.get("shard") else 1
    if timed == "no":
        how["compile"] = False
    arguments = {"how": how, "n_steps": 8 if timed == "yes" else 2, "threads": 2 // size if timed == "yes" else 1}
    figures = run_processes(train, size, timeout=300, **arguments)[0]
    return figures if timed == "yes" else figures | {"tokens_per_second": 0.0, "resident_bytes": 0.0}
