"""Write with several processes by every layout that they can form; started by tests/test_parallel_inference.py.

    torchrun --nproc-per-node N inference_worker.py FOLDER OUT

One process group serves all layouts. Each process writes what it found, as JSON.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from memory import live_bytes

from llama_minimal.beams import beam_search
from llama_minimal.checkpoint import load
from llama_minimal.cli import main, several
from llama_minimal.data import sequential_batches
from llama_minimal.evaluation import sum_loss
from llama_minimal.generation import generate, stream
from llama_minimal.long_context import Window
from llama_minimal.parallel import open_mesh
from llama_minimal.parallel.inference import distribute, load_distributed
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.tokenizer import Tokenizer

LAYOUTS = {2: [(2, 1), (1, 2)], 4: [(4, 1), (2, 2), (1, 4)]}  # processes -> (tensor, pipeline)
SHAPES = {2: ["biased", "grouped", "shared", "tied", "transformer"], 4: ["grouped", "shared", "transformer"]}
PROMPTS = [[1, 2, 3], [7, 60, 9, 11, 13, 2], [5]]  # of unequal lengths
SAMPLED = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.1)
TOKENS = np.random.default_rng(0).integers(0, 61, 100).astype(np.uint16)


def written(model):
    """Return what a model writes and how well it predicts: the same for a whole one and for a distributed one."""
    texts = {}
    for name, sampling in (("greedy", GREEDY), ("sampled", SAMPLED)):
        rows = generate(model, None, PROMPTS, max_new_tokens=20, sampling=sampling, seed=3, stop_ids=[])
        texts[name] = [row.tokens for row in rows]
    texts["beams"] = [beam.tokens for beam in beam_search(model, PROMPTS[1], beam_size=3, max_new_tokens=8)]
    if model.config.position == "rope":  # prompts and texts longer than the window, and than the context
        options = {"max_new_tokens": 50, "cache": Window(size=5, n_sinks=2), "stop_ids": []}
        texts["window"] = [row.tokens for row in generate(model, None, PROMPTS, **options)]
    with torch.no_grad():
        cache = model.make_cache(batch_size=2, max_seq_len=9)
        texts["logits"] = model(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 60]]), cache=cache).tolist()
    batches = sequential_batches(TOKENS, batch_size=2, seq_len=16)
    texts["loss"] = sum_loss(model, batches, device=model.device)
    return texts


def cache_shapes(model):
    """Return layers, kv heads and slots of each part of the cache that a process keeps."""
    cache = model.make_cache(batch_size=1, max_seq_len=9)
    return [[len(part.keys), *part.keys[0].shape[1:3]] for part in getattr(cache, "parts", [cache])]


def memory_of_loading(folder, mesh):
    """Return bytes: the most that were live while loading, and what stays."""
    with live_bytes() as live:
        model, _ = load_distributed(folder, mesh)  # what is read is counted as whole tensors, though it is mapped
    tables = model.part.positions.tables
    kept = sum(t.untyped_storage().nbytes() for t in [*model.parameters(), *tables])
    return {"peak": live.peak, "kept": kept}


def command(*arguments):
    """Run a command as the command line does; return what it printed and how it ended."""
    # A process that tells what is wrong ends, and here it goes on: each command is a start of its own.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(int(os.environ["TORCHELASTIC_RESTART_COUNT"]) + 1)
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(map(str, arguments)))
        except SystemExit as ending:
            status = ending.code
    return {"out": out.getvalue(), "err": err.getvalue(), "status": status}


def commands(folder, text, layout):
    """Return what the command line says, with flags that are right and flags that are not."""
    flags = ["--tensor", layout[0], "--pipeline", layout[1], "--device", "cpu"]
    writing = ["--prompt", "Once", "--max-new-tokens", 24]
    return {
        "greedy": command("generate", "course", *writing, "--temperature", 0, "--dtype", "float32", *flags),
        "sampled": command("generate", "course", *writing, "--num-samples", 2, "--dtype", "float32", *flags),
        "evaluate": command(
            "evaluate", folder / "course", "--corpus", text, "--seq-len", 64, "--max-batches", 2, *flags
        ),
        "damaged": command("generate", folder / "damaged", *flags),
        "too long": command("generate", "course", "--prompt", "no " * 1000, *flags),
        "chat": command("chat", "course"),
        "too few": command("generate", "course", "--tensor", 3),
        "no flags": command("generate", "course"),
        "devices": command("generate", "course", *flags[:4], "--devices", "cpu", "cpu"),
    }


def refusals(folder):
    """Return why models cannot be split by all processes that there are, one way or the other."""
    size, reasons = dist.get_world_size(), {}
    model, tokenizer = load(folder / "odd")
    for name, sizes in (("tensor", {"tensor": size}), ("pipeline", {"pipeline": size}), ("data", {})):
        with open_mesh("cpu", **sizes) as mesh:
            reasons[name] = [reason(distribute, model, mesh), reason(load_distributed, folder / "odd", mesh)]
    with open_mesh("cpu", tensor=size) as mesh:
        whole, _ = load_distributed(folder / "grouped", mesh)
        reasons["compile"] = reason(generate, whole, tokenizer, [[1]], compile=True)
    return reasons


def reason(function, *args, **options):
    """Return why a function refuses its arguments."""
    try:
        function(*args, **options)
    except ValueError as error:
        return str(error)


def run(folder, layout):
    """Return what this process finds with one layout."""
    tensor, pipeline = layout
    found = {}
    with open_mesh("cpu", tensor=tensor, pipeline=pipeline) as mesh:
        for name in SHAPES[mesh.size]:
            loaded, _ = load_distributed(folder / name, mesh)
            found[name] = written(loaded) | {"cache": cache_shapes(loaded)}
            split = distribute(load(folder / name)[0], mesh)
            mine, theirs = (dict(model.named_parameters()) for model in (split, loaded))
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        half, _ = load_distributed(folder / "half", mesh)
        found["half"] = half(torch.tensor([PROMPTS[1]])).float().tolist()
        found["memory"] = memory_of_loading(folder / "large", mesh)
        tokenizer = Tokenizer.train(["ab ba " * 9], vocab_size=259)
        found["streamed"] = "".join(stream(loaded, tokenizer, [1, 2], max_new_tokens=9, stop_ids=[]))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    several._SILENT = 0  # nobody here ends
    folder, out = map(Path, sys.argv[1:])
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    found = {f"{tensor}x{pipeline}": run(folder, (tensor, pipeline)) for tensor, pipeline in LAYOUTS[size]}
    found["commands"] = commands(folder, folder / "text.txt", LAYOUTS[size][-2])
    found["refusals"] = refusals(folder)
    (out / f"{size}-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
