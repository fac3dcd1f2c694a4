"""A small language in which things are lent and asked for, and small models that answer within 64 tokens."""

# B batch, T time

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.data import PackedExamples
from llama_minimal.long_context import Window, cache_maker
from llama_minimal.model import Llama, build
from llama_minimal.prompts import IGNORE
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

NAMES = "Lila Otto Mina Bruno Wilma Pip Tilly Rufus Greta Hugo Nora Felix Sasha Oscar Bella Toby".split()
THINGS = "kite hat scarf drum lantern basket bell book map whistle flute ball bucket teapot ring spoon".split()
WORDS = (
    "rain fell on the old mill and wind ran over a green hill while geese slept by their pond until dawn came with "
    "warm light so all was still once more again".split()
)
N = len(NAMES)
FACT, ASK, THING, WORD = 1, 1 + N * N, 1 + N * N + N, 1 + N * N + 2 * N  # the first id of each kind; 0 begins a text
VOCAB_SIZE = WORD + len(WORDS)
CONTEXT, BEFORE = 64, 6  # tokens that the models are trained on; those before the fact that is tested
N_FACTS = 8


class Needles(NamedTuple):
    """Texts that end with a question, and what is right."""

    tokens: Tensor
    """(B, T)"""
    answers: Tensor
    """(B,)"""


def show(ids: Tensor | np.ndarray) -> str:
    """Return a text in words: ``Otto:kite`` is a fact, ``Otto?`` a question."""
    words = ["<bos>", *(f"{name}:{thing}" for name in NAMES for thing in THINGS), *(f"{name}?" for name in NAMES)]
    words += [*THINGS, *WORDS]
    return " ".join(words[i] for i in ids)


def _words(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """Return n rows of filling, each word followed by one of three."""
    steps, word, out = rng.integers(3, size=(n, length)), rng.integers(len(WORDS), size=n), np.empty((n, length), int)
    for t in range(length):
        word = (9 * word + 1 + steps[:, t]) % len(WORDS)
        out[:, t] = WORD + word
    out[:, 0] = 0
    return out


def rows(n: int, length: int, *, seed: int) -> PackedExamples:
    """Return n texts to learn from: eight facts each, and a sixth of their places for questions; only answers count."""
    rng = np.random.default_rng(seed)
    text = _words(rng, n, length + 1)
    targets = np.full((n, length), IGNORE)
    for row, target in zip(text, targets, strict=True):
        owners, things = rng.permutation(N)[:N_FACTS], rng.integers(N, size=N_FACTS)
        places = np.sort(rng.permutation(np.arange(1, length - 1))[:N_FACTS])
        places[0] = min(places[0], rng.integers(1, 4))  # so that distances may be as long as the text
        row[places] = FACT + owners * N + things
        free = [t for t in rng.permutation(np.arange(places[0] + 1, length - 1, 2)) if not {t, t + 1} & {*places}]
        for t in free[: length // 6]:
            one = rng.integers(np.sum(places < t))  # a fact that was stated
            row[t], row[t + 1] = ASK + owners[one], THING + things[one]
            target[t] = row[t + 1]
    return PackedExamples(inputs=text[:, :-1].copy(), targets=targets, documents=np.ones((n, length), int))


def needles(n: int, distance: int, *, seed: int = 0, before: int = BEFORE, n_facts: int = 6) -> Needles:
    """Return n texts whose last token asks for a fact so many tokens before; the other facts lie in between.

    Args:
        before: tokens before the fact.
    """
    rng = np.random.default_rng(1000 + seed)
    text = _words(rng, n, before + distance + 1)
    answers = np.empty(n, int)
    for i, row in enumerate(text):
        owners, things = rng.permutation(N)[:n_facts], rng.integers(N, size=n_facts)
        between = rng.permutation(np.arange(before + 1, len(row) - 1))[: n_facts - 1]
        row[[before, *between]] = FACT + owners * N + things
        row[-1], answers[i] = ASK + owners[0], THING + things[0]
    return Needles(torch.from_numpy(text), torch.from_numpy(answers))


def small_config() -> LlamaConfig:
    """Return the shape: two layers of width 64; the slowest pair turns once in 1,445 tokens, 23 contexts."""
    return LlamaConfig(dim=64, n_layers=2, n_heads=4, vocab_size=VOCAB_SIZE, max_seq_len=CONTEXT, rope_theta=500.0)


@cache
def lab_model(seed: int = 0, steps: int = 400) -> Llama:
    """Train a model on 32 × 64 tokens a step; asked for again, it is not trained again."""
    model = build(small_config(), seed=seed)
    return tuned(model, rows(32 * steps, CONTEXT, seed=seed), steps=steps, batch_size=32, lr=3e-3, seed=seed)


def tuned(model: Llama, data: PackedExamples, *, steps: int, batch_size: int, lr: float, seed: int) -> Llama:
    """Train a model in place, and return it."""
    recipe = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        seq_len=data.inputs.shape[1],
        lr=lr,
        warmup_steps=min(30, steps // 5),
        weight_decay=0.01,
        seed=seed,
    )
    for _ in Trainer(model, data, recipe).run():
        pass
    return model.eval()


def stretched(model: Llama, length: int, kind: str | None = None, factor: float | None = None) -> Llama:
    """Return a copy with a longer context, its rotary frequencies stretched as a ``RopeScaling`` of this kind says.

    Args:
        factor: None means the longer context over the old one; of ``dynamic``, which looks at that by itself, 2.
    """
    old = model.config.max_seq_len
    scaling = None
    if kind is not None:
        factor = (2.0 if kind == "dynamic" else length / old) if factor is None else factor
        scaling = RopeScaling(kind=kind, factor=factor, original_max_seq_len=old)
    copy = build(model.config.replace(max_seq_len=length, rope_scaling=scaling), seed=None)
    copy.load_state_dict(model.state_dict())
    copy.eos_ids = model.eos_ids
    return copy.eval()


@torch.no_grad()
def recall(model: Llama, asked: Needles, window: Window | None = None) -> float:
    """Return the share of right answers, to a text that is read at once or, with a window, token by token."""
    if window is None:
        logits = model.next_logits(asked.tokens)
    else:
        n, length = asked.tokens.shape
        kind = cache_maker(window)
        cache = model.make_cache(batch_size=n, max_seq_len=length, kind=kind)
        n_first = min(length, cache.n_slots)
        logits = model.next_logits(asked.tokens[:, :n_first], cache=cache)
        for t in range(n_first, length):
            logits = model.next_logits(asked.tokens[:, [t]], positions=torch.full((n, 1), t), cache=cache)
    return (logits.argmax(-1) == asked.answers).double().mean().item()
