#!/usr/bin/env bash
# A file copied over a checkpoint changes the model that was loaded from it.
#
# Versions: transformers 5.23.0, safetensors 0.8.0, torch 2.13.0, numpy 2.4.6 (Python 3.11).
# Behavior: the weights of a loaded model are the file itself, mapped into memory. cp, shutil.copyfile and rsync
#   --inplace write into the file that is there. Then the loaded model computes with the new numbers (and a process
#   dies of a bus error where the new file is shorter). Nothing is told. With another dtype than the file's, the numbers
#   are copied while loading, and stay; save_pretrained puts a new file in the place of the old one, and they stay, too.
# Seen (largest change of the logits of a loaded model):
#   b saved over a 0.0, b copied over a 0.45, the same with the model loaded as bfloat16 0.0
# Expected: a sentence in the documentation of from_pretrained at the least: whoever brings a new checkpoint to a
#   running server by cp changes its answers at once, halfway through the copy as well.
# Upstream: safetensors/safetensors issue 762 was about save_file onto the file just loaded, which 0.8.0 does rightly.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  transformers==5.23.0 safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import shutil
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.utils.logging.disable_progress_bar()
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
IDS = torch.arange(8)[None]


def make(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


@torch.no_grad()
def change(dtype, overwrite):
    make(0).save_pretrained("a")
    make(1).save_pretrained("b")
    model = LlamaForCausalLM.from_pretrained("a", dtype=dtype)
    before = model(IDS).logits.clone()
    overwrite()
    return (model(IDS).logits - before).abs().max().item()


def copy():
    shutil.copyfile("b/model.safetensors", "a/model.safetensors")


seen = {
    "b saved over a": change(torch.float32, lambda: make(1).save_pretrained("a")),
    "b copied over a": change(torch.float32, copy),
    "b copied over a, loaded as bfloat16": change(torch.bfloat16, copy),
}
for name, value in seen.items():
    print(f"{name}: the loaded model's logits change by {value:.2g}")
if [value > 0.1 for value in seen.values()] != [False, True, False]:
    sys.exit("changed: only the copy changed a loaded model before, and only if loaded in the file's dtype")
PY
timeout 120 venv/bin/python see.py
