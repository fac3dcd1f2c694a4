"""Chapter 12: three professional domains, learned apart and together."""

from functools import cache

import torch

from llama_minimal.checkpoint import load
from llama_minimal.data.packing import PackedExamples, packed_batches
from llama_minimal.data.valley import ValleySettings, examples, stories
from llama_minimal.finetuning import Pair, encode_examples
from llama_minimal.loss import next_token
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Loss of the tuned course model on summaries of reports, by the domains that it was tuned on."
BUDGET = (
    "25 steps of 4 × 256 tokens for each domain (together: 75 steps, a third of the rows from each) out of 120 reports "
    "of each, measured on 30 others of each. AdamW without decay, all weights, peak rate 3e-4, three seeds."
)
CHECK = {"trained": "none", "seed": 0}
TOLERANCE = 0.1  # a lively training of few steps: single answers differ on other processors

DOMAINS = ("medical", "finance", "legal")
STEPS, SEQ_LEN = 25, 256
POINTS = [{"trained": "none", "seed": 0}] + [
    {"trained": trained, "seed": seed} for seed in (0, 1, 2) for trained in (*DOMAINS, "together")
]


@cache
def reports(tokenizer: Tokenizer, n: int, split: str, seed: int) -> dict[str, PackedExamples]:
    """Return reports of each domain, each with its first four facts in a form that pretraining never showed."""
    found: dict[str, list[Pair]] = {domain: [] for domain in DOMAINS}
    for story in stories(10**6, ValleySettings(seed=seed), split=split):
        for one in examples(story, "report"):
            domain, _, form = one.kind.partition(" ")
            if form == "fields" and len(found[domain]) < n:
                values = [line.partition(": ")[2] for line in one.answer.splitlines()[:4]]
                found[domain].append(Pair(one.prompt.replace("Fields:\n", "In short:"), f" {'; '.join(values)}"))
        if all(len(pairs) == n for pairs in found.values()):
            break
    return {
        domain: PackedExamples.pack(encode_examples(tokenizer, pairs), seq_len=SEQ_LEN)
        for domain, pairs in found.items()
    }


def run(*, trained: str, seed: int) -> dict[str, float]:
    """Tune the course model on a domain, on all ("together") or on "none"; return its loss on each, in nats a token."""
    model, tokenizer = load("course", dtype=torch.float32)
    data = reports(tokenizer, 120, "train", 7)
    if trained != "none":
        data = data if trained == "together" else {trained: data[trained]}
        recipe = TrainConfig(
            steps=STEPS * len(data),
            batch_size=4,
            seq_len=SEQ_LEN,
            weights=(1.0,) * len(data),
            lr=3e-4,
            warmup_steps=5,
            min_lr_ratio=0.0,
            weight_decay=0.0,
            seed=seed,
        )
        for _ in Trainer(model, data, recipe).run():
            pass
    return {domain: loss(model, given) for domain, given in reports(tokenizer, 30, "test", 1000).items()}


@torch.inference_mode()
def loss(model: Llama, given: PackedExamples) -> float:
    """Return the loss of the summaries, in nats per token."""
    model.eval()
    sums = [next_token(model, tuple(map(torch.from_numpy, batch))) for batch in packed_batches(given, batch_size=4)]
    return (sum(total for total, _ in sums) / sum(count for _, count in sums)).item()
