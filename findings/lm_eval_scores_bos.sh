#!/usr/bin/env bash
# lm-eval counts the beginning-of-text token as a word of every text when add_bos_token is set.
#
# Versions: lm_eval 0.4.13, transformers 5.23.0, tokenizers 0.23.3, torch 2.13.0 (Python 3.11).
# Behavior: a text's log-likelihood (perplexity tasks) is computed after a prefix token, the beginning of text. With
#   add_bos_token=True, which models such as Gemma need, the text's own ids begin with that token, too: so the model is
#   asked to predict a beginning of text behind a beginning of text, which no training has shown it.
# Seen (a model that gives each of 8 tokens the probability 1/8, a text of 3 tokens): -6.24 = 3 log 1/8 without
#   add_bos_token, and -8.32 = 4 log 1/8 with it
# Expected: 3 log 1/8 both times. A trained model gives the second token nearly no probability, so that its perplexity
#   and bits per byte grow by several nats a text; of answers after a question nothing changes.
# Upstream: EleutherAI/lm-evaluation-harness issue 3333 (closed; the behavior is there in 0.4.13).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  lm_eval==0.4.13 transformers==5.23.0 tokenizers==0.23.3 accelerate==1.15.0 datasets==5.2.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import math
import sys
from types import SimpleNamespace

import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = ["<s>", "</s>", "the", "llama", "sat", "down", "and", "sang"]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="</s>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, **shape))
with torch.no_grad():
    model.lm_head.weight.zero_()  # every token is as likely as any other
totals = []
for add in (False, True):
    harness = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=add, device="cpu")
    [total] = harness.loglikelihood_rolling([SimpleNamespace(args=("the llama sat",))], disable_tqdm=True)
    totals.append(total)
    print(f"add_bos_token={add}: {total:.2f} = {total / -math.log(8):.1f} times log 1/8, for a text of 3 tokens")
if [round(total / -math.log(8), 3) for total in totals] != [3.0, 4.0]:
    sys.exit("changed: 3 and 4 tokens before")
PY
timeout 300 venv/bin/python see.py
