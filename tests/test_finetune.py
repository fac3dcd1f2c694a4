"""The tuning tool, from a file of examples to a report."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
import torch

import llama_minimal as lm
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig
from llama_minimal.tokenizer import Tokenizer

ANIMALS, PLACES = ["Benny", "Lila", "Oscar", "Pip", "Rosa", "Tom", "Una"], ["the bridge", "the mill", "the reeds"]
GOOD, BAD = ["was happy", "laughed", "sang a song", "found the kite"], ["was sad", "cried", "lost the kite", "fell down"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant:{% endif %}"
TEMPLATE = TEMPLATE.replace("assistant: ", "assistant:").replace("}}: {{", "}}:{{")
QUICK = ["--steps", "8", "--method", "lora", "--rank", "2", "--lr", "0.01"]


def lines(kind, n=60):
    """Return n different examples of a kind, as values for JSON."""
    dice = random.Random(0)
    found = {}
    while len(found) < n:
        who, where, good = dice.choice(ANIMALS), dice.choice(PLACES), dice.random() < 0.5
        what, number = dice.choice(GOOD if good else BAD), dice.randrange(100)
        text = f"On day {number} {who} came to {where} and {what}."
        found[text] = {
            "labels": {"text": text, "label": "good" if good else "bad"},
            "pairs": {"prompt": f"{text} Who?", "completion": f" {who} {number}"},
            "chat": {
                "messages": [{"role": "user", "content": f"{text} Who?"}, {"role": "assistant", "content": who}]
            },
        }[kind]
    return list(found.values())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model that has learned nothing."""
    folder = tmp_path_factory.mktemp("base")
    texts = [row["text"] for row in lines("labels")] + ["user: assistant: Who? "] * 5
    tokenizer = Tokenizer.train(texts, vocab_size=400)
    shape = LlamaConfig(dim=32, n_layers=2, n_heads=2, vocab_size=tokenizer.vocab_size, hidden_dim=48, max_seq_len=96)
    lm.save(lm.build(shape, seed=1), folder, tokenizer)
    return folder


def tune(data, base, out, *flags):
    main(["finetune", str(data), "--base", str(base), "--out", str(out), *map(str, flags)])
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_labels(base, tmp_path, capsys):
    report = tune(write(tmp_path / "a.jsonl", lines("labels", 200)), base, tmp_path / "out", *QUICK)
    print(capsys.readouterr().out)
    print(json.dumps(report, indent=1)[:6000])
