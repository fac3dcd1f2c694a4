"""The values of a report: what was measured before and after, how it came about, and what it cost."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import llama_minimal
from llama_minimal.finetuning.grouping import answer_of, prompt_of
from llama_minimal.finetuning.kinds import Example
from llama_minimal.finetuning.labels import confusion, macro_f1
from llama_minimal.finetuning.material import Material
from llama_minimal.finetuning.measuring import Measured, recommend
from llama_minimal.finetuning.report import side_by_side
from llama_minimal.finetuning.search import Arm
from llama_minimal.settings import TuneConfig


def answers_summary(material: Material, asked: Sequence[Example], measured: Sequence[Measured]) -> dict[str, Any]:
    """Return what to use and why, all scores, examples side by side, and of labels which is taken for which."""
    chosen, verdict = recommend(measured)
    tuned = next(one for one in measured if one.kind == "tuned")
    before = next((one for one in measured if one.kind == "before"), None)
    wanted = [answer_of(one) for one in asked]
    scores, labels = [one.to_dict() for one in measured], material.asking.labels
    if labels:
        for entry, one in zip(scores, measured, strict=True):
            entry["macro_f1"] = macro_f1(one.predictions, wanted)
    table = confusion(tuned.predictions, wanted) if labels else None
    notes = []
    if len(asked) < len(material.split.test):
        notes.append(f"Of {len(material.split.test):,} examples of the test part {len(asked):,} were measured.")
    if before is None:
        notes.append("The base model was not asked before: there are too many labels and texts.")
    return {
        "recommended": chosen and chosen.name,
        "verdict": verdict,
        "task": {"kind": material.kind, "metric": material.asking.metric, "labels": list(labels)},
        "n_measured": len(asked),
        "notes": notes,
        "scores": scores,
        "examples": side_by_side(
            [prompt_of(one) for one in asked],
            wanted,
            before.predictions if before else None,
            tuned.predictions,
            tuned.scores,
        ),
        "confusion": table and {"labels": list(table.labels), "counts": [list(row) for row in table.counts]},
    }


def training_summary(
    arms: Sequence[Arm],
    losses: Mapping[tuple[str, str], float | None],
    arm: Arm,
    steps: int,
    curve: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """Return what the search found, what it chose, and how the last training went.

    Args:
        losses: the lowest validation loss of each training of the search, by the name of its arm and its steps.
        curve: the metrics of each step of the last training.
    """
    validated = [point for point in curve if "validation_loss" in point]
    best = min(validated, key=lambda point: point["validation_loss"])
    found = [(one, {key[1]: loss for key, loss in losses.items() if key[0] == one.name}) for one in arms]
    rounds = sorted({n for _, by_steps in found for n in by_steps}, key=int)
    names = ("step", "loss", "validation_loss")
    return {
        "search": [{"name": one.name, "losses": by_steps} for one, by_steps in found if by_steps],
        "rounds": rounds,
        "chosen": {
            **arm.to_dict(),
            "name": arm.name,
            "steps": steps,
            "steps_done": int(curve[-1]["step"]),
            "best_step": int(best["step"]),
            "validation_loss": best["validation_loss"],
        },
        "curve": [{name: point[name] for name in names if name in point} for point in curve],
    }


def forgetting_summary(material: Material, before: float | None, after: float | None) -> dict[str, Any]:
    """Return how well the model predicts what its base had read, in bits per byte before and after."""
    why = ""
    if before is None:
        why = "there is no text at hand of the kind that the base model has read"
        why += "." if material.kind == "labels" else "; name one with --replay."
    elif material.kind == "labels":
        why = "A model of labels writes no text; its body was measured with the output layer of the base model."
    return {
        "text": material.held_out.name if material.held_out else None,
        "before": before,
        "after": after,
        "why": why,
    }


def data_summary(material: Material, checksum: str) -> dict[str, Any]:
    """Return what the file held, and what was found in it."""
    parts = {"training": material.split.train, "validation": material.split.validation, "test": material.split.test}
    return {
        "name": material.path.name,
        "sha256": checksum,
        "n_examples": material.n_examples,
        "split": {name: len(part) for name, part in parts.items()},
        "findings": list(material.findings),
        "recognized": material.task.sentence,
    }


def repeat_command(command: Mapping[str, Any], config: TuneConfig, arm: Arm, steps: int) -> str:
    """Return the command that trains the same model again, without a search.

    Args:
        command: values of the flags that are not in the config, by name.
    """
    words = ["llama-minimal", "finetune", str(command["data"])]
    for name in ("base", "template", "replay"):
        if command.get(name) is not None:
            words += [f"--{name}", str(command[name])]
    words += [*arm.flags.split(), "--steps", str(steps), "--seed", str(config.seed)]
    if config.precision != "fp32":
        words += ["--precision", config.precision]
    words += ["--out", "runs/again"]
    return shlex.join(words)


def versions() -> dict[str, str]:
    """Return the versions on which the numbers depend."""
    names = {"llama_minimal": llama_minimal.__version__, "Python": platform.python_version()}
    return names | {"torch": version("torch"), "NumPy": np.__version__}


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of the model and of the adapter in a folder, of which there may be none."""
    found = {}
    for name, place in (("model", folder), ("adapter", folder / "adapter")):
        if n := sum(path.stat().st_size for path in place.glob("*.safetensors")):
            found[name] = n
    return found
