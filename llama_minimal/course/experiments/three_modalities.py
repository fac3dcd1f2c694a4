"""Chapter 21: a picture shows four digits, a voice says a number, a text says from where to count."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.model import Llama, build
from llama_minimal.multimodal import Example, MixedExamples, Vocabulary, add_inputs, generate, next_token_given
from llama_minimal.multimodal.scenes import WORDS
from llama_minimal.multimodal.speech import spoken_digit_features
from llama_minimal.multimodal.speech_digits import voices
from llama_minimal.multimodal.vision import digits, patches
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Share of wrong answers to questions of which a picture, a voice and a text each hold a part."
BUDGET = (
    "400 steps of 64 questions of 8,000; two layers of width 64; Muon. Tested on 300 questions, with digits that were "
    "never seen and voices that were never heard. Three seeds; one of each arm that lacks a part."
)
ARMS = ("all", "no picture", "no voice", "no text")
CHECK = {"arm": "no picture", "seed": 0, "steps": 40}
POINTS = [*[{"arm": "all", "seed": seed} for seed in range(3)], *[{"arm": arm, "seed": 0} for arm in ARMS[1:]], CHECK]
TOLERANCE = 0.1  # a lively training: single answers differ on other processors

STEPS, ROWS, LR, N_TRAIN, N_TEST = 400, 64, 1e-2, 8_000, 300
SIZE, SOUND = 8, 128  # a square is as large as a digit: nothing has to be put together here
TEXTS = {"en": ("from the left:", "from the right:"), "zh": ("从左数:", "从右数:")}


class Task(NamedTuple):
    """Hold four digits in a row, a spoken number from one to four, and a text that says from which side to count."""

    image: Tensor
    """(8, 32)."""
    sound: Tensor
    """(tokens, 128)."""
    text: str
    answer: str
    about: str
    """What is shown, said and asked, in words."""


def tasks(n: int, *, split: str = "train", seed: int = 0) -> list[Task]:
    """Draw questions; the voice speaks English or Chinese, and so, whatever the voice does, does the text."""
    rng = np.random.default_rng([seed, split == "test"])
    images, labels = digits(split)
    speakers, drawn = voices(split), []
    for _ in range(n):
        chosen = rng.integers(len(images), size=4)
        number, side = int(rng.integers(1, 5)), int(rng.integers(2))
        voice, spoken, language = (str(rng.choice(some)) for some in (speakers, list(WORDS), list(WORDS)))
        sound, recording = spoken_digit_features(number, voice, spoken)
        shown = labels[chosen].tolist()
        answer = WORDS[language][shown[-number if side else number - 1]]
        text = TEXTS[language][side]
        about = f"{' '.join(map(str, shown))} · {voice}: {recording.word} · {text}"
        image = torch.cat(list(images[chosen]), dim=1)
        drawn.append(Task(image, sound, text, answer if language == "zh" else f" {answer}", about))
    return drawn


@cache
def text_side() -> tuple[Tokenizer, Vocabulary]:
    """Return the tokenizer of questions and answers, and the ids around it."""
    words = [word if language == "zh" else f" {word}" for language in WORDS for word in WORDS[language]]
    texts = [text + word for language in TEXTS for text in TEXTS[language] for word in words]
    tokenizer = Tokenizer.train(texts, vocab_size=340)
    return tokenizer, Vocabulary(n_text=tokenizer.vocab_size, inputs={"image": SIZE * SIZE, "sound": SOUND})


def examples(asked: Sequence[Task], arm: str = "all") -> list[Example]:
    """Return questions as an arm reads them: one part may be missing."""
    tokenizer, vocabulary = text_side()
    rows = []
    for task, image in zip(asked, patches(torch.stack([task.image for task in asked]), SIZE), strict=True):
        parts = {"no picture": ("image", image), "no voice": ("sound", task.sound), "no text": task.text}
        prompt = vocabulary.prompt(tokenizer, *[part for name, part in parts.items() if name != arm])
        rows.append(Example(prompt, [*tokenizer.encode(task.answer), tokenizer.eos_id]))
    return rows


def trained(arm: str, *, seed: int, steps: int = STEPS) -> Llama:
    """Return a model that was trained as an arm."""
    size = text_side()[1].size
    config = LlamaConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=168, vocab_size=size, max_seq_len=64)
    model = add_inputs(build(config, seed=seed), text_side()[1], seed=seed)
    data = MixedExamples.fill(examples(tasks(N_TRAIN), arm), text_side()[1])
    recipe = TrainConfig(
        steps=steps,
        batch_size=ROWS,
        seq_len=data.seq_len,
        optimizer="muon",
        lr=LR,
        warmup_steps=min(30, steps),
        min_lr_ratio=0.05,
        seed=seed,
    )
    for _ in Trainer(model, data, recipe, objective=next_token_given).run():
        pass
    return model


def errors(model: Llama, asked: Sequence[Task], arm: str = "all", *, other: str = "") -> float:
    """Return the share of wrong answers.

    Args:
        other: "image", "sound" or "text": this part is taken from another question.
    """
    read = asked
    if other:
        read = [task._replace(**{other: getattr(asked[i - 7], other)}) for i, task in enumerate(asked)]
    written = generate(model, text_side()[0], [row.prompt for row in examples(read, arm)], max_new_tokens=4)
    return sum(one.text != task.answer for one, task in zip(written, asked, strict=True)) / len(asked)


def run(*, arm: str, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train an arm, and return its share of wrong answers; of the whole also with a part of another question."""
    model, asked = trained(arm, seed=seed, steps=steps), tasks(N_TEST, split="test", seed=1)
    figures = {"wrong": errors(model, asked, arm)}
    if arm == "all":
        figures |= {f"other_{part}": errors(model, asked, other=part) for part in ("image", "sound", "text")}
    return figures
