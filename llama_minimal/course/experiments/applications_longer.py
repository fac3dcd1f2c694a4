"""Chapter 13: what ten times the steps and examples, and all weights, make of the applications that were new."""

import torch

import llama_minimal as lm
from llama_minimal import applications
from llama_minimal.chat import chat_template
from llama_minimal.data import PackedExamples
from llama_minimal.finetuning import encode_examples, prepare, read_examples
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

WHAT = "The main score of four applications after ten times the steps of the run applications, with all weights."
BUDGET = (
    "All weights, 400 steps of up to 2,048 tokens at the rate 1e-3 in bfloat16; 6,000 examples to learn from, 120 to "
    "be tested on; one seed."
)
CHECK = {"application": "translation", "steps": 10}
TOLERANCE = 0.2  # a lively training of few steps: answers differ on other processors
SEQ_LEN, ROWS = 512, 4
LEARNED, TESTED = 6000, 120

POINTS = [
    CHECK,
    *({"application": name, "steps": 400} for name in ("code", "reports", "translation", "dialogue")),
]


def run(*, application: str, steps: int) -> dict[str, float]:
    """Return the score after tuning, in percent, that of the best baseline beside it, and the minutes of training."""
    task = applications.application(application)
    train, tests = task.examples(LEARNED, split="train"), task.examples(TESTED, split="test")
    model, tokenizer = lm.load("course", dtype=torch.float32)
    examples = read_examples([one.as_dict() for one in train])
    encoded = encode_examples(tokenizer, examples, template=chat_template(tokenizer))
    fitting = [one for one in encoded if len(one.ids) <= SEQ_LEN]
    packed = PackedExamples.pack(fitting, seq_len=SEQ_LEN, pad_id=tokenizer.pad_id)
    prepare(model, "full")
    recipe = TrainConfig(
        steps=steps, batch_size=ROWS, seq_len=SEQ_LEN, lr=1e-3, warmup_steps=steps // 10, precision="bf16"
    )
    *_, last = Trainer(model, packed, recipe).run()
    scores = task.evaluate(model, tokenizer, tests).scores
    baseline = max(task.score(predict(tests), tests)[task.metric] for predict in task.baselines(train).values())
    return {"baseline": baseline, "after": scores[task.metric], "loss": last["loss"]}
