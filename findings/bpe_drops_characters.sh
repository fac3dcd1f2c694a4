#!/usr/bin/env bash
# A BPE tokenizer without an unknown token deletes the characters that it does not know.
#
# Versions: tokenizers 0.23.3 (Python 3.11).
# Behavior: models.BPE without unk_token (the default, also when trained) skips a character outside the vocabulary.
#   Encoding raises nothing and warns of nothing, the decoded text is shorter, and a text of unknown characters only
#   has no tokens at all. models.WordLevel in the same situation raises.
# Seen:
#   'the café' -> 'the caf', '日本' -> ''
# Expected: an error like WordLevel's ("Missing [UNK] token from the vocabulary"). A missing letter is a wrong text,
#   and nobody counts the tokens.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check tokenizers==0.23.3
cat > see.py <<'PY'
import sys

from tokenizers import Tokenizer, decoders, models, trainers

bpe = Tokenizer(models.BPE())
bpe.decoder = decoders.Fuse()
bpe.train_from_iterator(["the cat has a cafe"] * 10, trainers.BpeTrainer(vocab_size=40, show_progress=False))
back = {text: bpe.decode(bpe.encode(text).ids) for text in ("the cafe", "the café", "日本")}
for text, decoded in back.items():
    print(f"BPE: {text!r} -> {decoded!r}")
try:
    Tokenizer(models.WordLevel({"the": 0})).encode("cat")
    raised = False
except Exception as error:  # the library raises the bare class
    raised = True
    print(f"WordLevel: {error}")
if back != {"the cafe": "the cafe", "the café": "the caf", "日本": ""} or not raised:
    sys.exit("changed: BPE deleted what it did not know before, and WordLevel raised")
PY
timeout 60 venv/bin/python see.py
