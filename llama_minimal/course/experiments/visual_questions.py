"""Chapter 21: questions about pictures of four digits, answered at once, after a caption, and without a picture."""

from collections.abc import Sequence
from functools import cache

import torch

from llama_minimal.config import LlamaConfig
from llama_minimal.model import Llama, build
from llama_minimal.multimodal import Example, MixedExamples, Vocabulary, add_inputs, generate, next_token_given
from llama_minimal.multimodal.scenes import KINDS, Scene, scenes
from llama_minimal.multimodal.vision import patches
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

WHAT = "Share of wrong answers to questions about pictures of digits never seen, in combinations seen and never seen."
BUDGET = (
    "400 steps of 64 questions about 12,000 pictures; three layers of width 64; Muon, at a rate that was the better of "
    "two; three seeds. Tested on 150 questions of each kind."
)
ARMS = (
    "sees",  # reads the picture, answers
    "aloud",  # reads the picture, says what it shows, and answers then
    "blind",  # reads the question alone
)
CHECK = {"arm": "blind", "seed": 0, "steps": 60}
POINTS = [*[{"arm": arm, "seed": seed} for arm in ARMS for seed in range(3)], CHECK]
TOLERANCE = 0.1  # a lively training: single answers differ on other processors

STEPS, ROWS, LR, N_SCENES, N_TEST = 400, 64, 1e-2, 12_000, 150
SIZE = 4  # pixels of a patch's side


@cache
def training_scenes() -> list[Scene]:
    """Return what all arms learn from; one question in two is about neighbors or numbers, the harder kinds."""
    return scenes(N_SCENES, kinds=(*KINDS, "neighbor"))


@cache
def text_side() -> tuple[Tokenizer, Vocabulary]:
    """Return the tokenizer of questions and answers, and the ids around it."""
    texts = [scene.question + scene.caption + ":" + scene.answer for scene in training_scenes()[:2000]]
    tokenizer = Tokenizer.train(texts, vocab_size=400)
    return tokenizer, Vocabulary(n_text=tokenizer.vocab_size, inputs={"image": SIZE * SIZE})


def examples(asked: Sequence[Scene], arm: str) -> list[Example]:
    """Return questions as an arm reads them, with the answers that it shall give."""
    tokenizer, vocabulary = text_side()
    cut = patches(torch.stack([scene.image for scene in asked]), SIZE)
    rows = []
    for scene, image in zip(asked, cut, strict=True):
        parts = (scene.question,) if arm == "blind" else (("image", image), scene.question)
        said = f"{scene.caption}:{scene.answer}" if arm == "aloud" else scene.answer
        rows.append(Example(vocabulary.prompt(tokenizer, *parts), [*tokenizer.encode(said), tokenizer.eos_id]))
    return rows


def make_model(*, seed: int, n_layers: int = 3) -> Llama:
    """Return an untrained model that reads pictures: width 64, four heads."""
    size = text_side()[1].size
    config = LlamaConfig(dim=64, n_layers=n_layers, n_heads=4, hidden_dim=168, vocab_size=size, max_seq_len=64)
    return add_inputs(build(config, seed=seed), text_side()[1], seed=seed)


def train(model: Llama, rows: Sequence[Example], *, seed: int, steps: int) -> list[float]:
    """Train a model in place; return the loss of each step."""
    data = MixedExamples.fill(rows, text_side()[1])
    recipe = TrainConfig(
        steps=steps,
        batch_size=ROWS,
        seq_len=data.seq_len,
        optimizer="muon",
        lr=LR,
        warmup_steps=min(40, steps),
        min_lr_ratio=0.05,
        seed=seed,
    )
    return [metrics["loss"] for metrics in Trainer(model, data, recipe, objective=next_token_given).run()]


def answers(model: Llama, rows: Sequence[Example]) -> list[str]:
    """Return what a model answers: what comes last, if it says more."""
    written = generate(model, text_side()[0], [row.prompt for row in rows], max_new_tokens=16)
    return [one.text.split(":")[-1] for one in written]


def accuracy(model: Llama, asked: Sequence[Scene], arm: str, *, shown: Sequence[Scene] | None = None) -> float:
    """Return the share of right answers.

    Args:
        shown: scenes whose pictures are shown instead of those that the questions are about.
    """
    seen = [scene._replace(image=other.image) for scene, other in zip(asked, shown or asked, strict=True)]
    given = answers(model, examples(seen, arm))
    return sum(said == scene.answer for said, scene in zip(given, asked, strict=True)) / len(asked)


def run(*, arm: str, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train an arm, and return its share of wrong answers of each kind, in old and in new combinations.

    ``other`` is the share in new combinations when each question comes with the picture of another.
    """
    model = make_model(seed=seed)
    losses = train(model, examples(training_scenes(), arm), seed=seed, steps=steps)
    figures = {"loss": sum(losses[-20:]) / len(losses[-20:])}
    for kind in KINDS:
        for name, new in (("old", False), ("new", True)):
            asked = scenes(N_TEST, split="test", new=new, kinds=(kind,), seed=1)
            figures[f"{name}_{kind}"] = 1 - accuracy(model, asked, arm)
        figures[f"other_{kind}"] = 1 - accuracy(model, asked, arm, shown=[*asked[7:], *asked[:7]])
    return figures
