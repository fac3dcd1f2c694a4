#!/usr/bin/env bash
# The evaluation loss of transformers' Trainer depends on the batch size.
#
# Versions: transformers 5.23.0, accelerate 1.15.0, torch 2.13.0 (Python 3.11).
# Behavior: in training the Trainer divides by the number of targets in all batches of a step. In an evaluation each
#   batch has its own mean over targets, and eval_loss is the mean of these, each batch weighted with its rows. Where
#   answers have different lengths, another batch size is another loss, and none of them need be the mean over targets.
# Seen (one untrained model, four answers of 1 token and four of 39, in this order):
#   batch size 1: 5.14 | 2: 5.14 | 8: 4.85 | summed over all targets and divided by their number: 4.85
# Expected: the last number, whatever fits into memory. Two evaluations, and the perplexity made from them, compare only
#   if batch size, order and number of processes are the same.
# Upstream: huggingface/transformers issue 39241.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  transformers==5.23.0 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
model.lm_head.weight.data.mul_(10)  # less sure of chance: losses of single tokens differ
examples = [list(range(n)) for n in [2] * 4 + [40] * 4]  # every token but the first is a target


def collate(rows):
    longest = max(map(len, rows))
    pad = [longest - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([row + [0] * n for row, n in zip(rows, pad)]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * n for row, n in zip(rows, pad)]),
        "labels": torch.tensor([row + [-100] * n for row, n in zip(rows, pad)]),
    }


def evaluate(batch_size):
    settings = dict(per_device_eval_batch_size=batch_size, use_cpu=True, dataloader_pin_memory=False, report_to=[])
    trainer = Trainer(model, TrainingArguments("out", **settings), data_collator=collate, eval_dataset=examples)
    return trainer.evaluate()["eval_loss"]


with torch.no_grad():
    total = sum(model(torch.tensor([row]), labels=torch.tensor([row])).loss * (len(row) - 1) for row in examples)
right = (total / sum(len(row) - 1 for row in examples)).item()
losses = {size: evaluate(size) for size in (1, 2, 8)}
print("eval_loss by batch size:", {size: round(loss, 4) for size, loss in losses.items()})
print(f"mean over all targets: {right:.4f}")
if abs(losses[1] - losses[8]) < 0.1 or abs(losses[8] - right) > 1e-3:
    sys.exit("changed: the loss depended on the batch size before")
PY
timeout 300 venv/bin/python see.py
