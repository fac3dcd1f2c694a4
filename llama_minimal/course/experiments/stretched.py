"""Chapter 19: perplexity of the course model over four trained lengths, by remedy, before and after a short tuning."""

from functools import cache

import numpy as np
import torch

import llama_minimal as lm
from llama_minimal.course.card import held_out, token_stream
from llama_minimal.course.needles import stretched
from llama_minimal.data.valley import ValleySettings, mixed
from llama_minimal.devices import default_device
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "Loss of the course model on 2,048 tokens of held-out stories in a row, each remedy alone, tuned or not."
BUDGET = (
    "Measured on two rows of 2,048 tokens. Tuning: 4 steps of 2,048 tokens of the texts that it was trained on, by "
    "AdamW at the rate 5e-4 for all, falling to 0; each seed has another text to measure and another to train on."
)
CHECK = {"remedy": "yarn", "steps": 0, "seed": 0}
TOLERANCE = 0.05  # a lively training of few steps

LONG, STEPS, ROWS = 2048, 4, 2
REMEDIES = ("none", "linear", "ntk", "dynamic", "yarn")
POINTS = [
    *({"remedy": remedy, "steps": 0, "seed": seed} for seed in (0, 1, 2) for remedy in REMEDIES),
    *({"remedy": remedy, "steps": STEPS, "seed": 0} for remedy in ("none", "linear", "yarn")),
]


@cache
def start() -> tuple[Llama, TextCodec]:
    """Return the course model in float32, which must stay as it is, and its tokenizer."""
    return lm.load("course", dtype=torch.float32)


def long_rows(tokenizer: TextCodec, *, seed: int = 0, n: int = ROWS, length: int = LONG) -> torch.Tensor:
    """Return rows of held-out stories, one after another, (n, length + 1)."""
    texts = [story.text() for story in held_out(n * length // 150, seed=1000 + seed)]
    tokens = token_stream(tokenizer, texts)[: n * (length + 1)]
    return torch.from_numpy(tokens.astype(np.int64)).view(n, length + 1)


@torch.no_grad()
def losses(model: Llama, rows: torch.Tensor) -> torch.Tensor:
    """Return the loss of each place, averaged over the rows, (T,) nats."""
    logits = model(rows[:, :-1].to(model.device))
    log_p = logits.log_softmax(-1).gather(-1, rows[:, 1:, None].to(model.device))
    return -log_p.squeeze(-1).mean(0).cpu()


def run(*, remedy: str, steps: int, seed: int) -> dict[str, float]:
    """Stretch, tune and measure.

    Args:
        remedy: a kind of ``RopeScaling``, or "none".
        steps: of tuning.

    Returns:
        The mean loss of each quarter, such as ``quarter 4``, tokens 1,536 to 2,048.
    """
    model, tokenizer = start()
    longer = stretched(model, LONG, None if remedy == "none" else remedy).to(default_device())
    if steps:
        texts = [one.text for one in mixed(2 * steps * LONG // 150, ValleySettings(seed=2000 + seed))]
        recipe = TrainConfig(
            steps=steps, batch_size=1, seq_len=LONG, lr=5e-4, warmup_steps=2, min_lr_ratio=0.0, seed=seed
        )
        for _ in Trainer(longer.train(), token_stream(tokenizer, texts), recipe).run():
            pass
    found = losses(longer.eval(), long_rows(tokenizer, seed=seed)).view(4, -1).mean(1)
    return {f"quarter {i}": value for i, value in enumerate(found.tolist(), start=1)}
