"""Smaller siblings of the course model, which it teaches: drafts for speculative decoding, and rows of a table.

    python -m llama_minimal.course.students small

reads as many tokens as the course model has, with the course model beside it: a minute or two on a GPU, hours without.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from tqdm import tqdm

from llama_minimal import checkpoint
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.config.checks import check_one_of
from llama_minimal.course.card import token_stream
from llama_minimal.data import documents
from llama_minimal.data.mixture import Texts
from llama_minimal.devices import find_device
from llama_minimal.distillation import Distillation, DistillationConfig
from llama_minimal.model import Llama, build
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

Shape = Literal["tiny", "small", "middle"]

STUDENTS = Path("runs/students")
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 64, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "hidden_dim": 176},
    "small": {"dim": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "hidden_dim": 344},
    "middle": {"dim": 192, "n_layers": 3, "n_heads": 6, "n_kv_heads": 6, "hidden_dim": 512},
}
SOFT_TARGETS = DistillationConfig(weight=1.0)  # KL(teacher ‖ student) of each token, and nothing else
N_TEXTS = 80_000
STEPS = 2400  # about twice through these texts: 39 million tokens, as many as the course model has read


def shape(name: Shape = "small", **changes: object) -> LlamaConfig:
    """Return a student's shape: the course model's vocabulary and context, fewer and narrower layers.

    Args:
        changes: fields of ``LlamaConfig``, such as ``n_layers=1``.
    """
    check_one_of("name", name, get_args(Shape))
    return preset("course", **(SHAPES[name] | changes))


def recipe(dim: int, **changes: object) -> TrainConfig:
    """Return how a student of a width is trained; the rate falls with the width, as in chapter 08.

    Args:
        changes: fields of ``TrainConfig``, such as ``steps=100``.
    """
    settings = {"steps": STEPS, "batch_size": 32, "seq_len": 512, "align_documents": True, "lr": 0.5 / dim}
    settings["warmup_steps"] = int(settings["steps"] if "steps" not in changes else changes["steps"]) // 20
    return TrainConfig(**(settings | changes))


@cache
def text(tokenizer: Tokenizer, n_texts: int = N_TEXTS, source: str = "course") -> np.ndarray:
    """Return the ids of the first texts of what the course model has read, in one stream; generated anew, once."""
    return token_stream(tokenizer, [document.text for document in documents(f"{source}:{n_texts}")])


def teach(
    student: Llama,
    tokens: Texts,
    config: TrainConfig,
    *,
    teacher: Llama | None,
    learns: DistillationConfig = SOFT_TARGETS,
    on_step: Callable[[dict[str, float]], object] = lambda _: None,
) -> None:
    """Train a student on text, with what a teacher thinks of each token or, without one, on the text alone.

    Args:
        tokens: ids, (n,), or examples in rows.
        teacher: on the student's device.
        learns: from the teacher.
        on_step: called with each step's metrics.
    """
    objective = Distillation(teacher, student, learns) if teacher else None
    for metrics in Trainer(student, tokens, config, objective=objective).run():
        on_step(metrics)


def train(
    folder: str | Path,
    device: torch.device | str | None = None,
    *,
    name: Shape = "small",
    teacher: Llama | None = None,
    config: TrainConfig | None = None,
    n_texts: int = N_TEXTS,
    on_step: Callable[[dict[str, float]], object] = lambda _: None,
) -> Path:
    """Distill a student from the course model, and save it as a folder that ``load`` takes.

    Args:
        folder: a model that is there already is replaced when the new one is whole.
        device: None means the best there is.
        name: of its shape.
        teacher: another one with the course model's tokenizer, such as the larger model; moved to the device.
        config: None means ``recipe`` for this width; its seed is that of the weights, too.
        n_texts: to read, of the course model's training texts.
        on_step: called with each step's metrics.

    Returns:
        The folder.

    Raises:
        ValueError: if the shape is unknown, or the teacher has another vocabulary.
    """
    device, student_shape = find_device(device), shape(name)
    course, tokenizer = checkpoint.load("course", dtype=torch.float32)
    teacher = (teacher or course).to(device)
    config = config or recipe(student_shape.dim)
    student = build(student_shape, seed=config.seed).to(device)
    teach(student, text(tokenizer, n_texts), config, teacher=teacher, on_step=on_step)
    student.eos_ids = course.eos_ids
    checkpoint.save(student.cpu(), folder, tokenizer, format="huggingface")
    return Path(folder)


def load(name: Shape = "small", **options: Any) -> tuple[Llama, Tokenizer]:
    """Return a student that ``main`` has put into ``runs/students``, and its tokenizer, the course model's.

    Args:
        options: what ``checkpoint.load`` takes, such as ``dtype`` and ``device``.

    Raises:
        FileNotFoundError: if it has not been trained.
    """
    check_one_of("name", name, get_args(Shape))
    folder = STUDENTS / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no student in {folder}; train it: python -m llama_minimal.course.students {name}"
        )
    return checkpoint.load(folder, **options)


def main(args: list[str] | None = None) -> None:
    """Train one student."""
    parser = argparse.ArgumentParser(prog="python -m llama_minimal.course.students", description="Train a student.")
    parser.add_argument("name", choices=SHAPES, help="its shape")
    parser.add_argument("folder", nargs="?", type=Path, help="where it is kept; left out: runs/students/NAME")
    parser.add_argument("--steps", type=int, default=STEPS, help="of 16,384 tokens")
    parser.add_argument("--device", help="left out: the best there is")
    given = parser.parse_args(args)
    config = recipe(shape(given.name).dim, steps=given.steps)
    folder = given.folder or STUDENTS / given.name
    with tqdm(total=config.steps, unit="step", file=sys.stderr, disable=None) as bar:
        train(folder, given.device, name=given.name, config=config, on_step=partial(_show, bar))
    print(f"{folder} written")


def _show(bar: tqdm, metrics: dict[str, float]) -> None:
    bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
    bar.update()


if __name__ == "__main__":
    main()
