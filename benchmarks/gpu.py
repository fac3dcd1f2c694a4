"""Check and measure every CUDA path in one run of at most eight minutes, and keep the figures as JSON.

    python benchmarks/gpu.py                       the first CUDA device; writes gpu.json
    python benchmarks/gpu.py --toy                 the same paths with tiny models, on a CPU if there is no GPU
    python benchmarks/gpu.py --only parity training --out parity.json

Five parts, each in a process of its own with a time limit, so that a part that fails takes no other with it:

- limits: what the device reads per second, and what a large matrix product does per second, in bf16 and in float32;
- parity: each path (formats, caches, drafts, compiled steps, training) beside the same on the CPU;
- decode: tokens per second of one text with 1B and 7B parameters in bf16, int8 and int4, eager and compiled, and the
  share of the bandwidth that reading the weights once a token takes;
- training: tokens per second with 0.3B and 1B parameters, bf16, compiled, and the share of the FLOPs (MFU);
- meta: every published size, built and run without memory, which finds a shape or a device that does not fit.

The exit status is 0 if each part ended and all of parity held.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import torch
from gpu_parity import PARITY
from tqdm import tqdm

from llama_minimal import cost
from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.files import replace_file
from llama_minimal.generation import decode
from llama_minimal.model import build
from llama_minimal.quantization import quantize
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

Figures = dict[str, object]
_SECONDS = {"limits": 30, "parity": 120, "decode": 180, "training": 120, "meta": 30}  # 480 in all
_03B = LlamaConfig(dim=1024, n_layers=24, n_heads=16, vocab_size=32_000, hidden_dim=2816, max_seq_len=2048)
_DECODED = {"1B": preset("llama3.2-1b"), "7B": preset("llama-7b")}
_TRAINED = {"0.3B": (_03B, 16, 2048), "1B": (preset("llama3.2-1b", max_seq_len=2048), 4, 2048)}  # batch, tokens
_TOY = preset("tiny", n_layers=2, max_seq_len=64)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call, to the end of all the device's work."""
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limits(device: torch.device, toy: bool) -> Figures:
    """Measure bytes read per second (a copy reads and writes) and the FLOP/s of square products."""
    n_bytes, size = (2**22, 256) if toy else (2**31, 8192)
    a = torch.empty(n_bytes, dtype=torch.int8, device=device)
    b = torch.empty_like(a)
    copy = min(seconds(lambda: b.copy_(a), device) for _ in range(20))
    figures: Figures = {"bytes_per_second": 2 * n_bytes / copy}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        x = torch.randn(size, size, dtype=dtype, device=device)
        product = min(seconds(lambda x=x: x @ x, device) for _ in range(20))
        figures[f"flops_per_second_{name}"] = 2 * size**3 / product
    return figures


def parity(device: torch.device, toy: bool) -> Figures:
    """Run each check of ``gpu_parity``: how far it is from the CPU, and how far it may be."""
    figures: Figures = {}
    for name, check in (bar := tqdm(PARITY.items(), desc="parity")):
        bar.set_postfix_str(name)
        try:
            far, allowed = check(device)
            figures[name] = {"far": far, "allowed": allowed, "holds": far <= allowed}
        except Exception as error:  # one path that fails leaves the others to be tried
            figures[name] = {"error": f"{type(error).__name__}: {error}"[:500], "holds": False}
    return figures


