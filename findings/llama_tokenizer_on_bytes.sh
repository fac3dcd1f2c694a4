#!/usr/bin/env bash
# LlamaTokenizer.from_pretrained on a byte-level tokenizer.json gives wrong ids, and text without its spaces.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3 (Python 3.11).
# Behavior: the class keeps the vocabulary and merges of tokenizer.json and builds everything around them anew
#   (pre-tokenizer, decoder, post-processor) as LLaMA-2 has them. Spaces and line ends have no token then and are
#   dropped. AutoTokenizer on the same folder gives the file's own ids, with a logged hint if tokenizer_config.json
#   names LlamaTokenizer.
# Seen ("the cat sat: café\nok" after encoding and decoding):
#   AutoTokenizer 'the cat sat: café\nok' | LlamaTokenizer 'thecatsat:caféok'
# Expected: the file's own behavior, or a refusal. In transformers 4, LlamaTokenizerFast used the tokenizer.json that
#   it was given, and LLaMA-3 folders are byte-level.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > see.py <<'PY'
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=["<s>", "</s>", "<unk>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
tokenizer.train_from_iterator(["the cat sat on the mat, the dog ran. "] * 50, trainer)
Path("folder").mkdir()
tokenizer.save("folder/tokenizer.json")

text = "the cat sat: café\nok"
right = tokenizer.encode(text).ids
same = {}
for reader in (AutoTokenizer, LlamaTokenizer):
    theirs = reader.from_pretrained("folder")
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    same[reader] = ids == right
    print(f"{reader.__name__}: the file's own ids {same[reader]}, decoded {theirs.decode(ids)!r}")
if not same[AutoTokenizer] or same[LlamaTokenizer]:
    sys.exit("changed: AutoTokenizer was right before, and LlamaTokenizer wrong")
PY
timeout 120 venv/bin/python see.py
