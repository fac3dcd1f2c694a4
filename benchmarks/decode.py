"""Tokens per second of a model that writes, beside transformers, llama2.c and llama.cpp; one run, alternating repeats.

    python benchmarks/decode.py                                             ours and transformers
    python benchmarks/decode.py --llama2c run --llama-bench llama-bench     and two programs in C
    python benchmarks/decode.py --before ../earlier                         and an earlier checkout of this project
    python benchmarks/decode.py --precisions int8 int4 …                    quantized, beside llama.cpp's Q8_0 and Q4_0

Every engine gets the same random weights (vocabulary 32,000), one token as its prompt, the same number of tokens to
write and of threads, and runs in a process of its own; the engines take turns, in another order each time. A ratio is
the median over the repeats of the engine's speed by the first engine's within a repeat, its range the smallest and the
largest. "Share" is what the engine reads of its weights per second by what the same machine reads of memory, measured
between the repeats. Rows "first token" are the time until the first token of a prompt of 512 (stories-15m: 192).

Optional engines:
  llama2.c   one C file, github.com/karpathy/llama2.c. Build: gcc -Ofast -fopenmp -march=native run.c -lm -o run
  llama.cpp  github.com/ggml-org/llama.cpp, or the folder vendor/llama.cpp in the source package of llama-cpp-python:
             cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON && cmake --build build --target llama-bench
             Its file is written by the Python package gguf (pip install gguf).
"""

import argparse
import datetime
import json
import os
import platform
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

LIMIT = 600  # seconds that one answer of an engine may take; compiling counts
BITS_OF_SCHEMES = {"int8": 8, "int4": 5}  # with a step and an offset of 16 bits for each 32 numbers
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Engine:
    """A process that loads a model once, and writes whenever it is asked."""

    name: str
    bytes_per_token: float
    ask: Callable[[], float]  # seconds per step


# ---- in the process of an engine: one line in, one number out


