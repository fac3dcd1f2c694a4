"""Small training runs for the experiments of the chapters: seconds each, on stories from the Llama Valley."""

import contextlib
import importlib.util
import io
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from llama_minimal.checkpoint import save
from llama_minimal.config import LlamaConfig, preset
from llama_minimal.course.card import token_stream
from llama_minimal.data.valley import stories
from llama_minimal.model import Llama, build
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

VOCAB_SIZE, SEQ_LEN, BATCH_SIZE = 300, 64, 8


class SmallText(NamedTuple):
    """Stories as token ids, with the tokenizer that made them."""

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray


class Run(NamedTuple):
    """A trained model, with its validation loss in nats per token."""

    model: Llama
    loss: float


@cache
def small_text(n_stories: int = 800) -> SmallText:
    """Return stories to train on and, from another split, stories to validate on."""
    train, validation = (
        [story.text() for story in stories(n, split=split)] for n, split in ((n_stories, "train"), (80, "test"))
    )
    tokenizer = Tokenizer.train(train, vocab_size=VOCAB_SIZE)
    return SmallText(tokenizer, token_stream(tokenizer, train), token_stream(tokenizer, validation))


def small_config(**changes: object) -> LlamaConfig:
    """Return the shape of the chapters' small models: width 64, 2 layers, unless changed."""
    return preset("tiny", **({"n_layers": 2, "vocab_size": VOCAB_SIZE, "max_seq_len": 256} | changes))


@cache
def small_run(*, seed: int, steps: int = 300, lr: float = 3e-3, embedding_scale: float = 1.0, **changes: object) -> Run:
    """Train a small model for some seconds; asked for again, the same run is not trained again.

    Args:
        seed: of the initial weights and of the order of the text.
        steps: of 8 × 64 tokens.
        embedding_scale: multiplies the initial embeddings.
        changes: fields of ``LlamaConfig``, such as ``ffn="relu"``.
    """
    model = build(small_config(**changes), seed=seed)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(embedding_scale)
    return trained(model, seed=seed, steps=steps, lr=lr)


def trained(model: Llama, *, seed: int, steps: int = 300, lr: float = 3e-3) -> Run:
    """Train a model, whatever became of its layers, as `small_run` does.

    Args:
        seed: of the order of the text.
        steps: of 8 × 64 tokens.
    """
    text = small_text()
    recipe = TrainConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        lr=lr,
        warmup_steps=min(20, steps),
        seed=seed,
        validate_every=steps,
    )
    trainer = Trainer(model, text.train, recipe, validation=text.validation[:10_000], out=None)
    for _ in trainer.run():
        pass
    model.eval()
    return Run(model, trainer.validation_loss)


def losses(runs: int = 3, **changes: object) -> torch.Tensor:
    """Return the validation losses of the same model with several seeds, (runs,)."""
    return torch.tensor([small_run(seed=seed, **changes).loss for seed in range(runs)])


def transformers_twin(model: Llama) -> torch.nn.Module | None:
    """Return a model as the transformers library builds it, with the same weights, or None without that library."""
    if importlib.util.find_spec("transformers") is None:
        return None
    with contextlib.redirect_stderr(io.StringIO()):  # its import prints notices
        from transformers import LlamaForCausalLM
        from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "twin", format="huggingface")
        return LlamaForCausalLM.from_pretrained(Path(folder) / "twin", dtype=model.output.weight.dtype)
