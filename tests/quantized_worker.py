"""Write with models in few bits, shared by several processes; started by tests/test_quantized_inference.py.

    torchrun --nproc-per-node N quantized_worker.py FOLDER OUT

Each process writes what it found, as JSON.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from inference_worker import PROMPTS, SAMPLED, command, reason
from memory import live_bytes

from llama_minimal.adaptive_computation import ModelDraft, PromptLookup
from llama_minimal.checkpoint import load
from llama_minimal.checkpoint.tensors import tensors_of
from llama_minimal.cli import several
from llama_minimal.generation import generate
from llama_minimal.parallel import open_mesh
from llama_minimal.parallel.inference import distribute, load_distributed
from llama_minimal.quantization import Quantization
from llama_minimal.settings import GREEDY

SCHEMES = ("int8", "int4", "fp8", "int8-dynamic")
LAYOUTS = {2: [(2, 1), (1, 2)], 4: [(2, 2)]}  # processes -> (tensor, pipeline)
CASES = {  # processes -> (shape, scheme)
    2: [
        *((shape, scheme) for shape in ("grouped", "tied", "biased", "shared") for scheme in ("int8", "int4")),
        *(("tied", "fp8"), ("biased", "int8-dynamic")),
    ],
    4: [("tied", "int4"), ("shared", "int8")],
}
HOW = {scheme: Quantization(scheme=scheme) for scheme in SCHEMES} | {
    "int8-dynamic": Quantization(scheme="int8-dynamic", threshold=2.0)
}


def written(model, draft):
    """Return what a model writes: alone, and with drafts."""
    how = {"max_new_tokens": 16, "stop_ids": []}
    drafts = {"alone": None, "model": ModelDraft(model=draft, n=3), "lookup": PromptLookup(n=3)}
    rows = {name: generate(model, None, PROMPTS, draft=one, **how) for name, one in drafts.items()}
    rows["sampled"] = generate(model, None, PROMPTS, draft=drafts["model"], sampling=SAMPLED, seed=3, **how)
    rows["cache"] = generate(model, None, PROMPTS, sampling=GREEDY, cache="int8", **how)
    texts = {name: [row.tokens for row in found] for name, found in rows.items()}
    texts["kept"] = [row.accepted for row in rows["model"]]
    with torch.no_grad():
        texts["logits"] = model(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 60]])).tolist()
    return texts


def found_with(folder, shape, scheme, mesh, draft):
    """Return what a model writes that was rounded while it was loaded; the other ways to it have the same numbers."""
    loaded, _ = load_distributed(folder / shape, mesh, dtype="float64", quantize=HOW[scheme])
    saved, _ = load_distributed(folder / f"{shape}-{scheme}", mesh)
    split = distribute(load(folder / shape, dtype="float64", quantize=HOW[scheme])[0], mesh)
    mine = tensors_of(loaded.part)
    for other in (saved, split):
        theirs = tensors_of(other.part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    return written(loaded, draft) | {"bytes": sum(t.nbytes for t in mine.values())}


def in_16_bits(folder, mesh):
    """Return logits by the processor's own products, of a few tokens, and by the decoded matrices, of many."""
    model, _ = load_distributed(folder / "half", mesh)
    return [model(tokens).float().tolist() for tokens in (torch.tensor([PROMPTS[1]]), torch.arange(128).view(8, 16))]


def memory_of_loading(folder, mesh):
    """Return bytes: the most that were live while a model was loaded and rounded, and what stays."""
    with live_bytes() as live:
        model, _ = load_distributed(folder / "large", mesh, quantize="int8")
    tables = model.part.positions.tables
    kept = sum(t.untyped_storage().nbytes() for t in [*tensors_of(model.part).values(), *tables])
    return {"peak": live.peak, "kept": kept}


def commands(layout):
    """Return what the command line writes."""
    tensor, pipeline = layout
    flags = ["-p", "Once", "--temperature", 0, "--max-new-tokens", 24, "--dtype", "float32", "--device", "cpu"]
    flags += ["--tensor", tensor, "--pipeline", pipeline]
    found = {scheme: command("generate", "course", "--quantize", scheme, *flags) for scheme in ("int8", "int4")}
    found["lookup"] = command("generate", "course", "--quantize", "int8", "--draft", "prompt-lookup", *flags)
    found["model"] = command("generate", "course", "--quantize", "int4", "--draft", "course", *flags)
    return found


def refusals(folder):
    """Return why models cannot be split, by all processes that there are."""
    with open_mesh("cpu", tensor=dist.get_world_size()) as mesh:
        whole = load(folder / "odd", quantize="int4")[0]
        before = {name: tensor.clone() for name, tensor in tensors_of(whole).items()}
        found = {
            "loaded": reason(load_distributed, folder / "odd", mesh, quantize="int4"),
            "split": reason(distribute, whole, mesh),
            "twice": reason(load_distributed, folder / "half", mesh, quantize="int8"),
            "unknown": reason(load_distributed, folder / "odd", mesh, quantize="int3"),
        }
        assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(whole).items())
        tiny = load(folder / "odd")[0]
        model, _ = load_distributed(folder / "grouped", mesh, quantize="int8")
        found["draft"] = reason(generate, model, None, [[1]], draft=tiny)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    several._SILENT = 0  # nobody here ends
    folder, out = map(Path, sys.argv[1:])
    dist.init_process_group("gloo")
    size, found = dist.get_world_size(), {}
    draft = load(folder / "draft", dtype="float64")[0]
    for tensor, pipeline in LAYOUTS[size]:
        with open_mesh("cpu", tensor=tensor, pipeline=pipeline) as mesh:
            here = {f"{a} {b}": found_with(folder, a, b, mesh, draft) for a, b in CASES[size]}
            here |= {"half": in_16_bits(folder, mesh), "memory": memory_of_loading(folder, mesh)}
        found[f"{tensor}x{pipeline}"] = here | {"commands": commands((tensor, pipeline))}
    found["refusals"] = refusals(folder)
    (out / f"{size}-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
