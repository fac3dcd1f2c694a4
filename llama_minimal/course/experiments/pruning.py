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

WHAT = "Loss, right answers and consistent stories of two models: pruned by several methods, and retrained."
BUDGET = (
    "4,096 tokens to calibrate. Retraining: 60 steps of 8,192 tokens, an eightieth of the course model's training, by "
    "AdamW at the rate 1e-3 unless said, falling to 0, with the zeros kept. 120 questions and 48 stories as tests. "
    "Three seeds, each with another text to calibrate and to retrain on, and other tests."
)
CHECK = {"model": "course", "method": "wanda", "amount": "50%", "seed": 0, "steps": 0, "lr": 1e-3, "tested": 0}

STEPS, STEP_TOKENS, SEQ_LEN = 60, 8192, 512
QUESTIONS, STORIES = 120, 48
WEIGHTS = ("magnitude", "wanda", "sparsegpt")
PARTS = ("heads", "features", "layers", "half")  # "half": half of the heads and half of the features
CURVE = ("20%", "30%", "40%", "60%", "80%", "4:8")  # beside the others, without retraining


def _point(model: str, method: str, amount: str, seed: int, **others: float) -> dict[str, float | str]:
    rest = {"steps": STEPS, "lr": 1e-3, "tested": 1} | others
    return {"model": model, "method": method, "amount": amount, "seed": seed} | rest


POINTS = [
    CHECK,
    *(
        _point("course", method, amount, seed, steps=0, tested=0)
        for amount in CURVE
        for method in WEIGHTS
        for seed in (0, 1, 2)
    ),
    *(_point("course", method, "50%", 0, lr=lr, tested=0) for method in (*WEIGHTS, "half") for lr in (3e-4, 3e-3)),
    *(_point("course", "scratch", "50%", seed, lr=lr, tested=0) for lr in (3e-4, 3e-3) for seed in (0, 1, 2)),
    *(
        _point(model, method, amount, seed)
        for model, arms in (
            ("course", [(method, amount) for amount in ("50%", "70%", "2:4") for method in WEIGHTS]),
            ("course", [(method, "50%") for method in (*PARTS, "scratch")]),
            ("course", [("dense", "0%")]),
            ("larger", [(method, amount) for amount in ("50%", "2:4") for method in WEIGHTS]),
            ("larger", [("half", "50%"), ("scratch", "50%"), ("dense", "0%")]),
        )
        for method, amount in arms
        for seed in (0, 1, 2)
    ),
]


@cache
def start(model: str) -> tuple[Llama, TextCodec]:
    """Return a trained model in float32, which must stay as it is, and its tokenizer."""
    if model == "course":
        return lm.load("course", dtype=torch.float32)
    from llama_minimal.course import larger

    return larger.load(dtype=torch.float32)


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
        method: "dense", one of ``WEIGHTS`` or ``PARTS``, or "scratch": the shape of "half", with random weights.
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
    if method in ("heads", "half", "scratch"):
        n, groups = copy.config.n_heads // 2, copy.config.n_kv_heads
        copy = remove_heads(copy, lowest_heads(head_scores(copy, tokens), n, n_kv_heads=groups))
    if method in ("features", "half", "scratch"):
        copy = remove_features(copy, lowest(feature_scores(copy, tokens), copy.config.hidden_dim // 2))
    if method == "layers":
        copy = remove_layers(copy, layer_scores(copy, tokens).argsort()[: copy.config.n_layers // 2])
    if method == "scratch":
        ends, copy = copy.eos_ids, build(copy.config, seed=int(tokens.sum()))
        copy.eos_ids = ends
    return copy


def retrain(model: Llama, tokens: np.ndarray, *, steps: int, lr: float, seed: int, zeros: bool) -> None:
    """Train a model on, in place; its zeros stay if there are any to be kept."""
    length = min(SEQ_LEN, model.config.max_seq_len)
    recipe = TrainConfig(
        steps=steps,
        batch_size=STEP_TOKENS // length,
        seq_len=length,
        lr=lr,
        warmup_steps=min(5, steps),
        seed=seed,
        min_lr_ratio=0.0,
    )
    for _ in Trainer(model, tokens, recipe, after_step=keep_zeros if zeros else None).run():
        pass


def measure(model: Llama, tokenizer: TextCodec, *, seed: int, tested: int) -> dict[str, float]:
    """Return the loss on texts that no training has read and, if tested, right answers and consistent stories in %."""
    model.eval()
    length = min(SEQ_LEN, model.config.max_seq_len)
    batches = sequential_batches(text(tokenizer, 60, seed=0, split="test"), batch_size=8, seq_len=length)
    total, count = sum_loss(model, batches, device=model.device)
    found = {"loss": total / count}
    if tested:
        for figure, name, n in (("answers", "question_answering", QUESTIONS), ("stories", "generation", STORIES)):
            task = applications.application(name)
            tests = task.examples(n, split="test", seed=seed)
            written = task.predict(model, tokenizer, tests, batch_size=n)
            found[figure] = task.score(written, tests)[task.metric]
    return found


def run(*, model: str, method: str, amount: str, seed: int, steps: int, lr: float, tested: int) -> dict[str, float]:
    """Prune, measure, retrain and measure again.

    Args:
        model: "course", or "larger".
        method, amount: as for ``pruned``.
        steps: of retraining; with 0 nothing is measured after it.
        tested: 1 for the scores of tasks, too, which take longest.
    """
    dense, tokenizer = start(model)
    smaller = pruned(dense, method, amount, calibration(tokenizer, seed=seed)).to(default_device())
    figures = {"kept": sum(int((p != 0).sum()) for p in smaller.parameters())}
    figures |= measure(smaller, tokenizer, seed=seed, tested=tested)
    if steps:
        tokens = text(tokenizer, 2200, seed=100 + seed)
        retrain(smaller, tokens, steps=steps, lr=lr, seed=seed, zeros=method in WEIGHTS)
        after = measure(smaller, tokenizer, seed=seed, tested=tested)
        figures |= {f"{name} after": value for name, value in after.items()}
    return figures
