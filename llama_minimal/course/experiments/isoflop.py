"""Chapter 08: with so much arithmetic and no more, how large should the model be, and how long should it train?"""

from functools import cache

import numpy as np

from llama_minimal.config import LlamaConfig
from llama_minimal.cost import flops_per_token, parameters
from llama_minimal.course.card import token_stream
from llama_minimal.course.lab import small_config, small_text
from llama_minimal.data.valley import stories
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

WHAT = "Validation loss of LLaMAs of several widths, each trained with the same number of operations."
BUDGET = (
    "A number of floating-point operations, by llama_minimal.cost, the backward pass as two forward passes; steps of "
    "8 × 64 tokens, two layers, vocabulary 300, stories of which none is read twice, three seeds."
)
CHECK = {"dim": 16, "layers": 2, "budget": 2e10, "seed": 0}

SEQ_LEN, BATCH_SIZE = 64, 8
N_STORIES = 9000  # 4.5 million tokens

POINTS = [
    {"dim": dim, "layers": 2, "budget": budget, "seed": seed}
    for budget, widths in (
        (2e10, (8, 12, 16, 24, 32)),
        (6e10, (12, 16, 24, 32, 40)),
        (1.8e11, (16, 24, 32, 40, 48)),
    )
    for seed in (0, 1, 2)
    for dim in widths
]


@cache
def training_text() -> np.ndarray:
    """Return the ids of the training stories in one stream."""
    return token_stream(small_text().tokenizer, [story.text() for story in stories(N_STORIES, split="train")])


def shape(dim: int, layers: int) -> LlamaConfig:
    """Return the shape of one size: heads and inner width grow with the width, as in the published LLaMAs."""
    n_heads = dim // 8
    return small_config(dim=dim, n_layers=layers, n_heads=n_heads, n_kv_heads=n_heads, hidden_dim=8 * dim // 3)


def peak_rate(dim: int) -> float:
    """Return the learning rate of one width, 0.4 / dim."""
    # Searched with one seed at 1e11 operations, among rates a factor of two apart: half of this one was worse by 0.06
    # and 0.04 nats at widths 16 and 32, twice of it by 0.13 and 0.30; at 64 it was the best, and the highest tried.
    # (At 16 and 32 the warm-up was half as long.)
    return 0.4 / dim


def run(*, dim: int, layers: int, budget: float, seed: int, lr: float | None = None) -> dict[str, float]:
    """Train one size until the budget is spent; its warm-up is a tenth of its steps, its cosine ends with them.

    Args:
        budget: C, in floating-point operations of forward and backward pass.
        seed: of the initial weights and of the order of the text.
        lr: peak learning rate; None takes ``peak_rate(dim)``.

    Returns:
        ``parameters``, N, without embedding and output; ``total``, with both; ``tokens`` read; ``flops`` spent;
        ``loss``, of stories from another split, in nats per token.
    """
    config = shape(dim, layers)
    per_token = 3 * sum(flops_per_token(config, context=(SEQ_LEN + 1) / 2).values())
    steps = round(budget / (per_token * BATCH_SIZE * SEQ_LEN))
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        lr=lr or peak_rate(dim),
        warmup_steps=steps // 10,
        seed=seed,
        validate_every=steps,
    )
    trainer = Trainer(build(config, seed=seed), training_text(), recipe, validation=small_text().validation[:20_000])
    for _ in trainer.run():
        pass
    tokens, counts = steps * BATCH_SIZE * SEQ_LEN, parameters(config)
    return {
        "parameters": sum(counts.values()) - counts["embeddings"] - counts["output"],
        "total": sum(counts.values()),
        "tokens": tokens,
        "flops": tokens * per_token,
        "loss": trainer.validation_loss,
    }
