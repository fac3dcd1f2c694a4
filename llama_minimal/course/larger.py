"""The larger model of Part III: the shape of stories-15m with the course's tokenizer, trained on the Llama Valley.

    python -m llama_minimal.course.larger train             writes runs/larger; stopped, the same command goes on

Its weights do not come with the package. Recorded runs use it where size matters; `load` returns it.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llama_minimal.checkpoint import COURSE
from llama_minimal.checkpoint import load as load_checkpoint
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.course.long_run import long_run
from llama_minimal.course.valley_tokens import held_out_tokens, valley_tokens
from llama_minimal.devices import find_device
from llama_minimal.model import Llama, build
from llama_minimal.run_folder import has_model
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec, load_tokenizer

FOLDER = Path("runs/larger")
COMMAND = "python -m llama_minimal.course.larger train"
HOW_LONG = "about two minutes on a data-center GPU, two to three hours on two CPU cores"
PARTS = 70  # 66 million tokens: as many as the steps read
RECIPE = TrainConfig(
    steps=2000,
    batch_size=64,
    seq_len=512,
    short_seq_len=256,
    align_documents=True,
    optimizer="muon",
    lr=4e-3,
    embedding_lr_ratio=2.0,
    schedule="linear",
    min_lr_ratio=0.0,
    warmup_steps=100,
    weight_decay=0.2,
    precision="bf16",
    validate_every=250,
    snapshot_every=100,
    keep_snapshots=1,
    keep_best=False,
)
"""The course model's recipe, with sixteen times as many tokens a step, a tenth of the steps and a higher rate."""


def load(folder: str | Path = FOLDER, *, dtype: torch.dtype | None = None) -> tuple[Llama, TextCodec]:
    """Return the larger model and its tokenizer.

    Args:
        folder: where it was trained.
        dtype: None keeps the bfloat16 of the file.

    Raises:
        ValueError: if it has not been trained there; the message says how.
    """
    if not has_model(Path(folder)):
        state = "is not finished" if Path(folder, "text.npy").exists() else "is not there"
        raise ValueError(f"the larger model {state} in {folder}; train it by: {COMMAND} ({HOW_LONG})")
    return load_checkpoint(folder, dtype=dtype)


def shape() -> LlamaConfig:
    """Return the shape: that of stories-15m, with the course model's vocabulary and context."""
    course = preset("course")
    return preset("stories-15m", vocab_size=course.vocab_size, max_seq_len=course.max_seq_len)


def train(out: Path = FOLDER, *, device: str | None = None, steps: int | None = None, n_parts: int = PARTS) -> Path:
    """Tell the text, train the model, and write it with its card; go on with what was begun.

    Args:
        device: None means the best there is.
        steps: fewer than those of the recipe, to try it.
        n_parts: fewer, likewise.

    Raises:
        ValueError: if there is no such device, or the folder holds another run.
    """
    on = find_device(device)
    if on.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = load_tokenizer(COURSE)
    started = time.perf_counter()
    tokens = valley_tokens(out / "text.npy", n_parts)
    notes = {"seconds_for_the_text": round(time.perf_counter() - started, 1)}
    steps = steps or RECIPE.steps
    recipe = replace(
        RECIPE,
        steps=steps,
        warmup_steps=min(RECIPE.warmup_steps, steps // 10),
        micro_batch_size=8 if on.type == "cpu" else None,
    )
    return long_run(
        "The larger model of llama_minimal's course: the shape of stories-15m, trained on the Llama Valley.",
        out,
        build(shape(), device=on, seed=recipe.seed),
        tokenizer,
        tokens,
        recipe,
        validation=held_out_tokens(200, tokenizer),
        notes=notes,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the larger model."""
    parser = argparse.ArgumentParser(prog=COMMAND.removesuffix(" train"), description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train"], help=f"train it: {HOW_LONG}")
    parser.add_argument("--device", help="cuda, mps or cpu; left out: the first of these that is there")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"its folder; {FOLDER} if left out")
    parser.add_argument("--steps", type=int, help="fewer, to try it")
    parser.add_argument("--parts", type=int, default=PARTS, help="of the text, a million tokens each; fewer, to try it")
    given = parser.parse_args(arguments)
    try:
        print(train(given.out, device=given.device, steps=given.steps, n_parts=given.parts))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the newest snapshot is kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
