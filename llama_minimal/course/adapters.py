"""The adapters that come with the course model: made, and measured, by one command each.

    python -m llama_minimal.course.adapters make chat       examples → llama-minimal finetune → adapters/chat
    python -m llama_minimal.course.adapters measure         what each can do that the model alone cannot

A making that was stopped goes on with the same command. What is measured is written to ``adapters/card.json``.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_minimal.applications import Example, application
from llama_minimal.applications.dialogue import chance, recall_examples
from llama_minimal.applications.many_stories import ask_libraries, found_share, with_retrieved
from llama_minimal.checkpoint import COURSE, load, load_adapter, save_adapter
from llama_minimal.course.card import interval, versions
from llama_minimal.files import replace_file

ADAPTERS = COURSE / "adapters"
CARD = ADAPTERS / "card.json"
N_TEST = 300
N_COUNTED = 5000  # training examples that the baselines count
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Say how an adapter is made."""

    application: str
    n: int
    """Examples, of which the tuning keeps a fifth to choose and to test by."""
    steps: int
    lr: float

    def commands(self, name: str, folder: Path) -> list[list[str]]:
        """Return the two commands, as arguments of ``llama-minimal``."""
        data = str(folder / f"{name}.jsonl")
        return [
            ["examples", self.application, "--n", str(self.n), "--out", data, "--overwrite"],
            ["finetune", data, "--base", "course", "--method", "lora", "--rank", "8", "--lr", f"{self.lr:g}"]
            + ["--steps", str(self.steps), "--precision", "bf16", "--out", str(folder / name)],
        ]


RECIPES = {
    "chat": Recipe(application="dialogue", n=8000, steps=1000, lr=5e-3),
    "qa": Recipe(application="question_answering", n=12_000, steps=600, lr=3e-3),
    "en-zh": Recipe(application="translation", n=20_000, steps=500, lr=5e-3),
}


def make(name: str, folder: Path = Path("runs/adapters")) -> None:
    """Tune an adapter by the commands of its recipe, and put it beside the course model.

    Raises:
        ValueError: if there is no recipe of this name.
        subprocess.CalledProcessError: if a command fails.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe for the adapter {name!r}; there are {', '.join(RECIPES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for arguments in RECIPES[name].commands(name, folder):
        subprocess.run([sys.executable, "-m", "llama_minimal", *arguments], check=True)
    ship(folder / name / "adapter", name)


def ship(tuned: Path, name: str) -> None:
    """Write a tuned adapter in half precision to the course model's own."""
    model, _ = load("course")
    loaded = load_adapter(model, tuned)
    save_adapter(model, ADAPTERS / name, loaded, dtype=torch.bfloat16)


def measure(say: Say = print) -> dict[str, Any]:
    """Return what the course model scores with and without each adapter on test examples, beside the baselines.

    Answers are those to greedy decoding; the test examples are from stories, or with values, that no training has seen.
    """
    recall = recall_examples(N_TEST, distance=3, unknown=0.0, split="test")
    strange = recall_examples(N_TEST, distance=3, unknown=0.0, split="strange")
    alone = ask_libraries(N_TEST)
    rows = {
        "recall of a fact after three other turns": _row("dialogue", "chat", recall, say) | {"chance": chance(recall)},
        "the same, never said": _row(
            "dialogue", "chat", recall_examples(100, distance=3, unknown=1.0, split="test"), say
        ),
        "the same, with words that no story has": _row("dialogue", "chat", strange, say),
        "question answering": _row("question_answering", "qa", _test("question_answering"), say),
        "questions about one of 100 stories, alone": _row("question_answering", "qa", alone, say),
        "questions about one of 100 stories, retrieved": _row("question_answering", "qa", with_retrieved(alone), say)
        | {"story found": found_share(alone)},
        "English to Chinese": _row("translation", "en-zh", _test("translation"), say),
    }
    return {"n": N_TEST, "measured_with": versions(), "scores": rows}


def _test(name: str) -> list[Example]:
    return application(name).examples(N_TEST, split="test")


def _row(name: str, adapter: str, test: list[Example], say: Say) -> dict[str, Any]:
    """Return the scores of model, adapter and baselines on examples of an application."""
    chosen = application(name)
    train = chosen.examples(N_COUNTED)
    row: dict[str, Any] = {"metric": chosen.metric, "baselines": {}}
    for label, predict in chosen.baselines(train).items():
        row["baselines"][label] = _rounded(chosen.score(predict(test), test))
    for label, which in (("before", None), ("after", adapter)):
        model, tokenizer = load("course", adapter=which, dtype=torch.float32)
        row[label] = _rounded(chosen.evaluate(model, tokenizer, test).scores)
    best = max(scores[chosen.metric] for scores in row["baselines"].values())
    after = row["after"][chosen.metric]
    row["gap_closed"] = round((after - best) / (100 - best), 3)
    if chosen.metric == "exact match":
        row["after_95"] = [round(100 * bound, 1) for bound in interval(after / 100, len(test))]
    say(
        f"{name}, {len(test)} examples: {chosen.metric} {best:.1f} best baseline, {row['before'][chosen.metric]:.1f} "
        f"before, {after:.1f} after: {100 * row['gap_closed']:.0f} % of the gap to 100"
    )
    return row


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in scores.items()}


def main(arguments: list[str]) -> None:
    """Make the adapters that are named, or measure all."""
    if arguments[:1] == ["make"]:
        for name in arguments[1:] or RECIPES:
            make(name)
    elif arguments == ["measure"]:
        made = {
            name: [" ".join(["llama-minimal", *words]) for words in recipe.commands(name, Path("runs/adapters"))]
            for name, recipe in RECIPES.items()
        }
        card = {"made_by": made} | measure()
        replace_file(CARD, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
