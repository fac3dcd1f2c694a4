"""Chapter 08: what does a model of two sources know of each, beside models of one source?"""

from functools import cache
from typing import NamedTuple

import numpy as np

from llama_minimal.course.card import token_stream
from llama_minimal.course.lab import small_config
from llama_minimal.data.valley import stories
from llama_minimal.data.valley.corpus import python_sections
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Validation loss on stories and on Python's documentation, by the share of stories in the training text."
BUDGET = (
    "800 steps of 8 × 64 tokens, two layers of width 64, vocabulary 300 (learned from equal parts of both), peak "
    "learning rate 6e-3 for all, three seeds."
)
CHECK = {"stories": 0.9, "seed": 0}

POINTS = [{"stories": share, "seed": seed} for share in (1.0, 0.9, 0.5, 0.1, 0.0) for seed in (0, 1, 2)]

STEPS, SEQ_LEN, BATCH_SIZE = 800, 64, 8
N_VALIDATION = 15_000  # tokens of each


class Texts(NamedTuple):
    """Two sources, "stories" and "docs", as token ids."""

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]


@cache
def both() -> Texts:
    """Return stories and sections of Python's documentation, about as many characters of each, and others to validate.

    The documentation to validate on is of other topics, the stories are of another split.
    """
    docs, other_docs = ([text for _, text in python_sections(held_out=held_out)] for held_out in (False, True))
    told, other_told = ([story.text() for story in stories(n, split=s)] for n, s in ((600, "train"), (60, "test")))
    tokenizer = Tokenizer.train([*told, *docs], vocab_size=300)
    return Texts(
        {"stories": token_stream(tokenizer, told), "docs": token_stream(tokenizer, docs)},
        {
            "stories": token_stream(tokenizer, other_told)[:N_VALIDATION],
            "docs": token_stream(tokenizer, other_docs)[:N_VALIDATION],
        },
    )


def run(*, stories: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train on a mixture, and return the validation losses in nats per token, and how often each source was read.

    Args:
        stories: share of stories in the training text, from 0 to 1; the rest is documentation.
        seed: of the initial weights and of the order of the text.
    """
    text = both()
    weights = {name: share for name, share in (("stories", stories), ("docs", 1 - stories)) if share > 0}
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        lr=6e-3,
        warmup_steps=min(40, steps),
        seed=seed,
        weights=tuple(weights.values()),
        validate_every=steps,
    )
    train = {name: text.train[name] for name in weights}
    trainer = Trainer(build(small_config(), seed=seed), train, recipe, validation=text.validation)
    for _ in trainer.run():
        pass
    losses = {f"{name}_loss": loss for name, loss in trainer.source_losses.items()}
    epochs = trainer.batches.epochs(steps)
    return losses | {f"{name}_epochs": epochs.get(name, 0.0) for name in text.train}
