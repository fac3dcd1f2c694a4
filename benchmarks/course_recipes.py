"""Time the former and the present recipe of the course model side by side, and draw their curves over minutes.

python benchmarks/course_recipes.py           times steps of each in turn; writes course_recipes.json
python benchmarks/course_recipes.py --draw    draws course_recipes.svg from that file and from the model's card
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from llama_minimal import build, preset
from llama_minimal.course.card import read_card, versions
from llama_minimal.course.record import machine
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "course_recipes.json", HERE / "course_recipes.svg"
COMMON = {"batch_size": 4, "seq_len": 512, "precision": "bf16", "compile": True, "warmup_steps": 2}
MUON = {"optimizer": "muon", "schedule": "linear", "embedding_lr_ratio": 2.0, **COMMON}
# Name -> shape, and what decides the time of a step. The present recipe reads short sequences first.
STEPS = {
    "former": ({"n_heads": 8, "n_kv_heads": 2}, COMMON),
    "present, short": ({}, {**MUON, "seq_len": 256, "batch_size": 8}),
    "present, long": ({}, MUON),
}


def measure(rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the median seconds of a step in every round, the recipes in turn, once everything is compiled."""
    tokens = np.random.default_rng(0).integers(0, 2048, 200_000).astype(np.uint16)
    trainers = {}
    for name, (shape, recipe) in STEPS.items():
        config = TrainConfig(**recipe, steps=(rounds + 1) * steps)
        trainers[name] = Trainer(build(preset("course", **shape)), tokens, config)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 1):
        for name, trainer in trainers.items():
            rows = [trainer.train_step() for _ in range(steps)]
            if number:  # the first round compiles
                seconds[name].append(round(statistics.median(2048 / row["tokens_per_second"] for row in rows), 4))
    return seconds


def draw(saved: dict) -> None:
    """Draw bits per byte of the validation text over minutes on two quiet cores, for both recipes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "course"  # the same figure, the same bytes
    import matplotlib.pyplot as plt

    step = {name: statistics.median(values) for name, values in saved["seconds"].items()}
    card = read_card()
    recipe, bits = card["recipe"], card["training"]["nats_to_bits_per_byte"]
    turn = recipe["short_share"] * recipe["steps"]
    minutes = [
        (min(n, turn) * step["present, short"] + max(0, n - turn) * step["present, long"]) / 60
        for n, _ in card["training"]["curve"]
    ]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    former = [(n * step["former"] / 60, b) for n, b in saved["former_curve"]]
    axes.plot(*zip(*former, strict=True), color="#888", label="former recipe")
    axes.plot(minutes, [loss * bits for _, loss in card["training"]["curve"]], color="#c33", label="present recipe")
    if "short_curve" in saved:
        fast = [(n, b) for n, b in saved["short_curve"]]
        axes.plot(*zip(*fast, strict=True), color="#c33", linestyle=":", label="present recipe, fewer steps")
    axes.set(xlabel="minutes on two quiet cores", ylabel="bits per byte, validation text", ylim=(0.15, 0.6))
    axes.set_title("The present recipe passes the former one's end early", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    flags = parser.parse_args()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if flags.draw:
        draw(saved)
        return
    seconds = measure(flags.rounds, flags.steps)
    for name, values in seconds.items():
        print(f"{name:15} {statistics.median(values):.3f} s a step ({min(values):.3f} to {max(values):.3f})")
    saved |= {"seconds": seconds, "threads": torch.get_num_threads(), "machine": machine(), "versions": versions()}
    RESULTS.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
