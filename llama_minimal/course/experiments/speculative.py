"""Chapter 18: how many tokens does a step of speculative decoding write, with which draft and how many candidates?"""

import functools

import torch
from torch import Tensor

from llama_minimal.adaptive_computation import ModelDraft, PromptLookup, expected_tokens, first_layers
from llama_minimal.config import preset
from llama_minimal.course.card import held_out
from llama_minimal.course.experiments.early_exit import material, start, tuned
from llama_minimal.generation import generate
from llama_minimal.model import Llama, build
from llama_minimal.settings import GREEDY, Sampling
from llama_minimal.tokenizer import TextCodec

WHAT = "Tokens that a pass of the model writes, by draft and by the number of candidates, greedy and sampled."
BUDGET = (
    "Drafts: students of the course model as course/students.py trains them (one training each); two layers of width "
    "64 or 128 from scratch, 600 steps of 32 × 256 tokens from stories of the valley at rate 4e-3; the model's own "
    "first layers, trained as a model for 150 steps at 1e-3; or no training. Three seeds, each 24 first sentences of "
    "held-out stories, which are continued by 64 tokens, greedy or sampled at temperature 0.8."
)
CHECK = {"model": "course", "draft": "look-up", "seed": 0}
TOLERANCE = 0.05  # a candidate that is nearly as likely as another may be kept on one machine only

N_TEXTS, N_TOKENS = 24, 64
COUNTS = (1, 2, 4, 8)  # candidates of a step; so many at most where they are looked up:
LOOKED_UP = (4,)
SAMPLINGS = {"greedy": GREEDY, "sampled": Sampling(temperature=0.8)}
DRAFTS = {
    "course": (
        "look-up",
        *("student tiny", "student small", "student middle"),
        *("width 64", "width 128", "first 1", "first 2", "first 3"),
    ),
    "larger": ("look-up", "student tiny", "student small", "student middle", "course", "first 3"),
}

POINTS = [
    {"model": model, "draft": draft, "seed": seed} for model in DRAFTS for draft in DRAFTS[model] for seed in (0, 1, 2)
]


def draft_model(draft: str, whole: Llama, tokenizer: TextCodec, *, seed: int) -> Llama:
    """Return a draft for a model, trained if it has to be."""
    kind, _, size = draft.partition(" ")
    if kind == "course":
        return start("course")[0]
    if kind == "student":
        from llama_minimal.course import students

        return students.load(size, dtype=torch.float32)[0].eval()
    if kind == "first":
        train = material(tokenizer, 6500).train
        # A copy of the weights: the model itself stays as it is.
        part = build(whole.config.replace(n_layers=int(size)))
        part.load_state_dict(first_layers(whole, int(size)).state_dict())
        return tuned(part, train, objective=None, lr=1e-3, seed=seed)
    small = preset("tiny", dim=int(size), n_heads=int(size) // 16, n_kv_heads=int(size) // 16, hidden_dim=3 * int(size))
    shape = {"n_layers": 2, "vocab_size": whole.config.vocab_size, "max_seq_len": 256, "tie_embeddings": True}
    train = material(tokenizer, 12_000).train
    return tuned(build(small.replace(**shape), seed=seed), train, objective=None, lr=4e-3, seed=seed, steps=600)


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


@functools.cache
def prompts(tokenizer: TextCodec, seed: int) -> list[list[int]]:
    """Return first sentences of held-out stories, others for each seed."""
    tales = held_out(N_TEXTS * (seed + 1))[N_TEXTS * seed :]
    return [tokenizer.encode(tale.tell()[0].text, bos=True) for tale in tales]


def run(*, model: str, draft: str, seed: int) -> dict[str, float]:
    """Train a draft, and let a model check what it proposes.

    Args:
        model: ``"course"`` or ``"larger"``.
        draft: ``"look-up"``; ``"student small"``: a distilled model; ``"width 64"``: two layers of that width, from
            scratch; ``"first 2"``: the model's first two layers, trained as a model; ``"course"``: the course model.

    Returns:
        ``parameters`` of the draft; by kind of sampling and number of candidates, the tokens that a pass of the model
        writes, without the first; ``alpha``, the acceptance on sampled texts, and ``formula n``, the tokens that follow
        from it.
    """
    whole, tokenizer = start(model)
    small = None if draft == "look-up" else draft_model(draft, whole, tokenizer, seed=seed)
    given = prompts(tokenizer, seed)
    figures: dict[str, float] = {"parameters": sum(p.numel() for p in small.parameters()) if small else 0}
    options = {"max_new_tokens": N_TOKENS, "seed": 1000 * seed, "stop_ids": []}
    for name, sampling in SAMPLINGS.items():
        for n in COUNTS if small else LOOKED_UP:
            how = ModelDraft(model=small, n=n) if small else PromptLookup(n=n)
            rows = generate(whole, None, given, sampling=sampling, draft=how, **options)
            passes = sum(len(row.accepted) for row in rows)
            figures[f"{name} {n}"] = (sum(len(row.tokens) for row in rows) - len(rows)) / passes
    if small:
        texts = [prompt + row.tokens for prompt, row in zip(given, rows, strict=True)]
        figures["alpha"] = acceptance(whole, small, texts, SAMPLINGS["sampled"])
        figures |= {f"formula {n}": expected_tokens(figures["alpha"], n) for n in COUNTS}
    return figures
