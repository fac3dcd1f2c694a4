"""Chapter 17: a trained model is made to share heads or layers; how much training leads it back, from which start?"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from llama_minimal.checkpoint import load
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.data.batches import sequential_batches
from llama_minimal.data.valley.corpus import course_texts
from llama_minimal.devices import default_device
from llama_minimal.evaluation import sum_loss
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.sharing import group_kv_heads, share_layers
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "Loss of the course model on held-out stories, made to share heads or layers, before and after more training."
BUDGET = (
    "24 steps of 4 × 256 tokens, 0.06 % of what it was trained on, from the same mix of texts; AdamW; the better of "
    "two rates, tried with one seed; three seeds. A rate of 0 means no training."
)
CHECK = {"form": "1 kv head", "start": "mean", "lr": 0.0, "seed": 0}

STEPS, ROWS, SEQ_LEN = 24, 4, 256
LOOKS = (4, 12)  # steps after which the loss is measured, too
N_TEXTS = 120  # 28,000 tokens: a few more than the steps read
KV_HEADS = {"4 kv heads": 4, "2 kv heads": 2, "1 kv head": 1}
LAYERS = {"aabb": 2, "aaaa": 4}
ARMS = [
    ("2 kv heads", "mean"),
    ("2 kv heads", "sum"),
    ("2 kv heads", "first"),
    ("2 kv heads", "random"),
    ("1 kv head", "mean"),
    ("aabb", "first"),
]
POINTS = [
    CHECK,
    *[{"form": form, "start": start, "lr": lr, "seed": 0} for lr in (1e-3, 5e-4) for form, start in ARMS],
    # At the better rate.
    *[
        {"form": form, "start": start, "lr": 5e-4 if start in ("mean", "sum", "first") else 1e-3, "seed": seed}
        for form, start in ARMS[:4]
        for seed in (1, 2)
    ],
    *[{"form": form, "start": start, "lr": 1e-3, "seed": seed} for form, start in ARMS[4:] for seed in (1, 2)],
    # The model itself: what more training does without any sharing.
    {"form": "4 kv heads", "start": "mean", "lr": 5e-4, "seed": 0},
]


@cache
def training_text(tokenizer: TextCodec) -> np.ndarray:
    """Return the beginning of what the model was trained on."""
    return token_stream(tokenizer, [text for _, text in course_texts(N_TEXTS)])


@cache
def stories(tokenizer: TextCodec) -> np.ndarray:
    """Return stories that it was not trained on."""
    return token_stream(tokenizer, [story.text() for story in held_out(12)])


def story_loss(model: Llama, tokenizer: TextCodec) -> float:
    """Return the loss on held-out stories, in nats per token."""
    batches = sequential_batches(stories(tokenizer), batch_size=4 * ROWS, seq_len=SEQ_LEN)
    total, count = sum_loss(model, batches, device=model.device)
    return total / count


@torch.no_grad()
def convert(model: Llama, form: str, start: str, *, seed: int) -> Llama:
    """Return a copy that shares as a form says.

    Args:
        form: a name of ``KV_HEADS`` or ``LAYERS``.
        start: "mean" or "first" of those that become one; for heads also their "sum", or "random": drawn anew.
    """
    if form in LAYERS:
        return share_layers(model, LAYERS[form], how=start)
    grouped = group_kv_heads(model, KV_HEADS[form], how="first" if start == "first" else "mean")
    generator = torch.Generator().manual_seed(seed)
    for block in grouped.blocks():
        for layer in (block.attention.wk, block.attention.wv):
            if start == "sum":
                layer.weight.mul_(model.config.n_kv_heads // KV_HEADS[form])
            elif start == "random":
                layer.weight.normal_(std=0.02, generator=generator)
    return grouped


def run(*, form: str, start: str, lr: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Convert the course model, train it, and return the loss before, on the way and after, in nats per token."""
    model, tokenizer = load("course", dtype=torch.float32)
    model = convert(model, form, start, seed=seed).to(default_device())
    losses = {0: story_loss(model, tokenizer)}
    for step in uptrain(model, training_text(tokenizer), lr=lr, seed=seed, steps=steps) if lr else ():
        if step in (*LOOKS, steps):
            losses[step] = story_loss(model, tokenizer)
    last = losses[max(losses)]
    return {"before": losses[0]} | {f"after_{look}": losses.get(look, last) for look in LOOKS} | {"loss": last}


def uptrain(model: Llama, tokens: np.ndarray, *, lr: float, seed: int, steps: int) -> Iterator[int]:
    """Train all weights, and give the number of each step once it is done."""
    recipe = TrainConfig(
        steps=steps,
        batch_size=ROWS,
        seq_len=SEQ_LEN,
        align_documents=True,
        lr=lr,
        warmup_steps=steps // 16,
        min_lr_ratio=0.0,
        seed=seed,
    )
    for metrics in Trainer(model, tokens, recipe).run():
        yield metrics["step"]
