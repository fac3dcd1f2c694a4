"""Compare llama_minimal with transformers: same weights, same process, alternating repeats, ratios with their spread.

    python benchmarks/compare.py                      everything, about ten minutes on 2 CPU cores
    python benchmarks/compare.py --shapes small --only train decode --repeats 5

A ratio above 1 means that llama_minimal is faster (or smaller). On a GPU it also prints how near the speeds come to
the machine's own limits, measured in the same run: MBU for decoding (bytes of weights read per second / bandwidth) and
MFU for training (operations per second / peak of a large matrix product).
"""

import argparse
import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM

from llama_minimal import cost
from llama_minimal.checkpoint import save
from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.data import documents
from llama_minimal.generation import decode
from llama_minimal.loss import next_token
from llama_minimal.model import Llama, build
from llama_minimal.tokenizer import Tokenizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A model, and how much work a measurement of it is."""

    config: LlamaConfig
    train_batch: tuple[int, int]
    prompt: int
    new_tokens: int


SHAPES = {
    "small": Shape(preset("small"), (8, 256), 128, 64),
    "stories-15m": Shape(preset("stories-15m"), (4, 256), 192, 48),
    "stories-110m": Shape(preset("stories-110m"), (1, 256), 512, 24),
}


@dataclass(frozen=True)
class Result:
    """Seconds of each repeat."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """theirs / ours, repeat by repeat."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def pair(config: LlamaConfig, dtype: torch.dtype) -> tuple[Llama, LlamaForCausalLM]:
    """Build the same model in both libraries."""
    ours = build(config, device=DEVICE, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save(ours, folder)
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(DEVICE)
    theirs.generation_config.pad_token_id = 0
    return ours.to(dtype), theirs


def seconds(work: Callable[[], object]) -> float:
    """Time one call, to the end of all GPU work."""
    _synchronize()
    start = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - start


def alternate(ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int) -> Result:
    """Time both in turn, each first in every other repeat, after a warm-up."""
    for work in (ours, theirs, ours, theirs):
        work()
    result = Result([], [])
    for repeat in range(repeats):
        sides = [(ours, result.ours), (theirs, result.theirs)]
        for work, times in sides if repeat % 2 == 0 else reversed(sides):
            times.append(seconds(work))
    return result


def compare_training(shape: Shape, precision: str, repeats: int, *, compile: bool) -> tuple[Result, int]:
    """Time whole training steps: forward, backward, clipping, fused AdamW.

    Compiled, ours is what the trainer compiles, each block, and theirs is the whole model.
    """
    ours, theirs = pair(shape.config, torch.float32)
    if compile:
        torch.compiler.reset()  # it keeps only so much code of a function, of the models before too
        theirs.compile(dynamic=False)
        for block in ours.blocks():
            block.compile(dynamic=False)
    tokens = torch.randint(shape.config.vocab_size, (shape.train_batch[0], shape.train_batch[1] + 1), device=DEVICE)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()

    def our_loss() -> torch.Tensor:
        total, count = next_token(ours, (inputs, targets), loss=chunked_loss)
        return total / count

    def their_loss() -> torch.Tensor:
        return theirs(inputs, labels=targets, shift_labels=targets, use_cache=False).loss

    def step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)  # as our trainer's

        def work() -> None:
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
                value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return work

    assert abs(our_loss().item() - their_loss().item()) < 1e-3
    result = alternate(step(ours, our_loss), step(theirs, their_loss), repeats=repeats)
    return result, inputs.numel()


def compare_decoding(shape: Shape, precision: str, batch: int, repeats: int, *, compile: bool) -> tuple[Result, int]:
    """Time greedy generation after a short prompt; transformers runs its default, eager, with its cache."""
    ours, theirs = pair(shape.config, DTYPES[precision])
    prompts = torch.randint(shape.config.vocab_size, (batch, 16), device=DEVICE)
    n = shape.new_tokens

    def our_work() -> list[list[int]]:
        steps = decode(ours, prompts.tolist(), max_new_tokens=n, compile=compile)
        return [[token for row in step for token in row.tokens] for step in steps]

    def their_work() -> torch.Tensor:
        with torch.inference_mode():
            return theirs.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n, min_new_tokens=n, do_sample=False
            )

    if precision == "fp32":  # the same work: the same tokens
        assert torch.tensor(our_work(), device=DEVICE).T.equal(their_work()[:, 16:])
    return alternate(our_work, their_work, repeats=repeats), batch * n


