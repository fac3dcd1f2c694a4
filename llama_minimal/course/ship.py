"""Make the course model from a training run: ``python -m llama_minimal.course.ship runs/course``.

`make pretrain` trains first, and afterward measures with ``llama-minimal evaluate course --write-card``.
"""

import math
import statistics
import sys
from pathlib import Path

import torch

from llama_minimal.chat import set_chat_template
from llama_minimal.checkpoint import COURSE, load, save
from llama_minimal.config import read_json
from llama_minimal.course.card import CARD, checksums, versions, write_card
from llama_minimal.course.record import machine
from llama_minimal.data import read_corpus_info
from llama_minimal.metrics import METRICS, read_metrics

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content | trim }}{{ '\\n\\n' }}
{%- elif message.role == 'user' %}
{{- '\\n' if loop.previtem and loop.previtem.role == 'assistant' }}User: {{ message.content | trim }}{{ '\\n' }}
{%- elif message.role == 'assistant' %}
{{- 'Llama: ' }}{{ message.content | trim }}{{ eos_token }}
{%- else %}
{{- raise_exception('the roles are system, user and assistant, not ' ~ message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Llama:' }}
{%- endif %}
"""
"""Turns as the valley's dialogues write them; an answer ends with the token that ends a text."""


def ship(run: Path, target: Path = COURSE) -> None:
    """Write a finished run as a Hugging Face folder in bfloat16, with the first half of its card."""
    flags, corpus = read_json(run / "run.json"), read_corpus_info(run / "data")
    metrics = read_metrics(run / METRICS)
    curve = [row for row in metrics if "validation_loss" in row]
    model, tokenizer = load(run, dtype=torch.bfloat16)
    set_chat_template(tokenizer, CHAT_TEMPLATE)
    save(model, target, tokenizer, format="huggingface")
    train = flags["train"]
    step_tokens = train["batch_size"] * train["seq_len"]
    tokens, validation = train["steps"] * step_tokens, corpus.validation
    card = {
        "what": "The course model of llama_minimal: a small LLaMA that writes stories from the Llama Valley.",
        "license": "MIT",
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": {"corpus": flags["corpus"], "preset": flags["preset"], "vocab_size": flags["vocab_size"], **train},
        "data_seed": 0,
        "training": {
            "tokens_seen": tokens,
            "epochs": round(tokens / corpus.train.tokens, 2),
            "validation_loss": round(min(row["validation_loss"] for row in curve), 4),
            "seconds_per_step": round(statistics.median(step_tokens / row["tokens_per_second"] for row in metrics), 4),
            "nats_to_bits_per_byte": round(validation.tokens / validation.bytes / math.log(2), 5),
            "curve": [[row["step"], round(row["validation_loss"], 4)] for row in curve],
        },
        "trained_with": versions(),
        "trained_on": machine(),
        "sha256": checksums(target),
    }
    write_card(card, target)
    print(f"{target / CARD} written; now run: llama-minimal evaluate course --write-card")


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
