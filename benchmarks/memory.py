"""Measure the memory of training: steps with whole logits, with chunks of them, and transformers', each in a process.

    python benchmarks/memory.py                        about four minutes on 2 CPU cores
    python benchmarks/memory.py --vocab-size 128256 --batch 8 256 --repeats 3

Each side trains the shape ``stories-15m`` in float32 with fused AdamW for three steps. Printed are the peak of the
process and how much of it came on top of the model (on a GPU both are the allocator's), as a share of transformers';
and the speed of chunks beside whole logits, from alternating steps in one process.
"""

import argparse
import gc
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
import transformers
from compare import DEVICE, _memory_now, _memory_peak, alternate

from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.loss import next_token
from llama_minimal.model import build

SIDES = ("chunks", "whole", "transformers")


def make(side: str, config: LlamaConfig) -> torch.nn.Module:
    """Build a model with random weights."""
    if side != "transformers":
        return build(config, device=DEVICE)
    same = {
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "attn_implementation": "sdpa",
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**same)).to(DEVICE)


def make_step(side: str, model: torch.nn.Module, batch: tuple[int, int]) -> Callable[[], None]:
    """Return what does one training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(model.config.vocab_size, (batch[0], batch[1] + 1), device=DEVICE)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
    head_loss = chunked_loss if side == "chunks" else None

    def step() -> None:
        if side == "transformers":
            loss = model(inputs, labels=targets, shift_labels=targets, use_cache=False).loss
        else:
            total, count = next_token(model, (inputs, targets), loss=head_loss)
            loss = total / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(side: str, vocab_size: int, batch: tuple[int, int]) -> tuple[float, float]:
    """Return the peak of this process in MB, and how much of it came after the model was there."""
    model = make(side, preset("stories-15m", vocab_size=vocab_size))
    gc.collect()
    before = _memory_now()
    step = make_step(side, model, batch)
    for _ in range(3):
        step()
    return _memory_peak(), _memory_peak() - before


def measure_apart(side: str, vocab_size: int, args: argparse.Namespace) -> list[tuple[float, float]]:
    """Measure a side in fresh processes."""
    command = [sys.executable, __file__, "--side", side, "--vocab-size", str(vocab_size), "--batch"]
    command += map(str, args.batch)
    results = []
    for _ in range(args.repeats):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        results.append(tuple(map(float, done.stdout.split()[-2:])))
    return results


def compare_speed(vocab_size: int, args: argparse.Namespace) -> list[float]:
    """Return how much faster a step with chunks is than one with whole logits, repeat by repeat."""
    model = make("whole", preset("stories-15m", vocab_size=vocab_size))
    chunks, whole = (make_step(side, model, args.batch) for side in ("chunks", "whole"))
    return alternate(chunks, whole, repeats=args.steps).ratios


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[32_000, 128_256])
    parser.add_argument("--batch", type=int, nargs=2, default=[8, 256], metavar=("ROWS", "TOKENS"))
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side")
    parser.add_argument("--steps", type=int, default=5, help="alternating steps that are timed; 0 leaves speed out")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.side:
        print(*measure(args.side, args.vocab_size[0], args.batch))
        return
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{where}, {torch.get_num_threads()} threads, {versions}, {args.batch[0]} × {args.batch[1]} tokens\n")
    print("| vocabulary | loss | peak | of transformers' | on top of the model | of transformers' |")
    print("|---|---|---|---|---|---|", flush=True)
    for vocab_size in args.vocab_size:
        found = {side: measure_apart(side, vocab_size, args) for side in reversed(SIDES)}
        medians = {side: list(map(statistics.median, zip(*rows, strict=True))) for side, rows in found.items()}
        for side, (peak, above) in medians.items():
            shares = [mine / theirs for mine, theirs in zip((peak, above), medians["transformers"], strict=True)]
            print(f"| {vocab_size:,} | {side} | {peak:,.0f} MB | {shares[0]:.2f}× ", end="")
            print(f"| {above:,.0f} MB | **{shares[1]:.2f}×** |", flush=True)
    for vocab_size in args.vocab_size if args.steps else ():
        ratios = compare_speed(vocab_size, args)
        speed = f"{statistics.median(ratios):.2f}× as fast as whole logits ({min(ratios):.2f}–{max(ratios):.2f})"
        print(f"\nvocabulary {vocab_size:,}: chunks are {speed}")


if __name__ == "__main__":
    main()
