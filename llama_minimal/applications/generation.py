"""Generation: stories that go on from their first event, checked for what cannot be."""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from llama_minimal.applications.base import Application, Example, Predictor, Result, Scores, take
from llama_minimal.data import valley
from llama_minimal.data.valley.checker import PROPERTIES, check
from llama_minimal.ngrams import NGram

ORDERS = (3, 5)
FEWEST_SENTENCES = 5  # of a continuation that counts: a story that says nothing contradicts nothing
TEMPERATURE = 0.8
_WORD = re.compile(r"\n\n|\w+|[^\w\s]")
_NEW_TASK = ("Question:", "Sentiment", "Summary:", "Chinese:", "English:", "User:", "Fields:", "Speech:")


def examples(n: int, *, split: str = "train", seed: int = 0) -> list[Example]:
    """Return n stories: the first event as the prompt, the rest as the completion."""
    return take(n, _of_story, split=split, seed=seed)


def _of_story(story: valley.Story) -> list[Example]:
    start, text = story.tell()[0].text, story.text()
    return [Example(start, text[len(start) :], "story", extra={"story": text})]


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Return the share of stories that the valley's checker calls consistent, and of each property that it checks.

    The story is the prompt with what was written after it. One whose continuation has fewer than five sentences is not
    consistent, whatever it says.
    """
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples; give one for each")
    checks = [check(f"{one.prompt} {text.strip()}") for text, one in zip(predictions, examples, strict=True)]
    long_enough = [len(re.findall(r'[.!?]"?(?=\s|$)', text.strip())) >= FEWEST_SENTENCES for text in predictions]
    consistent = [found.grammatical and enough for found, enough in zip(checks, long_enough, strict=True)]
    shares = {"consistent": consistent, "long enough": long_enough, "sentences": [found.sentences for found in checks]}
    shares |= {name: [getattr(found, name) for found in checks] for name in PROPERTIES}
    return {name: 100 * sum(values) / len(values) for name, values in shares.items()}


def bits_per_byte(model: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
    """Return how many bits a model needs for a byte of the true completions, given their prompts."""
    import torch
    from torch.nn import functional as F

    total, n_bytes = 0.0, 0
    with torch.inference_mode():
        for one in examples:
            before = len(tokenizer.encode_prompt(one.prompt))
            ids = tokenizer.encode_prompt(one.prompt + one.completion)[: model.config.max_seq_len]
            tokens = torch.tensor([ids], device=model.device)
            logits = model(tokens)[0, before - 1 : -1].float()
            total += float(F.cross_entropy(logits, tokens[0, before:], reduction="sum"))
            n_bytes += len(tokenizer.decode(ids[before:]).encode("utf-8"))
    return total / math.log(2) / n_bytes


class _Generation(Application):
    """Measure bits per byte, too."""

    def evaluate(self, model: Any, tokenizer: Any, examples: Sequence[Example], **options: Any) -> Result:
        predictions = self.predict(model, tokenizer, examples, **options)
        scores = self.score(predictions, examples)
        return Result(scores | {"bits per byte": bits_per_byte(model, tokenizer, examples)}, predictions)


def baselines(train: Sequence[Example]) -> dict[str, Predictor]:
    """Return n-gram models of words, which draw at temperature 0.8, and one that copies how another story went on."""
    words = _WordModel(train)
    found: dict[str, Predictor] = {f"{order}-gram": partial(words.write, order=order) for order in ORDERS}
    return found | {"another story": lambda examples: [train[i % len(train)].answers[0] for i in range(len(examples))]}


class _WordModel:
    """Count n-grams of words and signs."""

    def __init__(self, train: Sequence[Example]) -> None:
        texts = [_WORD.findall(one.extra["story"]) for one in train]
        self.names = ["", *sorted({word for words in texts for word in words})]
        self.ids = {word: i for i, word in enumerate(self.names)}
        ids = np.array([i for words in texts for i in (0, *(self.ids[word] for word in words))] + [0])
        self.models = {order: NGram.train(ids, order=order, vocab_size=len(self.names), bos_id=0) for order in ORDERS}

    def write(self, examples: Sequence[Example], *, order: int) -> list[str]:
        """Return a continuation of each prompt."""
        return [self._continue(one.prompt, order, seed) for seed, one in enumerate(examples)]

    def _continue(self, prompt: str, order: int, seed: int) -> str:
        known = [0, *(self.ids[word] for word in _WORD.findall(prompt) if word in self.ids)]
        rng = np.random.default_rng(seed)
        ids = self.models[order].sample(known, 250, rng=rng, temperature=TEMPERATURE, stop_id=0)
        return _as_text([self.names[i] for i in ids])


def _as_text(words: Sequence[str]) -> str:
    """Return words as a text, with spaces where English has them."""
    text, is_open = "", False
    for word in words:
        closes = word == '"' and is_open
        glued = text.endswith(("\n\n", "'", "-")) or (is_open and text.endswith('"'))
        text += word if glued or word in ".,!?':;-\n\n" or closes else f" {word}"
        is_open = is_open != (word == '"')
    return text.strip()


APPLICATION = _Generation(
    name="generation",
    metric="consistent",
    examples=examples,
    score=score,
    baselines=baselines,
    max_new_tokens=320,
    stop=tuple(f"\n\n{task}" for task in _NEW_TASK),
)
