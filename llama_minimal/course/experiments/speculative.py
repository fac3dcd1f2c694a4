"""Chapter 18: how many tokens does a step of speculative decoding write, with which draft and how many candidates?"""

import functools

import torch
from torch import Tensor

from llama_minimal.adaptive_computation import ModelDraft, PromptLookup, expected_tokens, first_layers
from llama_minimal.checkpoint import load
from llama_minimal.course.card import held_out
from llama_minimal.course.experiments.early_exit import material, with_matrices
from llama_minimal.course.students import shape, teach
from llama_minimal.generation import generate
from llama_minimal.model import Llama, build
from llama_minimal.settings import GREEDY, Sampling, TrainConfig
from llama_minimal.tokenizer import TextCodec

WHAT = "Tokens that a pass of the course model writes, by draft and number of candidates, greedy and sampled."
BUDGET = (
    "Three seeds. Exit n: the model's own first n layers with the matrices of chapter 18, 150 steps on 51,200 tokens. "
    "Tiny distilled: 1 layer of width 64, 320 steps of 4 × 128 tokens of stories with the course model beside it. "
    "Texts: 12 first sentences of held-out stories, others for each seed, continued by 48 tokens, greedy or sampled at "
    "temperature 0.8."
)
CHECK = {"draft": "look-up", "seed": 0}
TOLERANCE = 0.05  # a candidate that is nearly as likely as another may be kept on one machine only

N_TEXTS, N_TOKENS, STEPS = 12, 48, 320
SAMPLINGS = {"greedy": GREEDY, "sampled": Sampling(temperature=0.8)}
COUNTS = {"greedy": (4,), "sampled": (1, 2, 4, 8)}  # candidates of a step; 4 where the draft looks them up
DRAFTS = ("look-up", "tiny distilled", "exit 1", "exit 2", "exit 3")

POINTS = [
    {"draft": draft, "seed": seed} for seed in (0, 1, 2) for draft in DRAFTS if seed == 0 or draft != "tiny distilled"
]


@functools.cache
def course() -> tuple[Llama, TextCodec]:
    """Return the course model and its tokenizer."""
    model, tokenizer = load("course", dtype=torch.float32)
    return model.eval(), tokenizer


@functools.cache
def with_exits(seed: int) -> Llama:
    """Return the course model with trained exits; what it says at its end is the same."""
    model, _ = load("course", dtype=torch.float32)
    with_matrices(model.eval(), seed=seed)
    return model


def student(name: str, how: str, *, seed: int) -> Llama:
    """Return a small model, trained with the course model beside it or on the text alone."""
    teacher, tokenizer = course()
    small = build(shape(name), seed=seed)
    recipe = TrainConfig(
        steps=STEPS, batch_size=4, seq_len=128, lr=0.5 / small.config.dim, warmup_steps=STEPS // 20, seed=seed
    )
    tokens = material(tokenizer, 512 * STEPS).train
    teach(small, tokens, recipe, teacher=teacher if how == "distilled" else None)
    return small.eval()


def draft_model(draft: str, *, seed: int) -> Llama:
    """Return a draft, trained if it has to be."""
    kind, _, how = draft.partition(" ")
    if kind == "exit":
        return first_layers(with_exits(seed), int(how))
    return student(kind, how, seed=seed)


@torch.no_grad()
def acceptance(whole: Llama, draft: Llama, texts: list[list[int]], sampling: Sampling) -> float:
    """Return α on texts, the mean of Σ min(p, q) over all tokens that were written after the prompts."""
    shares = []
    for text in texts:
        p, q = (probabilities(model, text, sampling) for model in (whole, draft))  # (T, V)
        shares.append(torch.minimum(p, q).sum(-1)[-N_TOKENS - 1 : -1])
    return float(torch.cat(shares).mean())


def probabilities(model: Llama, text: list[int], sampling: Sampling) -> Tensor:
    """Return what a model gives to each next token, at a temperature, (T, V)."""
    return (model(torch.tensor([text]))[0].double() / sampling.temperature).softmax(-1)


def prompts(tokenizer: TextCodec, seed: int) -> list[list[int]]:
    """Return first sentences of held-out stories, others for each seed."""
    tales = held_out(N_TEXTS * (seed + 1))[N_TEXTS * seed :]
    return [tokenizer.encode(tale.tell()[0].text, bos=True) for tale in tales]


def run(*, draft: str, seed: int) -> dict[str, float]:
    """Train a draft, and let the course model check what it proposes.

    Args:
        draft: ``"look-up"``; ``"small distilled"`` or ``"tiny from scratch"``: a student; ``"exit 2"``: the model's own
            first two layers.

    Returns:
        ``parameters`` of the draft's layers; by kind of sampling and number of candidates, the tokens that a pass of
        the model writes, without the first; ``alpha``, the acceptance on sampled texts, and ``formula n``, the tokens
        that follow from it.
    """
    whole, tokenizer = course()
    small = None if draft == "look-up" else draft_model(draft, seed=seed)
    given = prompts(tokenizer, seed)
    figures: dict[str, float] = {}
    if small:
        figures["parameters"] = sum(p.numel() for p in small.layers.parameters())
    options = {"max_new_tokens": N_TOKENS, "seed": 1000 * seed, "stop_ids": []}
    for name, sampling in SAMPLINGS.items():
        for n in COUNTS[name] if small else (4,):
            how = ModelDraft(model=small, n=n) if small else PromptLookup(n=n)
            rows = generate(whole, None, given, sampling=sampling, draft=how, **options)
            passes = sum(len(row.accepted) for row in rows)
            figures[f"{name} {n}"] = (sum(len(row.tokens) for row in rows) - len(rows)) / passes
    if small:
        texts = [prompt + row.tokens for prompt, row in zip(given, rows, strict=True)]
        figures["alpha"] = acceptance(whole, small, texts, SAMPLINGS["sampled"])
        figures |= {f"formula {n}": expected_tokens(figures["alpha"], n) for n in COUNTS["sampled"]}
    return figures
