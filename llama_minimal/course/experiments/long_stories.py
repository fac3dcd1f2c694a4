"""Chapter 19: how far a story stays consistent, by how its tokens are chosen."""

from functools import cache

import torch

import llama_minimal as lm
from llama_minimal.beams import beam_search
from llama_minimal.course.card import held_out, only_story
from llama_minimal.data.valley.checker import check
from llama_minimal.generation import generate
from llama_minimal.model import Llama
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import TextCodec

WHAT = "How many sentences of a story agree with each other before the first problem, by the way of choosing tokens."
BUDGET = (
    "8 held-out first events for each seed, up to 400 tokens each, the course model. Each way with one setting: "
    "temperature 1, the 20 likeliest, 90 % of the mass, 4 beams. What a story says is checked by the valley's rules."
)
CHECK = {"way": "greedy", "seed": 0}
TOLERANCE = 0.35  # one token that differs makes another story

N_STORIES, LOOKS = 8, (4, 8, 12, 16)
WAYS = {
    "greedy": Sampling(temperature=0.0),
    "all": Sampling(temperature=1.0),
    "top-k": Sampling(temperature=1.0, top_k=20),
    "top-p": Sampling(temperature=1.0, top_p=0.9),
    "beam": None,
}
POINTS = [
    *({"way": way, "seed": seed} for seed in (0, 1, 2) for way in WAYS if way != "beam"),
    {"way": "beam", "seed": 0},
]


@cache
def start() -> tuple[Llama, TextCodec]:
    """Return the course model and its tokenizer."""
    return lm.load("course", dtype=torch.float32)


def written(way: str, *, seed: int, n: int = N_STORIES) -> list[str]:
    """Return n stories that begin as held-out ones do."""
    model, tokenizer = start()
    begun = [story.tell()[0].text for story in held_out(n, seed=1500 + seed)]
    prompts = [tokenizer.encode(text, bos=True) for text in begun]
    if way == "beam":
        best = [
            beam_search(model, prompt, beam_size=4, max_new_tokens=400, stop_ids=[tokenizer.eos_id])[0]
            for prompt in prompts
        ]
        new = [tokenizer.decode(beam.tokens, skip_special=True) for beam in best]
    else:
        done = generate(model, tokenizer, prompts, max_new_tokens=400, sampling=WAYS[way], seed=seed)
        new = [one.text for one in done]
    return [only_story(text + more) for text, more in zip(begun, new, strict=True)]


def sentences(text: str) -> list[str]:
    """Return the beginnings of a story that end with a sentence, without its mark, the shortest first."""
    ends = [i for i, mark in enumerate(text) if mark in ".!?" and text[i + 1 : i + 2] in ("", " ", "\n")]
    return [text[:end] for end in ends]


def consistent_until(text: str) -> int:
    """Return after how many sentences the checker finds the first problem; of a story without any, how many it has.

    Events of several sentences may be cut off: then the checker waits for the rest.
    """
    if check(text).grammatical:
        return len(sentences(text))
    parts = sentences(text)
    low, high = 0, len(parts) - 1
    while low < high:  # a problem that is there stays there
        middle = (low + high + 1) // 2
        low, high = (middle, high) if check(parts[middle - 1], complete=False).grammatical else (low, middle - 1)
    return low


def run(*, way: str, seed: int) -> dict[str, float]:
    """Return the share of stories that are consistent as far as they go, and what they are like.

    Args:
        way: a name of ``WAYS``.
    """
    stories = written(way, seed=seed)
    good = [consistent_until(story) for story in stories]
    counts = [len(sentences(story)) for story in stories]
    figures = {
        "consistent": sum(check(story).grammatical for story in stories) / len(stories),
        "sentences": sum(counts) / len(stories),
        "different": len(set(stories)) / len(stories),
        "words": len({word for story in stories for word in story.split()}) / len(stories),
    }
    for look in LOOKS:  # of those that reach so far
        long = [good[i] >= look for i in range(len(stories)) if counts[i] >= look]
        figures |= {f"reach {look}": len(long), f"good {look}": sum(long)}
    return figures
