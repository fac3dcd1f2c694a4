"""The rows of Part III's table: one course model, made smaller or quicker in every way that the part has shown.

    python -m llama_minimal.course.part_three train                all rows that need training, into runs/part_three
    python -m llama_minimal.course.part_three train "2:4"          one of them; stopped, the same command goes on
    python -m llama_minimal.course.part_three text                 only the text that they are trained on

On one core a row takes about a minute, all six less than ten. Then the recorded run ``part_three`` measures what is
there. Its rows without training, such as int8, need none of this; the early exit's are made when it is loaded.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llama_minimal import checkpoint
from llama_minimal.adaptive_computation import EarlyExit, ModelDraft, PromptLookup
from llama_minimal.course.exit_rule import exit_rule
from llama_minimal.course.experiments.early_exit import with_matrices
from llama_minimal.course.long_run import long_run
from llama_minimal.course.valley_tokens import held_out_tokens, valley_tokens
from llama_minimal.devices import find_device
from llama_minimal.distillation import Distillation, DistillationConfig
from llama_minimal.model import Llama
from llama_minimal.pruning import head_scores, keep_zeros, lowest_heads, prune, remove_heads, remove_layers
from llama_minimal.quantization import quantize, weight_bytes
from llama_minimal.run_folder import has_model
from llama_minimal.settings import TrainConfig
from llama_minimal.sharing import group_kv_heads, share_layers
from llama_minimal.tokenizer import TextCodec

FOLDER = Path("runs/part_three")
COMMAND = "python -m llama_minimal.course.part_three"
PARTS = 1  # about a million tokens
EXITS = [1, 2, 3]  # the layers after which a token may leave
RECIPE = TrainConfig(
    steps=100,
    batch_size=4,
    seq_len=512,
    align_documents=True,
    lr=1e-3,
    schedule="linear",
    min_lr_ratio=0.0,
    warmup_steps=5,
    weight_decay=0.0,
    precision="bf16",
    validate_every=100,
    snapshot_every=20,
    keep_snapshots=1,
    keep_best=False,
)
"""How every changed model is trained on: 0.2 million tokens, half a percent of what the course model has read."""


def _two_of_four(model: Llama, calibration: torch.Tensor) -> Llama:
    prune(model, "sparsegpt", pattern=(2, 4), calibration=calibration.split(8))
    return model


def _half_the_heads(model: Llama, calibration: torch.Tensor) -> Llama:
    scores, config = head_scores(model, calibration.split(8)), model.config
    return remove_heads(model, lowest_heads(scores, config.n_heads // 2, n_kv_heads=config.n_kv_heads))


def _first_and_last_layer(model: Llama, _: torch.Tensor) -> Llama:
    return remove_layers(model, range(1, model.config.n_layers - 1))


TRAINED: dict[str, Callable[[Llama, torch.Tensor], Llama]] = {
    "trained on": lambda model, _: model,
    "2:4": _two_of_four,
    "half the heads": _half_the_heads,
    "distilled": _first_and_last_layer,
    "grouped heads": lambda model, _: group_kv_heads(model, model.config.n_kv_heads // 2),
    "shared layers": lambda model, _: share_layers(model, 2),
}
"""Row → what makes its model of the course model and of calibration tokens, before it is trained."""
ROWS = ("fp32", "bf16", "int8", "int4", *TRAINED, "early exit", "speculative", "look-up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Hold what a row of the table is."""

    model: Llama | EarlyExit
    tokenizer: TextCodec
    draft: ModelDraft | PromptLookup | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory, those of a draft included."""
        drafted = weight_bytes(self.draft.model) if isinstance(self.draft, ModelDraft) else 0
        return weight_bytes(self.model) + drafted


def load(row: str, folder: str | Path = FOLDER) -> Candidate:
    """Return the model of a row, and its draft if it has one.

    Args:
        row: one of ``ROWS``.
        folder: where ``train`` has put those that were trained.

    Raises:
        ValueError: if there is no such row, or it has not been trained; the message says how.
    """
    if row not in ROWS:
        raise ValueError(f"there is no row {row!r}; there are {', '.join(ROWS)}")
    if row in TRAINED:
        return _trained(row, Path(folder))
    precision = torch.bfloat16 if row in ("bf16", "int8", "int4") else torch.float32
    model, tokenizer = checkpoint.load("course", dtype=precision)
    if row in ("int8", "int4"):
        quantize(model, row)
    if row == "early exit":  # the model stays as it is; each exit has a matrix, as in chapter 18
        with_matrices(model)
        return Candidate(model=_early_exit(model, tokenizer, Path(folder) / slug(row)), tokenizer=tokenizer)
    drafts = {
        "speculative": lambda: ModelDraft(model=_trained("distilled", Path(folder)).model),
        "look-up": PromptLookup,
    }
    return Candidate(model=model, tokenizer=tokenizer, draft=drafts.get(row, lambda: None)())


def _trained(row: str, folder: Path) -> Candidate:
    path = folder / slug(row)
    if not has_model(path):
        raise ValueError(f"the row {row!r} has not been trained in {folder}; run: {COMMAND} train {row!r}")
    model, tokenizer = checkpoint.load(path, dtype=torch.float32)
    return Candidate(model=model, tokenizer=tokenizer)


def _early_exit(model: Llama, tokenizer: TextCodec, folder: Path) -> EarlyExit:
    folder.mkdir(parents=True, exist_ok=True)
    return EarlyExit(model, exit_rule(folder, model, tokenizer, exits=EXITS), exits=EXITS)


def slug(row: str) -> str:
    """Return the name of a row's folder."""
    return row.replace(":", "-of-").replace(" ", "-")


