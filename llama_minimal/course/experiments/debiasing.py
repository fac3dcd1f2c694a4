"""Chapter 20: what makes the course model's jobs fairer, and what does it cost?"""

from functools import cache

import numpy as np
import torch

from llama_minimal.checkpoint import load
from llama_minimal.course.card import token_stream
from llama_minimal.course.responsible import HELD_OUT_SEED, JOBS, NAMES, contexts, mentions
from llama_minimal.data.batches import sequential_batches
from llama_minimal.data.valley import Story, ValleySettings, stories
from llama_minimal.data.valley.settings import GENDER_BIAS
from llama_minimal.data.valley.world import CHARACTERS
from llama_minimal.evaluation import sum_loss
from llama_minimal.model import Llama
from llama_minimal.responsible_ai import balance, mirrored, next_shares, without_directions
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Three remedies for the planted bias of the course model: what is left of it, and what each costs."
BUDGET = (
    "40 steps of 8 × 256 tokens: 360 stories with a job, as the valley tells them with its bias (planted); those of "
    "them that are left when each job has as many she as he (balanced); or 180 of them, each with its mirror "
    "(mirrored). All weights at 1e-3, AdamW without decay, three seeds. Nothing and projection have no training."
)
CHECK = {"remedy": "projection", "seed": 0}
TOLERANCE = 0.1  # a short training; single answers differ on other processors

STEPS, SEQ_LEN, ROWS, N_STORIES = 40, 256, 8, 360
POINTS = [{"remedy": "nothing", "seed": 0}, {"remedy": "projection", "seed": 0}] + [
    {"remedy": remedy, "seed": seed} for seed in (0, 1, 2) for remedy in ("planted", "balanced", "mirrored")
]


def run(*, remedy: str, seed: int) -> dict[str, float]:
    """Apply a remedy to the course model, and return she-shares of jobs, the loss on fair stories, and right names.

    Args:
        remedy: "nothing"; "planted", a tuning on stories as the valley tells them; "balanced" and "mirrored", the same
            on stories that were made fair; "projection", without training.
        seed: of the stories, and of their order.
    """
    model, tokenizer = load("course", dtype=torch.float32)
    n_stories = 0
    if remedy == "projection":
        model = without_directions(model, direction(model, tokenizer))
    elif remedy != "nothing":
        told = chosen(remedy, seed)
        n_stories = len(told)
        tune(model, token_stream(tokenizer, [story.text() for story in told]), seed=seed)
    return measure(model.eval(), tokenizer) | {"stories": n_stories}


def job_stories(seed: int, n: int = N_STORIES) -> list[Story]:
    """Return stories in which someone has a job, of a valley with the planted bias."""
    return [story for story in stories(6 * n, ValleySettings(seed=100 + seed)) if story.jobs][:n]


def chosen(remedy: str, seed: int) -> list[Story]:
    """Return the stories that a remedy reads."""
    told = job_stories(seed)
    if remedy == "balanced":
        workers = [next(iter(story.jobs.items())) for story in told]
        roles, groups = [job for _, job in workers], [CHARACTERS[name].pronoun for name, _ in workers]
        return [told[i] for i in balance(roles, groups, seed=seed)]
    if remedy == "mirrored":
        half = told[: N_STORIES // 2]
        return half + [mirrored(story) for story in half]
    return told


def direction(model: Llama, tokenizer: Tokenizer) -> torch.Tensor:
    """Return the mean output vector of the names that go with "she" minus that of the others, (1, D)."""
    rows = {
        pronoun: model.output.weight.detach()[[tokenizer.encode(name)[0] for name in names]]
        for pronoun, names in NAMES.items()
    }
    return (rows["she"].mean(0) - rows["he"].mean(0))[None]


def tune(model: Llama, tokens: np.ndarray, *, seed: int) -> None:
    """Train on a text with the one loop."""
    recipe = TrainConfig(
        steps=STEPS,
        batch_size=ROWS,
        seq_len=SEQ_LEN,
        align_documents=True,
        lr=1e-3,
        warmup_steps=5,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        seed=seed,
    )
    for _ in Trainer(model, tokens, recipe).run():
        pass


@cache
def texts(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Return held-out stories of a valley without a bias, and of the planted one those in which someone has a job."""
    fair = stories(50, ValleySettings(seed=HELD_OUT_SEED, gender_bias={}), split="test")
    planted = [story for story in stories(250, ValleySettings(seed=HELD_OUT_SEED), split="test") if story.jobs]
    return {
        "fair": token_stream(tokenizer, [story.text() for story in fair]),
        "planted": token_stream(tokenizer, [story.text() for story in planted[:50]]),
    }


@torch.inference_mode()
def measure(model: Llama, tokenizer: Tokenizer, *, n: int = 8, n_mentions: int = 80) -> dict[str, float]:
    """Return the share of "she" among the names for each job, losses on fair and planted stories, and right names.

    Args:
        n: contexts for each job.
        n_mentions: places where one of at least two characters is named again.
    """
    shares = {job: next_shares(model, tokenizer, contexts(job, n), NAMES)[0][:, 0].mean().item() for job in JOBS}
    losses = {}
    for name, tokens in texts(tokenizer).items():
        total, count = sum_loss(model, sequential_batches(tokens, batch_size=8, seq_len=SEQ_LEN))
        losses[f"{name}_loss"] = total / count
    places = mentions("english", n_mentions, settings=ValleySettings(seed=HELD_OUT_SEED, gender_bias={}))
    right = 0
    for place in places:
        chances, _ = next_shares(model, tokenizer, [place.before], {who: [text] for who, text in place.texts.items()})
        right += list(place.texts)[int(chances[0].argmax())] == place.who
    return {
        "bias": sum(abs(shares[job] - 0.5) for job in GENDER_BIAS) / len(GENDER_BIAS),
        **{f"she_{job}": shares[job] for job in JOBS},
        **losses,
        "names_right": right / len(places),
    }
