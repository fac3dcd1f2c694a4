#!/usr/bin/env bash
# One SentencePiece file, three readers, three sequences of ids.
#
# Versions: sentencepiece 0.2.3, transformers 5.23.0, tokenizers 0.23.3, protobuf 7.36.2 (Python 3.11).
# Behavior: a model trained with SentencePiece's defaults carries its normalization (NFKC with extras) and a dummy
#   prefix in the file.
#   LlamaTokenizer ignores the normalization: full-width letters become bytes. AutoTokenizer, on a folder with
#   config.json and tokenizer.model alone, normalizes but ignores the dummy prefix: even plain English begins with
#   another token. Nothing is said in either case.
# Seen (is it what sentencepiece gives?):
#   'The cat'                    LlamaTokenizer True   AutoTokenizer False
#   full-width 'The cat'         LlamaTokenizer False  AutoTokenizer False
# Expected: the ids of the sentencepiece library, as both settings stand in the file (normalizer_spec), or a refusal.
#   Meta's own LLaMA files have no normalization, so the first is seen only with a tokenizer of one's own.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  sentencepiece==0.2.3 transformers==5.23.0 tokenizers==0.23.3 protobuf==7.36.2
cat > see.py <<'PY'
import sys
from pathlib import Path

import sentencepiece as spm
from transformers import AutoTokenizer, LlamaTokenizer

lines = ["The cat sat on the mat and looked at the dog.", "A dog ran with 123 friends, and sang!"]
Path("text.txt").write_text("\n".join(lines * 60))
Path("folder").mkdir()
spm.SentencePieceTrainer.train(
    input="text.txt",
    model_prefix="folder/tokenizer",
    vocab_size=310,
    model_type="bpe",
    byte_fallback=True,
    minloglevel=2,
)
Path("folder/config.json").write_text('{"model_type": "llama"}')
reference = spm.SentencePieceProcessor(model_file="folder/tokenizer.model")

plain, wide = "The cat", "The cat".translate({ord(c): ord(c) + 0xFEE0 for c in "Thecat"})
same = {}
for text in (plain, wide):
    print(f"{text!r}: sentencepiece {reference.encode(text)}")
    for reader in (LlamaTokenizer, AutoTokenizer):
        ids = reader.from_pretrained("folder")(text, add_special_tokens=False)["input_ids"]
        same[text, reader] = ids == reference.encode(text)
        print(f"    {reader.__name__} {ids}, the same: {same[text, reader]}")
if same != {
    (plain, LlamaTokenizer): True, (plain, AutoTokenizer): False,
    (wide, LlamaTokenizer): False, (wide, AutoTokenizer): False,
}:
    sys.exit("changed: another reader agrees with sentencepiece now")
PY
timeout 120 venv/bin/python see.py
