"""Time the former and the present recipe of the course model side by side, and draw their curves over minutes.

python benchmarks/course_recipes.py           times steps of each in turn; writes course_recipes.json
python benchmarks/course_recipes.py --draw    draws course_recipes.svg from that file, the sweep and the card
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
RESULTS, FIGURE, SWEEP = HERE / "course_recipes.json", HERE / "course_recipes.svg", HERE / "course_sweep.json"
FORMER_STEPS = 14_500
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


def minutes(seconds: dict[str, list[float]], curve: list[list[float]], *, short: int) -> list[float]:
    """Return when the points of a curve are reached, if the first ``short`` steps read short sequences."""
    step = {name: statistics.median(values) for name, values in seconds.items()}
    return [(min(n, short) * step["present, short"] + max(0, n - short) * step["present, long"]) / 60 for n, _ in curve]


def draw(saved: dict) -> None:
    """Draw bits per byte of held-out stories over minutes on two quiet cores, for both recipes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "course"  # the same figure, the same bytes
    import matplotlib.pyplot as plt

    seconds, arms, card = saved["seconds"], json.loads(SWEEP.read_text())["arms"], read_card()
    former = statistics.median(seconds["former"]) / 60
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    curve = arms["former recipe"]["curve"]
    axes.plot([n * former for n, _ in curve], [bits for _, bits in curve], color="#777", marker=".")
    axes.plot(FORMER_STEPS * former, saved["former_bits_per_byte"], "o", color="#777", label="former recipe")
    for name, style in (("lr 2e-3", ":"), ("long: 4 layers", "-")):
        curve = arms[name]["curve"]
        short = curve[-1][0] if name == "lr 2e-3" else round(0.7 * curve[-1][0])
        where = minutes(seconds, curve, short=short)
        axes.plot(where, [bits for _, bits in curve], color="#c33", linestyle=style, marker=".")
    steps = card["recipe"]["steps"]
    end = minutes(seconds, [[steps, 0]], short=round(card["recipe"]["short_share"] * steps))
    axes.plot(end, card["measured"]["course"]["bits_per_byte"], "o", color="#c33", label="present recipe")
    short = saved["short_run"]
    at = minutes(seconds, [[short["steps"], 0]], short=short["steps"])
    axes.plot(at, short["bits_per_byte"], "o", color="#c33")
    axes.axhline(saved["former_bits_per_byte"], color="#777", linewidth=0.6)
    axes.set(xlabel="minutes on two quiet cores", ylabel="bits per byte of held-out stories", ylim=(0.14, 0.4))
    axes.set_title("The present recipe reaches the former one's end in less than half of its time", fontsize=10)
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
