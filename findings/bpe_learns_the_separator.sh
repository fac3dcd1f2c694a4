#!/usr/bin/env bash
# A BPE trainer that is told of a special token still learns merges from the letters of its name.
#
# Versions: tokenizers 0.23.3 (Python 3.11).
# Behavior: special_tokens puts the name into the vocabulary, and encoding finds it whole. In training it is plain
#   text: where documents are joined with <|endoftext|>, the most frequent strings of the corpus are pieces of that
#   name, and they take places in the vocabulary that no text will ever use.
# Seen (200 documents of two words, vocabulary 270):
#   of 13 learned tokens, 10 consist of the separator's letters; with documents apart, none
# Expected: that special tokens are cut out before pairs are counted, as encode() cuts them out, and as sentencepiece
#   does with its user-defined symbols.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check tokenizers==0.23.3
cat > see.py <<'PY'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

END = "<|endoftext|>"


def learned(documents):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    assert tokenizer.encode(f"a{END}b").tokens == ["a", END, "b"]
    return [token for token in tokenizer.get_vocab() if len(token) > 1 and token != END]


words = ["grab", "hums", "quick", "lamb", "brush"]
documents = [f"{words[i % 5]} {words[i // 5 % 5]}" for i in range(200)]
joined, apart = learned([END.join(documents)]), learned(documents)
waste = [token for token in joined if token in END]
print(f"joined: {len(waste)} of {len(joined)} learned tokens are parts of {END}: {waste}")
print(f"apart: {sum(token in END for token in apart)} of {len(apart)}")
if len(waste) < 5 or any(token in END for token in apart):
    sys.exit("changed: the separator's letters were learned before")
PY
timeout 60 venv/bin/python see.py
