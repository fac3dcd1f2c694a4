#!/usr/bin/env bash
# peft drops trained LoRA matrices in silence when adapter_config.json does not name their modules.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (Python 3.11).
# Behavior: PeftModel.from_pretrained puts adapters where target_modules says, and ignores every tensor of the file
#   that has no place there. If the field is missing, a default per architecture stands in (q_proj and v_proj for
#   LLaMA). The other way round, a module named without a tensor in the file, it does warn.
# Seen (adapters trained on q, k, v and up; largest difference of the logits):
#   as saved 0.0 | target_modules missing 0.70, no warning | only q_proj named 0.57, no warning
# Expected: a warning at least. Tensors of a checkpoint that find no place are reported by load_state_dict and by
#   transformers; here half a fine-tuning is gone, and the model still answers.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  peft==0.21.2 transformers==5.23.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def base():
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


model = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "up_proj"])).eval()
for name, parameter in model.named_parameters():
    if "lora_B" in name:  # zeros before training
        torch.nn.init.normal_(parameter)
ids = torch.arange(8)[None]
right = model(ids).logits
model.save_pretrained("adapter")
path = Path("adapter/adapter_config.json")
config = json.loads(path.read_text())


def reload(name, **changes):
    path.write_text(json.dumps({key: value for key, value in (config | changes).items() if value is not None}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        d = (PeftModel.from_pretrained(base(), "adapter").eval()(ids).logits - right).abs().max().item()
    told = [str(w.message) for w in caught if "adapter" in str(w.message)]
    print(f"{name}: largest difference of the logits {d:.2f}, warnings about the adapter: {len(told)}")
    return d, told


whole, _ = reload("as saved")
missing, told = reload("target_modules missing", target_modules=None)
fewer, told_too = reload("only q_proj named", target_modules=["q_proj"])
if whole > 1e-5 or min(missing, fewer) < 0.01 or told or told_too:
    sys.exit("changed: matrices were dropped without a warning before")
PY
timeout 300 venv/bin/python see.py
