"""Chapter 12: what does a model forget while it learns to count, and what helps?"""

from functools import cache
from itertools import islice

import numpy as np
import torch

from llama_minimal.checkpoint import load
from llama_minimal.course.card import token_stream
from llama_minimal.course.tuning_tasks import QUESTION, counting
from llama_minimal.data.batches import sequential_batches
from llama_minimal.data.packing import PackedExamples
from llama_minimal.data.valley import ValleySettings, examples, stories
from llama_minimal.data.valley.corpus import valley_texts
from llama_minimal.evaluation import sum_loss
from llama_minimal.finetuning import Pair, encode_examples, prepare
from llama_minimal.loss import IGNORE
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "What the course model can still do after it was tuned to count: right answers, and losses on other texts."
BUDGET = (
    "50 steps of 4 × 256 tokens out of 900 pairs, with replay of 4 × 256 tokens of pretraining text more in each; all "
    "weights at 3e-4, or an adapter of rank 8 at 3e-3 and at 1e-3. AdamW without decay, three seeds."
)
CHECK = {"method": "none", "lr": 0.0, "seed": 0}
TOLERANCE = 0.1  # a lively training of few steps: single answers differ on other processors

STEPS, SEQ_LEN, ROWS = 50, 256, 4
POINTS = [{"method": "none", "lr": 0.0, "seed": 0}] + [
    {"method": method, "lr": lr, "seed": seed}
    for seed in (0, 1, 2)
    for method, lr in (("full", 3e-4), ("unmasked", 3e-4), ("replay", 3e-4), ("lora", 3e-3), ("lora", 1e-3))
]


def pairs(n: int, **where: object) -> list[Pair]:
    """Return passages with the question how many characters they name, and the answer in words."""
    return [Pair(passage + QUESTION, f" {number}") for passage, number in counting(n, **where)]


@cache
def others(tokenizer: Tokenizer) -> dict[str, np.ndarray | PackedExamples]:
    """Return what pretraining taught: stories, and answers to questions about stories and to their sentiment."""
    told = list(stories(25, ValleySettings(seed=1000), split="test"))
    kept: dict[str, np.ndarray | PackedExamples] = {"story": token_stream(tokenizer, [one.text() for one in told])}
    for task in ("qa", "sentiment"):
        found = [Pair(one.prompt, one.answer) for story in told for one in islice(examples(story, task), 4)]
        kept[task] = PackedExamples.pack(encode_examples(tokenizer, found), seq_len=512)
    return kept


@torch.inference_mode()
def answers_right(model: Llama, given: PackedExamples, eos_id: int) -> float:
    """Return how many pairs have an answer of which every token is the model's first choice, but for its end."""
    right = 0
    for row in range(len(given.inputs)):
        inputs, targets, documents = map(torch.from_numpy, given.rows([row]))
        asked = (targets != IGNORE) & (targets != eos_id)
        wrong = (model(inputs, documents=documents).argmax(-1) != targets) & asked
        right += sum(not wrong[documents == number].any() for number in range(1, int(documents.max()) + 1))
    return right / given.n_examples


def run(*, method: str, lr: float, seed: int) -> dict[str, float]:
    """Tune the course model to count, and return the share of right answers to three tasks, and the loss on stories.

    Args:
        method: "none"; "full", all weights; "unmasked", so that questions are learned, too; "replay", all weights with
            as many rows of pretraining text in every step as of pairs; "lora".
    """
    model, tokenizer = load("course", dtype=torch.float32)
    if method != "none":
        prepare(model, "lora" if method == "lora" else "full", seed=seed)
        tune(model, sources(tokenizer, method), lr=lr, seed=seed)
    model.eval()
    known = others(tokenizer)
    total, count = sum_loss(model, sequential_batches(known["story"], batch_size=8, seq_len=SEQ_LEN))
    test = PackedExamples.pack(encode_examples(tokenizer, pairs(240, split="test", seed=1000)), seq_len=SEQ_LEN)
    return {
        "counting": answers_right(model, test, tokenizer.eos_id),
        "qa": answers_right(model, known["qa"], tokenizer.eos_id),
        "sentiment": answers_right(model, known["sentiment"], tokenizer.eos_id),
        "story_loss": total / count,
    }


def sources(tokenizer: Tokenizer, method: str) -> dict[str, np.ndarray | PackedExamples]:
    """Return what a method reads."""
    encoded = encode_examples(tokenizer, pairs(900))
    if method == "unmasked":
        encoded = [one._replace(learn=[True] * len(one.ids)) for one in encoded]
    data: dict[str, np.ndarray | PackedExamples] = {"pairs": PackedExamples.pack(encoded, seq_len=SEQ_LEN)}
    if method == "replay":
        data["text"] = token_stream(tokenizer, [text for _, text in valley_texts(600)])
    return data


def tune(model: Llama, data: dict[str, np.ndarray | PackedExamples], *, lr: float, seed: int) -> None:
    """Train on sources that are read equally often."""
    recipe = TrainConfig(
        steps=STEPS,
        batch_size=ROWS * len(data),
        seq_len=SEQ_LEN,
        weights=(1.0,) * len(data),
        lr=lr,
        warmup_steps=5,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        seed=seed,
    )
    for _ in Trainer(model, data, recipe).run():
        pass