def work(side: str, folder: str, precision: str, compiled: str, batch: str, tokens: str, prompt: str) -> None:
    """Load, warm up, then time one generation per line of input."""
    import torch

    torch.set_num_threads(int(os.environ["THREADS"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    prompts = torch.full((int(batch), 1), 1)
    if int(prompt) > 1:
        prompts = torch.randint(32_000, (int(batch), int(prompt)), generator=torch.Generator().manual_seed(0))
    if side == "ours":
        scheme = precision if precision in BITS_OF_SCHEMES else None
        write = our_writer(folder, device, dtype, compiled == "compiled", prompts, int(tokens), scheme)
    else:
        write = their_writer(folder, device, dtype, compiled == "compiled", prompts, int(tokens))
    for _ in range(3):
        write()
    print("ready", flush=True)
    for _ in sys.stdin:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        write()
        if device == "cuda":
            torch.cuda.synchronize()
        print((time.perf_counter() - start) / int(tokens), flush=True)


def our_writer(folder, device, dtype, compiled, prompts, n, scheme):
    """Return a function that writes n tokens after each prompt, in int8 or int4 if a scheme is given."""
    from llama_minimal.checkpoint import load
    from llama_minimal.generation import decode

    model, _ = load(folder, device=device, dtype=None if scheme else dtype)
    if scheme:
        from llama_minimal.quantization import quantize

        quantize(model, scheme)
    return lambda: list(decode(model, prompts.tolist(), max_new_tokens=n, compile=compiled))


def their_writer(folder, device, dtype, compiled, prompts, n):
    """Do the same with transformers: compiled is its static cache and a compiled forward, as its documentation says."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    prompts = prompts.to(device)
    options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False}
    if compiled:
        options["cache_implementation"] = "static"
        model.forward = torch.compile(model.forward, mode="reduce-overhead" if device == "cuda" else None)
    mask = torch.ones_like(prompts)

    def write() -> object:
        with torch.inference_mode():
            return model.generate(prompts, attention_mask=mask, **options)

    return write


# ---- here


@contextmanager
def python_engine(root: Path, threads: int, *arguments: object) -> Iterator[Callable[[], float]]:
    """Start a process of this file on the package in ``root``."""
    command = [sys.executable, __file__, "--work", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(root), "THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as complaints:  # a full pipe would hold the engine up
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
        process = subprocess.Popen(command, text=True, env=env, **pipes)
        try:
            line = process.stdout.readline()
            while line and line.strip() != "ready":
                line = process.stdout.readline()
            if not line:
                complaints.seek(0)
                raise SystemExit(f"{arguments} ended: {complaints.read()[-2000:]}")

            def ask() -> float:
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield ask
        finally:
            process.kill()
            process.wait()


def write_models(folder: Path, shape: str, with_gguf: bool) -> None:
    """Write the same random weights in every engine's format."""
    import torch

    from llama_minimal.checkpoint import save
    from llama_minimal.config import preset
    from llama_minimal.model import build

    model = build(preset(shape, max_seq_len=1024), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(3)  # so that greedy text does not stand still at once
    save(model, folder)
    _write_llama2c(model, folder / "model.bin")
    if with_gguf:
        _write_gguf(model, folder)


def _write_llama2c(model, path: Path) -> None:
    """Write its first format: seven integers, then float32 tensors, each kind over all layers; and a vocabulary."""
    c, state = model.config, model.state_dict()
    layers = [f"layers.{i}." for i in range(c.n_layers)]
    kinds = ["attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    kinds += ["ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
    names = ["tok_embeddings.weight"] + [f"{layer}{kind}.weight" for kind in kinds for layer in layers]
    with path.open("wb") as file:
        sizes = (c.dim, c.hidden_dim, c.n_layers, c.n_heads, c.n_kv_heads, c.vocab_size, c.max_seq_len)
        file.write(struct.pack("7i", *sizes))
        for name in [*names, "norm.weight"]:
            file.write(state[name].numpy().tobytes())
        file.write(bytes(4 * c.max_seq_len * c.head_dim))  # room of an old table
    with path.with_name("tokenizer.bin").open("wb") as file:
        file.write(struct.pack("i", 8))
        for i in range(c.vocab_size):
            word = f"{i:x}".encode()
            file.write(struct.pack("fi", 0.0, len(word)) + word)


def _write_gguf(model, folder: Path) -> None:
    import gguf
    import torch

    c = model.config
    names = {f"attention.w{letter}": f"attn_{letter}" for letter in "qkv"}
    names |= {"attention.wo": "attn_output", "attention_norm": "attn_norm", "ffn_norm": "ffn_norm"}
    names |= {"feed_forward.w1": "ffn_gate", "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up"}
    for kind in ("F32", "BF16", "Q8_0", "Q4_0"):
        writer = gguf.GGUFWriter(folder / f"{kind}.gguf", "llama")
        writer.add_context_length(c.max_seq_len)
        writer.add_embedding_length(c.dim)
        writer.add_block_count(c.n_layers)
        writer.add_feed_forward_length(c.hidden_dim)
        writer.add_head_count(c.n_heads)
        writer.add_head_count_kv(c.n_kv_heads)
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_vocab_size(c.vocab_size)
        writer.add_tokenizer_model("no_vocab")
        for name, tensor in model.named_parameters():
            found = re.fullmatch(r"layers\.(\d+)\.(.*)\.weight", name)
            theirs = f"blk.{found[1]}.{names[found[2]]}.weight" if found else _outside(name)
            array = tensor.detach().to(torch.float32).numpy()
            quant = gguf.GGMLQuantizationType[kind if tensor.ndim == 2 else "F32"]
            writer.add_tensor(theirs, gguf.quants.quantize(array, quant), raw_dtype=quant)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _outside(name: str) -> str:
    return {"tok_embeddings.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]


def ask_llama2c(program: str, folder: Path, tokens: int, threads: int) -> float:
    """Return seconds per token as the program itself measures them."""
    files = [str(folder / "model.bin"), "-z", str(folder / "tokenizer.bin")]
    command = [program, *files, "-t", "0", "-n", str(tokens), "-i", ""]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, env=env, timeout=LIMIT, check=True)
    return 1 / float(re.search(rb"achieved tok/s: ([\d.]+)", done.stderr)[1])


def ask_llama_bench(program: str, model: Path, tokens: int, prompt: int, threads: int) -> float:
    """Return seconds per token that it writes, or of a whole prompt."""
    lengths = ["-p", "0", "-n", str(tokens)] if prompt == 1 else ["-p", str(prompt), "-n", "0"]
    command = [program, "-m", str(model), *lengths, "-t", str(threads), "-r", "1", "-ngl", "0", "-o", "json"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=True)
    speed = json.loads(done.stdout)[0]["avg_ts"]
    return (1 if prompt == 1 else prompt) / speed


def bandwidth(threads: int) -> float:
    """Return bytes per second that this machine reads of memory (on a GPU: reads and writes in a copy)."""
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = torch.ones(1 << 27, dtype=torch.int64, device=device)
    best = float("inf")
    for _ in range(4):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        data.max()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return data.nbytes / best


def engines(stack: ExitStack, args: argparse.Namespace, folder: Path, task: tuple[int, int, int]) -> Iterator[Engine]:
    """Start the engines that were asked for."""
    batch, tokens, prompt = task
    n = (folder / "model.bin").stat().st_size / 4  # parameters, nearly
    roots = {"ours": ROOT} | ({"before": Path(args.before).resolve()} if args.before else {}) | {"transformers": ROOT}
    for name, root in roots.items():
        for precision in args.precisions:
            for way in args.ways:
                is_quantized = precision in BITS_OF_SCHEMES
                if name == "transformers" and is_quantized:
                    continue
                if way == "compiled" and not is_compiled(args, name, batch, prompt):
                    continue
                side = "theirs" if name == "transformers" else "ours"
                start = python_engine(root, args.threads, side, folder, precision, way, batch, tokens, prompt)
                label = f"{name} {precision} {way}"
                print(f"  starting {label} …", end="\r", file=sys.stderr, flush=True)
                bits = BITS_OF_SCHEMES.get(precision, 32 if precision == "fp32" else 16)
                yield Engine(label, n * bits / 8, stack.enter_context(start))
    if args.llama2c and batch == 1 == prompt:
        yield Engine("llama2.c fp32", n * 4, lambda: ask_llama2c(args.llama2c, folder, tokens, args.threads))
    if args.llama_bench and batch == 1:
        for kind, size in {"F32": 4, "BF16": 2, "Q8_0": 34 / 32, "Q4_0": 18 / 32}.items():
            model = folder / f"{kind}.gguf"

            def ask(model: Path = model) -> float:
                return ask_llama_bench(args.llama_bench, model, tokens, prompt, args.threads)

            yield Engine(f"llama.cpp {kind}", n * size, ask)


def is_compiled(args: argparse.Namespace, name: str, batch: int, prompt: int) -> bool:
    """Return whether an engine is offered compiled, too: ours on a CPU for a few texts and for tiny models."""
    from llama_minimal.compiling import FEW

    ours = args.has_gpu or batch <= FEW or set(args.shapes) <= {"tiny", "small"}
    return prompt == 1 and (name == "transformers" or (name == "ours" and ours))


def compare(args: argparse.Namespace, folder: Path, shape: str, task: tuple[int, int, int]) -> None:
    """Let all engines take turns and print a table."""
    batch, tokens, prompt = task
    with ExitStack() as stack:
        running = list(engines(stack, args, folder, task))
        seconds: dict[str, list[float]] = {engine.name: [] for engine in running}
        reads = []
        for repeat in range(args.repeats):
            reads.append(bandwidth(args.threads))
            for engine in random.Random(repeat).sample(running, len(running)):
                print(f"  repeat {repeat + 1}, {engine.name} …{' ' * 20}", end="\r", file=sys.stderr, flush=True)
                seconds[engine.name].append(engine.ask())
    print(" " * 60, end="\r", file=sys.stderr)
    read = statistics.median(reads)
    what = f"batch {batch}, {tokens} tokens" if prompt == 1 else f"first token of a prompt of {prompt}"
    print(f"\n{shape}, {what}, {args.threads} threads; this machine reads {read / 1e9:.0f} GB/s\n")
    unit = "tokens/s" if prompt == 1 else "ms"
    print(f"| engine | {unit} | share of bandwidth | by {running[0].name} | its range |\n|---|---|---|---|---|")
    for engine in running:
        taken = statistics.median(seconds[engine.name])
        pairs = zip(seconds[running[0].name], seconds[engine.name], strict=True)
        ratios = sorted(first / other for first, other in pairs)
        value = f"{batch / taken:.1f}" if prompt == 1 else f"{taken * 1e3:.0f}"
        share = f"{engine.bytes_per_token / taken / read:.0%}" if prompt == 1 else ""
        print(f"| {engine.name} | {value} | {share} | {statistics.median(ratios):.2f}× | ", end="")
        print(f"{ratios[0]:.2f}–{ratios[-1]:.2f} |", flush=True)


def main() -> None:
    """Read the options, write the models, compare."""
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["stories-15m", "stories-110m"], metavar="PRESET")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=128, help="tokens to write after a prompt of one")
    parser.add_argument("--prompt", type=int, default=512, help="tokens before a first one; 0 leaves that out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "int8", "int4"], default=["fp32", "bf16"])
    parser.add_argument("--ways", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--llama2c", metavar="PROGRAM", help="a built `run` of llama2.c")
    parser.add_argument("--llama-bench", metavar="PROGRAM", help="a built `llama-bench` of llama.cpp")
    parser.add_argument("--before", metavar="FOLDER", help="an earlier checkout of this project")
    args = parser.parse_args()
    import torch
    import transformers

    args.has_gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {where}, {versions}")
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as name:
            write_models(Path(name), shape, with_gguf=bool(args.llama_bench))
            for batch in args.batches:
                compare(args, Path(name), shape, (batch, args.tokens, 1))
            if args.prompt:
                compare(args, Path(name), shape, (1, 1, args.prompt))


if __name__ == "__main__":
    main()