def train(
    row: str,
    folder: str | Path = FOLDER,
    *,
    device: str | None = None,
    steps: int | None = None,
    n_parts: int = PARTS,
) -> Path:
    """Change the course model as a row says, train it on, and save it; go on with what was begun.

    Args:
        row: one of ``TRAINED``.
        device: None means the best there is.
        steps: fewer than those of the recipe, to try it.
        n_parts: of the text, a million tokens each; fewer, likewise.

    Raises:
        ValueError: if no such row is trained, there is no such device, or the folder holds another run.
    """
    _check(row)
    on, folder = find_device(device), Path(folder)
    course, tokenizer = checkpoint.load("course", dtype=torch.float32, device=on)
    tokens = text(folder, n_parts)
    model = TRAINED[row](course, _calibration(tokens).to(on))
    return long_run(
        f"The course model of llama_minimal, changed and trained on for Part III's table: {row}.",
        folder / slug(row),
        model,
        tokenizer,
        tokens,
        _recipe(steps, on),
        validation=held_out_tokens(20, tokenizer),
        **_options(row, model),
    )


def _check(row: str) -> None:
    if row not in TRAINED:
        raise ValueError(f"no row {row!r} is trained; those that are: {', '.join(TRAINED)}")


def text(folder: str | Path = FOLDER, n_parts: int = PARTS) -> NDArray[np.uint16]:
    """Return the text that the rows are trained on, (n,), told anew if it is not there."""
    return valley_tokens(Path(folder) / "text.npy", n_parts)


def _calibration(tokens: NDArray[np.uint16], rows: int = 64, length: int = 512) -> torch.Tensor:
    """Return the beginning of a text in rows, (rows, length): fewer of a short one."""
    rows = min(rows, len(tokens) // length)
    return torch.from_numpy(tokens[: rows * length].astype(np.int64)).view(rows, length)


def _recipe(steps: int | None, device: torch.device) -> TrainConfig:
    steps, micro = steps or RECIPE.steps, 4 if device.type == "cpu" else None
    return replace(RECIPE, steps=steps, warmup_steps=min(RECIPE.warmup_steps, steps // 2), micro_batch_size=micro)


def _options(row: str, model: Llama) -> dict[str, Any]:
    """Return what the trainer needs beside the recipe."""
    if row == "2:4":
        return {"after_step": keep_zeros}
    if row == "distilled":
        teacher, _ = checkpoint.load("course", dtype=torch.float32, device=model.device)
        return {"objective": Distillation(teacher, model, DistillationConfig(weight=1.0))}
    return {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train rows of the table."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "text"], help="train the rows, or only tell their text")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"left out: all of {', '.join(TRAINED)}")
    parser.add_argument("--device", help="cuda, mps or cpu; left out: the first of these that is there")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"{FOLDER} if left out")
    parser.add_argument("--steps", type=int, help="fewer, to try it")
    parser.add_argument("--parts", type=int, default=PARTS, help="of the text, a million tokens each; fewer, to try it")
    given = parser.parse_args(arguments)
    try:
        rows = (given.rows or list(TRAINED)) if given.what == "train" else []
        for row in rows:
            _check(row)
        find_device(given.device)  # before the text, which takes a while
        print(f"{len(text(given.folder, given.parts)):,} tokens of text in {given.folder}")
        for row in rows:
            print(train(row, given.folder, device=given.device, steps=given.steps, n_parts=given.parts))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the newest snapshot is kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