def decoding(device: torch.device, toy: bool) -> Figures:
    """Measure one text's steps: the median of some, after those in which a compiler is at work."""
    shapes = {"toy": _TOY} if toy else _DECODED
    figures: Figures = {}
    for shape, config in shapes.items():
        for scheme in ("bf16", "int8", "int4"):
            model = build(config, device=device, dtype="bf16")
            if scheme != "bf16":
                quantize(model, scheme)
            weights = {w.data_ptr(): w for w in [*model.parameters(), *model.buffers()]}
            read = sum(w.numel() * w.element_size() for w in weights.values())
            if not config.tie_embeddings:  # of that table one row is read
                read -= sum(w.numel() * w.element_size() for w in model.tok_embeddings.parameters())
            for compile in (False, True):
                times = list(_step_times(model, device, compile=compile, n=8 if toy else 64))
                second = statistics.median(times[len(times) // 2 :])
                figures[f"{shape} {scheme}{' compiled' if compile else ''}"] = {
                    "tokens_per_second": 1 / second,
                    "bytes_read": read,
                    "bytes_per_second": read / second,
                }
            del model, weights
    return figures


def _step_times(model: torch.nn.Module, device: torch.device, *, compile: bool, n: int) -> list[float]:
    steps = decode(model, [[1, 2, 3]], max_new_tokens=n, compile=compile)
    return [seconds(lambda: next(steps), device) for _ in range(n - 1)]


def training(device: torch.device, toy: bool) -> Figures:
    """Measure steps of the one training loop: bf16, compiled, the loss in chunks, AdamW."""
    shapes = {"toy": (_TOY, 2, 32)} if toy else _TRAINED
    figures: Figures = {}
    for name, (config, batch, length) in shapes.items():
        n_steps = 4 if toy else 12
        tokens = torch.randint(config.vocab_size, (batch * (length + 1) * 4,)).numpy().astype("uint32")
        how = {"precision": "bf16", "warmup_steps": 2, "compile": not toy}
        recipe = TrainConfig(steps=n_steps, batch_size=batch, seq_len=length, **how)
        trainer = Trainer(build(config, device=device), tokens, recipe)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        speeds = [metrics["tokens_per_second"] for metrics in islice(trainer.run(), n_steps)]
        flops = 3 * sum(cost.flops_per_token(config, context=(length + 1) / 2).values())
        speed = statistics.median(speeds[n_steps // 2 :])
        figures[name] = {"tokens_per_second": speed, "flops_per_second": speed * flops}
        if device.type == "cuda":
            figures[name]["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        del trainer
    return figures


def meta(device: torch.device, toy: bool) -> Figures:
    """Build each published size without memory, read a prompt, and write one token behind it."""
    figures: Figures = {}
    for name in ("tiny", "llama-65b") if toy else PRESETS:
        config = preset(name)
        model = build(config, device="meta", dtype="bf16")
        cache = model.make_cache(batch_size=2, max_seq_len=32)
        prompt, token = (torch.zeros(2, n, dtype=torch.long, device="meta") for n in (16, 1))
        shapes = [model(prompt, cache=cache).shape, model(token, positions=token + 16, cache=cache).shape]
        figures[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "holds": shapes == [(2, 16, config.n_outputs), (2, 1, config.n_outputs)],
        }
    return figures


PARTS = {"limits": limits, "parity": parity, "decode": decoding, "training": training, "meta": meta}


def with_shares(results: dict[str, Figures]) -> dict[str, Figures]:
    """Set the speeds beside the limits that the same run measured."""
    bounds = results.get("limits", {})
    for part, figure, limit, share in (
        ("decode", "bytes_per_second", "bytes_per_second", "share_of_bandwidth"),
        ("training", "flops_per_second", "flops_per_second_bf16", "mfu"),
    ):
        for row in results.get(part, {}).values():
            if isinstance(row, dict) and limit in bounds:
                row[share] = row[figure] / bounds[limit]
    return results


def failures(results: dict[str, Figures]) -> list[str]:
    """Return what did not end, and what is further from the CPU than it may be."""
    bad = [part for part, figures in results.items() if "error" in figures]
    for part, figures in results.items():
        rows = {name: row for name, row in figures.items() if isinstance(row, dict)}
        bad += [f"{part}: {name}" for name, row in rows.items() if not row.get("holds", True)]
    return bad


def run_part(part: str, args: argparse.Namespace) -> Figures:
    """Run a part in a process of its own; what goes wrong there is said here."""
    command = [sys.executable, __file__, "--part", part, "--device", args.device, *(["--toy"] if args.toy else [])]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_SECONDS[part])
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {_SECONDS[part]} s"}
    if done.returncode:
        return {"error": f"ended with status {done.returncode}; its last words are above"}
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.perf_counter() - start}


def machine(device: str) -> Figures:
    """Say where and with what this was measured."""
    is_cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()} CPU"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version(), "date": f"{date.today()}"}


def main() -> int:
    """Run what was asked for; keep it after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="tiny models: every path, no figure worth keeping")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](torch.device(args.device), args.toy)))
        return 0
    if args.device == "cpu" and not args.toy:
        parser.error("there is no CUDA device here; --toy runs every path on the CPU, with tiny models")
    results: dict[str, Figures] = {}
    for part in args.only:
        results[part] = run_part(part, args)
        kept = {"machine": machine(args.device), "toy": args.toy, **with_shares(results)}
        replace_file(args.out, (json.dumps(kept, indent=1) + "\n").encode())
    bad = failures(results)
    print(f"{args.out}: {', '.join(results)}; " + (f"failed: {'; '.join(bad)}" if bad else "all of it held"))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
