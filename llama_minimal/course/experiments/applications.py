"""Chapter 13: what do seven applications gain from fine-tuning, and how far does counting alone come?"""

import torch

import llama_minimal as lm
from llama_minimal import applications
from llama_minimal.applications import APPLICATIONS, Application, Example
from llama_minimal.data import PackedExamples
from llama_minimal.finetuning import Pair, encode_examples, prepare
from llama_minimal.model import Llama
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import TextCodec
from llama_minimal.training import Trainer

WHAT = "The main score of seven applications: the best baseline, the course model before and after fine-tuning."
BUDGET = (
    "LoRA of rank 8 on all matrices of the blocks, 40 steps of up to 2,048 tokens at the rate 3e-3, which is not each "
    "application's own best; 600 examples to learn from, 120 to be tested on (40 stories), others for each seed."
)
CHECK = {"application": "translation", "seed": 0, "steps": 4}
TOLERANCE = 0.1  # one answer of 120 is most of a point, and other processors answer some questions otherwise

SEQ_LEN, ROWS = 512, 4
LEARNED, TESTED, STORIES = 600, 120, 40  # writing a story takes as long as fifty answers

POINTS = [
    CHECK,
    *({"application": name, "seed": seed, "steps": 40} for seed in (0, 1, 2) for name in APPLICATIONS),
]


def tune(model: Llama, tokenizer: TextCodec, examples: list[Example], *, steps: int, seed: int) -> int:
    """Teach a model the answers of examples by a new adapter, in place; return how many tokens it has learned to write.

    Examples that are longer than a row are left out.
    """
    encoded = encode_examples(tokenizer, [Pair(one.prompt, one.completion) for one in examples])
    fitting = [one for one in encoded if len(one.ids) <= SEQ_LEN]
    packed = PackedExamples.pack(fitting, seq_len=SEQ_LEN, pad_id=tokenizer.pad_id)
    prepare(model, "lora", seed=seed)
    config = TrainConfig(
        steps=steps, batch_size=ROWS, seq_len=SEQ_LEN, lr=3e-3, warmup_steps=steps // 10, weight_decay=0.0, seed=seed
    )
    for _ in Trainer(model, packed, config).run():
        pass
    return round(packed.n_targets * steps * ROWS / len(packed.inputs))


def best_baseline(task: Application, train: list[Example], tests: list[Example]) -> float:
    """Return the best score of what only counts: the best on the tests themselves, which favors it."""
    return max(task.score(predict(tests), tests)[task.metric] for predict in task.baselines(train).values())


def run(*, application: str, seed: int, steps: int) -> dict[str, float]:
    """Return the score of the best baseline and of the model before and after, in percent, and the tokens learned."""
    task, tested = applications.application(application), STORIES if application == "generation" else TESTED
    train, tests = task.examples(LEARNED, split="train", seed=seed), task.examples(tested, split="test", seed=seed)
    model, tokenizer = lm.load("course", dtype=torch.float32)
    before = task.evaluate(model, tokenizer, tests).scores[task.metric]
    learned = tune(model, tokenizer, train, steps=steps, seed=seed)
    after = task.evaluate(model, tokenizer, tests).scores[task.metric]
    return {"baseline": best_baseline(task, train, tests), "before": before, "after": after, "learned": learned}
