"""Chapter 15: what does a model lose when weights, heads, features or layers go, and what brings retraining back?"""

from functools import cache

import numpy as np
import torch

import llama_minimal as lm
from llama_minimal import applications
from llama_minimal.course.card import token_stream
from llama_minimal.data.batches import sequential_batches
from llama_minimal.data.valley import ValleySettings, mixed
from llama_minimal.devices import default_device
from llama_minimal.evaluation import sum_loss
from llama_minimal.model import Llama, build
from llama_minimal.pruning import (
    feature_scores,
    head_scores,
    keep_zeros,
    layer_scores,
    lowest,
    lowest_heads,
    prune,
    remove_features,
    remove_heads,
    remove_layers,
)
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "Loss, right answers and consistent stories of the course model: pruned by several methods, and retrained."
BUDGET = (
    "4,096 tokens to calibrate. Retraining: 24 steps of 1,024 tokens, a sixteen-hundredth of the course model's "
    "training, by AdamW at the rate 1e-3 for all, falling to 0, with the zeros kept. 40 questions and 12 stories as "
    "tests. Three seeds, each with another text to calibrate and to retrain on, and other tests."
)
CHECK = {"method": "wanda", "amount": "4:8", "seed": 0, "steps": 0, "tested": 0}

STEPS, BATCH, SEQ_LEN, LR = 24, 4, 256, 1e-3
QUESTIONS, STORIES = 40, 12
WEIGHTS = ("magnitude", "wanda", "sparsegpt")
PARTS = ("heads", "features", "layers", "half")  # "half": half of the heads and half of the features
POINTS = [
    {"method": method, "amount": amount, "seed": seed, "steps": steps, "tested": tested}
    for methods, amounts, steps, tested in [
        (("dense",), ("0%",), 0, 1),
        (WEIGHTS, ("30%", "60%", "70%", "2:4", "4:8"), 0, 0),
        (WEIGHTS, ("50%",), 0, 1),
        (WEIGHTS, ("50%",), STEPS, 1),
        (("dense",), ("0%",), STEPS, 0),
    ]
    for amount in amounts
    for method in methods
    for seed in (0, 1, 2)
]


@cache
def start() -> tuple[Llama, TextCodec]:
    """Return the course model in float32, which must stay as it is, and its tokenizer."""
    return lm.load("course", dtype=torch.float32)


def text(tokenizer: TextCodec, n: int, *, seed: int, split: str = "train") -> np.ndarray:
    """Return tokens of n texts such as pretraining had, but new ones."""
    settings = ValleySettings(seed=1000 + seed)
    return token_stream(tokenizer, [one.text for one in mixed(n, settings, split=split)])


def calibration(tokenizer: TextCodec, *, seed: int, rows: int = 16, length: int = 256) -> torch.Tensor:
    """Return 4,096 tokens to calibrate on, 16 rows of 256."""
    tokens = text(tokenizer, 60, seed=50 + seed)[: rows * length]
    return torch.from_numpy(tokens.astype(np.int64)).view(rows, length)


def pruned(model: Llama, method: str, amount: str, tokens: torch.Tensor) -> Llama:
    """Return a pruned copy of a model.

    Args:
        method: "dense", or one of ``WEIGHTS`` or ``PARTS``.
        amount: such as "50%" or "2:4"; of parts always half.
    """
    copy = build(model.config, seed=None)
    copy.load_state_dict(model.state_dict())
    copy.eos_ids = model.eos_ids
    if method in WEIGHTS:
        share = (
            {"sparsity": int(amount[:-1]) / 100} if "%" in amount else {"pattern": tuple(map(int, amount.split(":")))}
        )
        prune(copy, method, calibration=tokens, **share)
    if method in ("heads", "half"):
        n, groups = copy.config.n_heads // 2, copy.config.n_kv_heads
        copy = remove_heads(copy, lowest_heads(head_scores(copy, tokens), n, n_kv_heads=groups))
    if method in ("features", "half"):
        copy = remove_features(copy, lowest(feature_scores(copy, tokens), copy.config.hidden_dim // 2))
    if method == "layers":
        copy = remove_layers(copy, layer_scores(copy, tokens).argsort()[: copy.config.n_layers // 2])
    return copy


def retrain(model: Llama, tokens: np.ndarray, *, steps: int, seed: int, zeros: bool) -> None:
    """Train a model on, in place; its zeros stay if there are any to be kept."""
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        seq_len=SEQ_LEN,
        lr=LR,
        warmup_steps=min(5, steps),
        seed=seed,
        min_lr_ratio=0.0,
    )
    for _ in Trainer(model, tokens, recipe, after_step=keep_zeros if zeros else None).run():
        pass


def measure(model: Llama, tokenizer: TextCodec, *, seed: int, tested: int) -> dict[str, float]:
    """Return the loss on texts that no training has read and, if tested, right answers and consistent stories in %."""
    model.eval()
    batches = sequential_batches(text(tokenizer, 20, seed=0, split="test"), batch_size=8, seq_len=512)
    total, count = sum_loss(model, batches, device=model.device)
    found = {"loss": total / count}
    if tested:
        for figure, name, n in (("answers", "question_answering", QUESTIONS), ("stories", "generation", STORIES)):
            task = applications.application(name)
            tests = task.examples(n, split="test", seed=seed)
            written = task.predict(model, tokenizer, tests, batch_size=n)
            found[figure] = task.score(written, tests)[task.metric]
    return found


def run(*, method: str, amount: str, seed: int, steps: int, tested: int) -> dict[str, float]:
    """Prune, measure, retrain and measure again.

    Args:
        method, amount: as for ``pruned``.
        steps: of retraining; with 0 nothing is measured after it.
        tested: 1 for the scores of tasks, too, which take longest.
    """
    dense, tokenizer = start()
    smaller = pruned(dense, method, amount, calibration(tokenizer, seed=seed)).to(default_device())
    figures = {"kept": sum(int((p != 0).sum()) for p in smaller.parameters())}
    figures |= measure(smaller, tokenizer, seed=seed, tested=tested)
    if steps:
        tokens = text(tokenizer, 150, seed=100 + seed)
        retrain(smaller, tokens, steps=steps, seed=seed, zeros=method in WEIGHTS)
        after = measure(smaller, tokenizer, seed=seed, tested=tested)
        figures |= {f"{name} after": value for name, value in after.items()}
    return figures