def compare_prefill(shape: Shape, precision: str, repeats: int) -> tuple[Result, int]:
    """Time a long prompt up to its first new token."""
    ours, theirs = pair(shape.config, DTYPES[precision])
    prompts = torch.randint(shape.config.vocab_size, (1, shape.prompt), device=DEVICE)

    def our_work() -> list[object]:
        return list(islice(decode(ours, prompts.tolist(), max_new_tokens=1), 1))

    def their_work() -> torch.Tensor:
        with torch.inference_mode():
            return theirs.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=1, min_new_tokens=1, do_sample=False
            )

    return alternate(our_work, their_work, repeats=repeats), shape.prompt


def peak_memory(shape: Shape, side: str, task: str) -> float:
    """Return the peak memory of three training steps or of a generation, in MB; run in a process of its own."""
    ours, theirs = pair(shape.config, torch.float32)
    model = ours if side == "ours" else theirs
    del ours, theirs
    gc.collect()
    before = _memory_now()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(shape.config.vocab_size, (shape.train_batch[0], shape.train_batch[1] + 1), device=DEVICE)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
    for _ in range(3):
        if task == "decode":
            prompt = inputs[:1, :16]
            if side == "ours":
                list(decode(model, prompt.tolist(), max_new_tokens=shape.new_tokens))
            else:
                model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=shape.new_tokens)
        else:
            if side == "ours":
                total, count = next_token(model, (inputs, targets), loss=chunked_loss)
                loss = total / count
            else:
                loss = model(inputs, labels=targets, shift_labels=targets, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return _memory_peak() - before


def compare_memory(name: str, task: str, repeats: int) -> Result:
    """Measure each side in fresh processes, over and above the loaded model."""
    result = Result([], [])
    for _ in range(repeats):
        for side, values in (("ours", result.ours), ("theirs", result.theirs)):
            command = [sys.executable, __file__, "--peak-memory", side, task, "--shapes", name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            values.append(float(done.stdout.split()[-1]))
    return result


def compare_import(repeats: int) -> Result:
    """Time ``import`` up to the model class, in fresh processes."""
    imports = {
        "ours": "from llama_minimal import Llama, generate, load",
        "theirs": "from transformers import LlamaForCausalLM",
    }

    def run(side: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", imports[side]], check=True, timeout=120)

    return alternate(run("ours"), run("theirs"), repeats=repeats)


LOAD = {
    "ours": ("from llama_minimal import load", "model, tokenizer = load(folder)"),
    "theirs": (
        "from transformers import AutoTokenizer, LlamaForCausalLM",
        "model = LlamaForCausalLM.from_pretrained(folder, dtype='auto'); "
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ),
}
TIMED_LOAD = """
import sys, time
folder = sys.argv[1]
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{load}
loaded = time.perf_counter()
import torch
with torch.inference_mode():
    model(torch.zeros(1, 1, dtype=torch.long))
print(loaded - start, loaded - imported, time.perf_counter() - imported)
"""


def compare_load(shape: Shape, precision: str, format: str, repeats: int) -> dict[str, Result]:
    """Time model and tokenizer out of a folder, in fresh processes; the files are in the page cache.

    Returns:
        With the import, without it, and without it but with the logits of a first token: transformers maps the file
        into memory, and reads it only then.
    """
    tokenizer = Tokenizer.train((text.text for text in documents("python-docs")), vocab_size=8000)
    names = ("import and load", "load", "load, first logits")
    results = {name: Result([], []) for name in names}
    with tempfile.TemporaryDirectory() as place:
        folders = {"ours": f"{place}/{format}", "theirs": f"{place}/huggingface"}
        for kind in {format, "huggingface"}:
            save(build(shape.config).to(DTYPES[precision]), f"{place}/{kind}", tokenizer, format=kind)
        for repeat in range(-1, repeats):  # one to warm up
            for side in ("ours", "theirs") if repeat % 2 else ("theirs", "ours"):
                imports, load = LOAD[side]
                code = TIMED_LOAD.format(imports=imports, load=load)
                command = [sys.executable, "-c", code, folders[side]]
                done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
                for name, value in zip(names, done.stdout.split()[-3:], strict=True):
                    if repeat >= 0:
                        getattr(results[name], side).append(float(value))
    return results


def machine_limits() -> tuple[float, float]:
    """Measure memory bandwidth in bytes/s (a copy reads and writes) and the FLOP/s of a large bf16 product."""
    a = torch.empty(2**30, dtype=torch.int8, device=DEVICE)
    b = torch.empty_like(a)
    x = torch.randn(8192, 8192, dtype=torch.bfloat16, device=DEVICE)
    copy, product = (min(seconds(work) for _ in range(10)) for work in (lambda: b.copy_(a), lambda: x @ x))
    return 2 * a.numel() / copy, 2 * 8192**3 / product


def _memory_now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of before: that of making both models
    return _kilobytes("VmRSS") / 1e3


def _memory_peak() -> float:
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return _kilobytes("VmHWM") / 1e3


def _kilobytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1.024


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class Table:
    """Print one row per measurement, as Markdown."""

    def __init__(self) -> None:
        print("| task | shape | precision | llama_minimal | transformers | ratio | its range |")
        print("|---|---|---|---|---|---|---|", flush=True)

    def row(self, task: str, shape: str, precision: str, result: Result, *, work: float | None, unit: str) -> None:
        """Add a row; ``work`` per call turns seconds into a speed, None leaves the values as they are."""
        ours, theirs = (statistics.median(values) for values in (result.ours, result.theirs))
        if work is not None:
            ours, theirs = work / ours, work / theirs
        ratios = result.ratios
        ratio = f"**{statistics.median(ratios):.2f}×** | {min(ratios):.2f}–{max(ratios):.2f}"
        print(f"| {task} | {shape} | {precision} | {ours:,.3g} {unit} | {theirs:,.3g} {unit} | {ratio} |", flush=True)


def main() -> None:
    """Run what was asked for."""
    tasks = ("train", "train-compiled", "decode", "compiled", "prefill", "memory", "load", "import")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--only", nargs="+", choices=tasks, default=list(tasks))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak-memory", nargs=2, metavar=("SIDE", "TASK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    if args.peak_memory:
        print(peak_memory(SHAPES[args.shapes[0]], *args.peak_memory))
        return
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()} CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{where}, {torch.get_num_threads()} threads, {versions}\n")
    limits = machine_limits() if DEVICE.type == "cuda" else None
    table = Table()
    for name in args.shapes:
        compare_shape(name, args, table, limits)
    if "import" in args.only:
        table.row("import", "", "", compare_import(args.repeats), work=None, unit="s")


def compare_shape(name: str, args: argparse.Namespace, table: Table, limits: tuple[float, float] | None) -> None:
    """Measure all tasks that were asked for at one shape."""
    shape = SHAPES[name]
    n = sum(cost.parameters(shape.config).values())
    for precision in DTYPES:
        for compile, task in ((False, "train"), (True, "train-compiled")):
            if task not in args.only:
                continue
            result, tokens = compare_training(shape, precision, args.repeats, compile=compile)
            what = f"train{', compiled' if compile else ''}, batch {shape.train_batch}"
            table.row(what, name, precision, result, work=tokens, unit="tokens/s")
            if limits:
                flops = 3 * sum(cost.flops_per_token(shape.config, context=shape.train_batch[1] / 2).values())
                print(f"  MFU {flops * tokens / statistics.median(result.ours) / limits[1]:.1%}")
        for compile in (False, True):
            for batch in (1, 8):
                if ("compiled" if compile else "decode") in args.only:
                    result, tokens = compare_decoding(shape, precision, batch, args.repeats, compile=compile)
                    task = f"decode{', compiled' if compile else ''}, batch {batch}"
                    table.row(task, name, precision, result, work=tokens, unit="tokens/s")
                    if limits:
                        read = n * DTYPES[precision].itemsize * tokens / batch
                        print(f"  MBU {read / statistics.median(result.ours) / limits[0]:.1%}")
        if "prefill" in args.only:
            result, tokens = compare_prefill(shape, precision, args.repeats)
            table.row(f"prefill, {shape.prompt} tokens", name, precision, result, work=tokens, unit="tokens/s")
        for format in ("native", "huggingface") if "load" in args.only else ():
            for task, result in compare_load(shape, precision, format, args.repeats).items():
                table.row(f"{task} ({format})", name, precision, result, work=None, unit="s")
    if "memory" in args.only:
        for task in ("training", "decode"):
            result = compare_memory(name, task, max(1, args.repeats // 3))
            table.row(f"memory, {task}", name, "fp32", result, work=None, unit="MB")


if __name__ == "__main__":
    main()
