#!/usr/bin/env bash
# transformers separates packed documents only in a call without cache and without mask.
#
# Versions: transformers 5.23.0, torch 2.13.0 (Python 3.11).
# Behavior: position_ids that start anew at 0 mark packed documents, and the model builds a block-causal mask from
#   them, if use_cache=False is passed and attention_mask is not. The default call has a cache, in training too, and
#   every tokenizer and collator returns a mask of ones, which hides nothing: either of them switches the block mask
#   off in silence, and the second document attends to the first.
# Seen (second of two packed documents against the same document alone; largest difference of the logits):
#   use_cache=False 5e-07 | default call 2 | use_cache=False with a mask of ones 2
# Expected: the same in all three. An empty cache and a mask of ones change nothing for unpacked text, and the
#   documentation of attention_mask calls 1 "not masked".
# Upstream: huggingface/transformers pull request 46634 (the mask).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check transformers==5.23.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**sizes)).train()  # no dropout: train and eval compute the same
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
ids = torch.randint(3, 64, (1, 12))
positions = torch.arange(6).repeat(2)[None]
ones = torch.ones_like(ids)
calls = {
    "use_cache=False": dict(use_cache=False),
    "default call": dict(),
    "use_cache=False, mask of ones": dict(use_cache=False, attention_mask=ones),
}
seen = {}
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    with torch.no_grad():
        alone = model(ids[:, 6:]).logits
        for name, call in calls.items():
            packed = model(ids, position_ids=positions, **call).logits[:, 6:]
            seen[attention, name] = (packed - alone).abs().max().item()
            print(f"{attention}, {name}: differs from the document alone by {seen[attention, name]:.1g}")
if any((d > 1e-4) == (name == "use_cache=False") for (_, name), d in seen.items()):
    sys.exit("changed: only the first call separated the documents before")
PY
timeout 300 venv/bin/python see.py
