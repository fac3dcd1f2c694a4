"""A training too long for a chapter: it goes on where it was stopped, and leaves a model folder with a card."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llama_minimal.checkpoint import save
from llama_minimal.course.card import CARD, versions
from llama_minimal.course.record import machine
from llama_minimal.data.mixture import Texts
from llama_minimal.files import replace_file
from llama_minimal.locks import hold_folder
from llama_minimal.metrics import METRICS, read_metrics
from llama_minimal.model import Llama
from llama_minimal.run_folder import has_model
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer


def long_run(
    what: str,
    out: Path,
    model: Llama,
    tokenizer: TextCodec,
    tokens: Texts,
    recipe: TrainConfig,
    *,
    notes: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Train a model, and write it in bfloat16 with its tokenizer and a card; a finished run is left as it is.

    Args:
        what: a sentence for the card.
        out: the folder; a run that was stopped there goes on from its newest snapshot.
        model: on its device, with float32 weights.
        notes: what else the card should say.
        options: what ``Trainer`` takes, such as ``validation``, ``objective`` and ``after_step``.

    Raises:
        ValueError: if the folder holds another run, or another process is at work in it.
        TrainingDivergedError: if loss or gradients stop being finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    with hold_folder(out):
        if has_model(out):
            return out
        started = time.perf_counter()
        trainer = Trainer(model, tokens, recipe, out=out, **options)
        trainer.resume()
        with tqdm(total=recipe.steps, initial=trainer.step, desc=out.name, unit="step", disable=None) as bar:
            for metrics in trainer.run():
                bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
                bar.update()
        card = _card(what, trainer, time.perf_counter() - started) | (notes or {})
        replace_file(out / CARD, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
        save(model.to("cpu", torch.bfloat16), out, tokenizer)  # with config.json last: from here on it is finished
    return out


def _card(what: str, trainer: Trainer, seconds: float) -> dict[str, Any]:
    recipe, metrics = trainer.config, read_metrics(trainer.snapshot_folder.parent / METRICS)
    device = trainer.mesh.device
    curve = [[row["step"], round(row["validation_loss"], 4)] for row in metrics if "validation_loss" in row]
    return {
        "what": what,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "recipe": {name: getattr(recipe, name) for name in recipe.__slots__},
        "training": {
            "tokens_seen": recipe.steps * recipe.batch_size * recipe.seq_len,
            "tokens_of_text": len(trainer.batches.tokens) if hasattr(trainer.batches, "tokens") else None,
            "seconds_of_the_last_start": round(seconds, 1),
            "tokens_per_second": round(statistics.median(row["tokens_per_second"] for row in metrics)),
            "last_loss": round(metrics[-1]["loss"], 4),
            "curve": curve,
        },
        "trained_with": versions(),
        "trained_on": machine() | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
    }
