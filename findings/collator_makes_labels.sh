#!/usr/bin/env bash
# A data collator of transformers throws the labels away that it is given, and its own leave out the end of text.
#
# Versions: transformers 5.23.0, torch 2.13.0 (Python 3.11).
# Behavior: DataCollatorForLanguageModeling(mlm=False) makes the labels anew from the ids, whatever the examples bring
#   as labels, and sets those to -100 that are the padding token. With pad_token = eos_token, as tutorials set it for
#   a tokenizer that has none, that is every end of text, padded or not. Nothing is said.
# Seen (a prompt of two tokens with labels -100, an answer, the end of text):
#   given -100 -100 3 0, returned 1 2 3 -100: the prompt is learned, the end is not
# Expected: the labels of the examples, or an error that it does not use them; -100 where there is padding
#   (attention_mask knows). A model trained so writes the user's part too, and does not stop.
# Upstream: huggingface/transformers issue 23530 (the end of text).
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

from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<end>": 0, "question": 1, "?": 2, "answer": 3}, unk_token="<end>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
example = {"input_ids": [1, 2, 3, 0], "labels": [-100, -100, 3, 0]}
made = DataCollatorForLanguageModeling(tokenizer, mlm=False)([example, example])["labels"].tolist()
kept = DataCollatorForSeq2Seq(tokenizer)([example, example])["labels"].tolist()
short = {"input_ids": [1, 0]}
padded = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [1, 2, 3, 0]}, short])
print("labels given:", example["labels"])
print("DataCollatorForLanguageModeling:", made[0])
print("DataCollatorForSeq2Seq:", kept[0])
print("two lengths, mask:", padded["attention_mask"].tolist(), "labels:", padded["labels"].tolist())
if made != [[1, 2, 3, -100]] * 2 or kept != [example["labels"]] * 2:
    sys.exit("changed: labels made from the ids, without the end of text, before")
PY
timeout 300 venv/bin/python see.py
