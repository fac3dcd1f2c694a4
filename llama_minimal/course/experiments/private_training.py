"""Chapter 20: how much of a planted secret does a model give away, with and without differential privacy?"""

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from llama_minimal.config import preset
from llama_minimal.data.packing import EncodedExample, PackedExamples
from llama_minimal.data.valley import stories
from llama_minimal.data.valley.world import words_of
from llama_minimal.model import Llama, build
from llama_minimal.responsible_ai.privacy.accounting import noise_for
from llama_minimal.responsible_ai.privacy.canaries import Canary, candidate_scores, exposure
from llama_minimal.responsible_ai.privacy.training import PrivacyConfig, one_per_row, private_trainer
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Bits of planted codes that a small LLaMA gives away, by copies of the code and by epsilon, and the loss."
BUDGET = (
    "300 steps of about 64 of some 2,740 sentences, drawn by chance; two layers, width 32, 38,000 parameters; AdamW at "
    "the rate 1e-2 for all, falling to a tenth; gradients clipped at 0.5; four codes for each number of copies, of "
    "10,000 that might have been; delta 1e-5. Three seeds, each with other codes, weights, draws and noise."
)
# Few steps with little noise: other processors' figures are close.
CHECK = {"arm": "4", "seed": 0, "steps": 40}
TOLERANCE = 0.1  # an exposure counts ranks, and near the middle of 10,000 a few of them change

STEPS, SEQ_LEN, BATCH, LR, CLIP, DELTA = 300, 32, 64, 1e-2, 0.5, 1e-5
SENTENCES, COPIES, EACH = 2400, (0, 1, 4, 16, 64), 4
NO_NOISE = {"plain": 1e6, "clipped": CLIP}  # arm without noise -> clipping length
ARMS = (*NO_NOISE, "32", "4", "1", "0.2")  # the others: epsilon
POINTS = [
    *({"arm": arm, "seed": seed, "steps": STEPS} for seed in (0, 1, 2) for arm in (*NO_NOISE, "32", "4", "0.2")),
    CHECK,
]


class Notes(NamedTuple):
    """Sentences of the Llama Valley with canaries among them, one in a row, and held-out ones."""

    tokenizer: Tokenizer
    train: PackedExamples
    test: PackedExamples
    canaries: dict[int, list[Canary]]
    """Copies in the text -> the canaries that have so many."""


def sentences(n: int, *, split: str) -> list[str]:
    """Return n different sentences of stories."""
    found: dict[str, None] = {}
    for story in stories(n // 10, split=split):
        text = story.text().replace("\n", " ")
        found |= dict.fromkeys(s.strip() for s in re.findall(r"[^.!?\"]+[.!?]", text))
    return list(found)[:n]


def draw_canaries(seed: int) -> dict[int, list[Canary]]:
    """Return canaries with codes drawn by chance: ``EACH`` for every number of copies, all about different places."""
    random = np.random.default_rng(seed)
    places = iter(random.permutation(list(words_of("places"))))
    return {
        n: [
            Canary(f"The secret number of the {next(places)} is {{}}.", tuple(map(str, random.integers(10, size=4))))
            for _ in range(EACH)
        ]
        for n in COPIES
    }


@cache
def notes(seed: int) -> Notes:
    """Return the text of a seed, which draws the codes, and which places have how many copies."""
    train, test, canaries = sentences(SENTENCES, split="train"), sentences(300, split="test"), draw_canaries(seed)
    # The tokenizer knows the form of a canary, and no code.
    form = [f"The secret number of the {place} is 0 1 2 3 4 5 6 7 8 9." for place in words_of("places")]
    tokenizer = Tokenizer.train([*train, *form], vocab_size=400)
    planted = [canary.text() for n, found in canaries.items() for canary in found for _ in range(n)]

    def rows(texts: list[str]) -> PackedExamples:
        encoded = [tokenizer.encode(text)[: SEQ_LEN + 1] for text in texts]
        return one_per_row([EncodedExample(ids, [True] * len(ids)) for ids in encoded], seq_len=SEQ_LEN)

    return Notes(tokenizer, rows([*train, *planted]), rows(test), canaries)


def make_trainer(arm: str, *, seed: int, steps: int) -> tuple[Trainer, float]:
    """Return what trains a new model in the way of an arm, and the noise σ that this takes."""
    text = notes(seed)
    shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "hidden_dim": 88, "tie_embeddings": True}
    model = build(preset("tiny", vocab_size=text.tokenizer.vocab_size, max_seq_len=64, **shape), seed=seed)
    noise = 0.0
    if arm not in NO_NOISE:
        noise = noise_for(float(arm), rate=BATCH / len(text.train.inputs), steps=steps, delta=DELTA)
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        seq_len=SEQ_LEN,
        lr=LR,
        warmup_steps=10,
        weight_decay=0.0,
        clip_norm=1e9,  # of what is clipped one by one already
        validate_every=steps,
        seed=seed,
    )
    privacy = PrivacyConfig(noise=noise, clip=NO_NOISE.get(arm, CLIP), seed=seed)
    return private_trainer(model, text.train, recipe, privacy, validation=text.test), noise


def exposures(model: Llama, text: Notes) -> dict[int, list[float]]:
    """Return the exposure of each canary in bits, by its copies."""
    model.eval()
    return {
        n: [exposure(candidate_scores(model, *canary.rows(text.tokenizer)), canary.place) for canary in found]
        for n, found in text.canaries.items()
    }


def run(*, arm: str, seed: int, steps: int) -> dict[str, float]:
    """Train a model, and ask it for the codes.

    Args:
        arm: one of ``ARMS``, or any epsilon as text.
        seed: of text, weights, draws and noise.
    """
    trainer, noise = make_trainer(arm, seed=seed, steps=steps)
    for _ in trainer.run():
        pass
    found = exposures(trainer.model, notes(seed))
    return {"loss": trainer.validation_loss, "noise": noise} | {
        f"exposure {n}": float(np.mean(each)) for n, each in found.items()
    }
