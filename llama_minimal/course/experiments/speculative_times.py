"""Chapter 18: what do a draft's step and a pass over several tokens cost on two cores, and when does that pay?"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from llama_minimal.adaptive_computation import ModelDraft, PromptLookup, first_layers
from llama_minimal.checkpoint import load
from llama_minimal.config import preset
from llama_minimal.course.card import held_out
from llama_minimal.data.valley import examples
from llama_minimal.generation import generate
from llama_minimal.model import Llama, build
from llama_minimal.settings import GREEDY

WHAT = "Milliseconds of a pass over one token and over several, of a draft's step, and of whole texts with a draft."
BUDGET = (
    "Two threads, float32, one text, a cache of 128 tokens of which 96 are filled; the median of 15 passes that take "
    "turns. Untrained weights, but for the course model. Texts: 4 of each kind, 48 tokens, greedy, fastest of three."
)
CHECK = {"model": "stories-15m"}
TOLERANCE = 1.0  # any time will do: another machine has other times, and a busy one all kinds of them

WIDTHS = (1, 2, 3, 5, 9)  # tokens of a pass
DRAFTS = {  # layers and width of drafts; None: the model's own first layers
    "course": {"width 64": (2, 64), "first 1": (1, None), "first 2": (2, None)},
    "stories-15m": {"width 64": (2, 64), "first 3": (3, None)},
    "stories-110m": {"width 64": (2, 64), "width 288": (6, 288), "first 4": (4, None)},
}
POINTS = [{"model": model} for model in DRAFTS]


def medians(calls: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Return the median milliseconds of each call; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


def a_pass(model: Llama, n_tokens: int) -> Callable[[], object]:
    """Return what passes so many tokens through a model, after 96 others."""
    cache = model.make_cache(batch_size=1, max_seq_len=128)
    model.next_logits(torch.arange(96)[None], cache=cache)
    tokens, positions = torch.arange(n_tokens)[None], torch.arange(96, 96 + n_tokens)[None]
    step = model.next_logits if n_tokens == 1 else model
    return lambda: step(tokens, positions=positions, cache=cache)


def a_draft(model: Llama, n_layers: int, width: int | None) -> Llama:
    """Return a draft of the model's own layers, or an untrained one."""
    if width is None:
        return first_layers(model, n_layers)
    heads = max(1, width // 32)
    shape = {"dim": width, "n_layers": n_layers, "n_heads": heads, "n_kv_heads": heads, "hidden_dim": 3 * width}
    return build(model.config.replace(**shape, head_dim=width // heads), seed=0).eval()


def of_texts(model: Llama, tokenizer: object) -> dict[str, float]:
    """Return how long whole texts take, and how many tokens a pass writes, without a draft and with several."""
    tales = held_out(12)
    asked = [examples(tale, "qa")[0].prompt for tale in tales]
    kinds = {"stories": [tale.tell()[0].text for tale in tales], "questions": asked}
    drafts = {"plain": None, "look-up": PromptLookup(n=4), "first 2": ModelDraft(model=first_layers(model, 2), n=4)}
    figures = {}
    for kind, texts in kinds.items():
        prompts = [tokenizer.encode(text, bos=True)[-300:] for text in texts[:4]]
        for name, draft in drafts.items():
            options = {"max_new_tokens": 48, "sampling": GREEDY, "stop_ids": [], "draft": draft}
            fastest = float("inf")
            for _ in range(3):
                begin = time.perf_counter()
                rows = [generate(model, None, [prompt], **options)[0] for prompt in prompts]
                fastest = min(fastest, time.perf_counter() - begin)
            n_passes = sum(len(row.accepted) for row in rows)
            figures[f"{kind} {name} ms"] = 1000 * fastest / (48 * len(rows))
            figures[f"{kind} {name} tokens"] = 47 * len(rows) / n_passes
    return figures


@torch.inference_mode()
def run(*, model: str) -> dict[str, float]:
    """Measure one model with its drafts.

    Args:
        model: ``"course"``, or the shape of a preset.

    Returns:
        Milliseconds: ``pass n`` over n tokens, and a step of each draft by its name. Of the course model also the
        milliseconds for a token of whole texts, and the tokens that a pass writes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if model == "course":
            whole, tokenizer = load("course", dtype=torch.float32)
        else:
            whole, tokenizer = build(preset(model), seed=0).eval(), None
        calls = {f"pass {n}": a_pass(whole, n) for n in WIDTHS}
        calls |= {name: a_pass(a_draft(whole, *shape), 1) for name, shape in DRAFTS[model].items()}
        return medians(calls) | (of_texts(whole, tokenizer) if tokenizer else {})
    finally:
        torch.set_num_threads(threads)
