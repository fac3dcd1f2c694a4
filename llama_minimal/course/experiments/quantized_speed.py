"""Chapter 14: what do few bits save? Bytes of the weights, and tokens per second of one processor core."""

import time
from functools import cache

import torch

from llama_minimal.config import preset
from llama_minimal.generation import generate
from llama_minimal.model import Llama, build
from llama_minimal.quantization import quantize, weight_bytes

WHAT = "Bytes of the weights, and tokens per second of one core, of a model of 110 million weights in several formats."
BUDGET = (
    "The shape stories-110m with random weights, one thread. Writing: 24 tokens of one text; of 32 texts, 4 tokens "
    "each. Reading: 256 tokens. Processor time of the faster of two rounds; three repeats, one after the other for all "
    "formats."
)
CHECK = {"format": "int4", "task": "none", "repeat": 0}  # which measures no time

FORMATS = ("fp32", "bf16", "int8", "int4")
TASKS = ("write", "write 32", "read")
POINTS = [{"format": form, "task": "none", "repeat": 0} for form in FORMATS] + [
    {"format": form, "task": task, "repeat": repeat} for repeat in (0, 1, 2) for form in FORMATS for task in TASKS
]


@cache
def model_in(form: str) -> Llama:
    """Return the model with its weights in a format."""
    model = build(preset("stories-110m"), seed=0).eval()
    if form.startswith("int"):
        return quantize(model, form)
    return model.to(torch.bfloat16 if form == "bf16" else torch.float32)


@torch.inference_mode()
def work(model: Llama, task: str) -> int:
    """Write or read, and return how many tokens."""
    if task == "read":
        return model(torch.arange(256)[None]).shape[:2].numel()
    texts = 1 if task == "write" else 32
    written = generate(model, None, [[1, 2, 3]] * texts, max_new_tokens=24 if texts == 1 else 4, stop_ids=())
    return sum(len(text.tokens) for text in written)


def run(*, format: str, task: str, repeat: int) -> dict[str, float]:
    """Return the bytes of all weights, and tokens per second of processor time.

    Args:
        format: "fp32", "bf16", "int8" or "int4".
        task: "write", "write 32", "read", or "none", which takes no time.
        repeat: its number; it changes nothing.
    """
    model = model_in(format)
    figures = {"bytes": weight_bytes(model), "tokens_per_second": 0.0}
    if task != "none":
        work(model, task)  # lays the codes out for the processor
        speeds = []
        for _ in range(2):
            start = time.process_time()
            n = work(model, task)
            speeds.append(n / (time.process_time() - start))
        figures["tokens_per_second"] = max(speeds)
    return figures
