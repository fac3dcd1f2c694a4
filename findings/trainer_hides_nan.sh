#!/usr/bin/env bash
# The log of a training whose weights are NaN says that the loss is 0, and an evaluation passes over what is NaN.
#
# Versions: transformers 5.23.0, accelerate 1.15.0, torch 2.13.0 (Python 3.11).
# Behavior: logging_nan_inf_filter, on by default, puts the mean of the losses since the last line of the log in the
#   place of a loss that is NaN or infinite. Where all are, that mean is 0. An evaluation leaves such batches out, and
#   gives the mean of the others. Nothing is said; only the norm of the gradients stands as nan in the same line.
# Seen:
#   training, a NaN in the last norm: loss 0 in every line and in train_loss
#   evaluation, where half the batches are NaN: the loss of the other half, the same as without them
# Expected: NaN, or the count of what was left out. A search over learning rates takes the run that diverged as the
#   best, and a model that overflows on long texts has the loss of the short ones. The documentation of the argument
#   speaks of an average of valid losses, not of 0 where there are none.
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

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
short, long = [{"ids": [1, 2, last]} for last in (3, 4)]


def collate(rows):
    ids = torch.tensor([row["ids"] for row in rows])
    return {"input_ids": ids, "labels": ids}


def trainer(model, data):
    settings = dict(report_to=[], use_cpu=True, dataloader_pin_memory=False, remove_unused_columns=False)
    settings |= dict(per_device_train_batch_size=2, per_device_eval_batch_size=2, logging_steps=2, num_train_epochs=1)
    settings |= dict(save_strategy="no", disable_tqdm=True)
    arguments = TrainingArguments("out", **settings)
    return Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data)


torch.manual_seed(0)
diverged, overflows = LlamaForCausalLM(LlamaConfig(**SIZES)), LlamaForCausalLM(LlamaConfig(**SIZES))
diverged.model.norm.weight.data[0] = float("nan")
overflows.model.embed_tokens.weight.data[4] = float("nan")
run = trainer(diverged, [short] * 8)
run.train()
log = [line["loss"] for line in run.state.log_history if "loss" in line]
print("losses in the log:", log, "train_loss:", run.state.log_history[-1]["train_loss"])
with torch.no_grad():
    print("loss of the model:", diverged(**collate([short])).loss.item())
half = trainer(overflows, [short] * 4 + [long] * 4).evaluate()["eval_loss"]
rest = trainer(overflows, [short] * 4).evaluate()["eval_loss"]
print(f"eval_loss with {half:.4f} and without {rest:.4f} the batches that are NaN")
if set(log) != {0.0} or len(log) != 2 or not abs(half - rest) < 1e-6:
    sys.exit("changed: a loss of 0 and an evaluation without its NaNs before")
PY
timeout 300 venv/bin/python see.py
