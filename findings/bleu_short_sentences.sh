#!/usr/bin/env bash
# A perfect translation of three words has BLEU 0 or 100, depending on the function asked.
#
# Versions: sacrebleu 2.6.0, nltk 3.10.4 (Python 3.11).
# Behavior: without any 4-gram the geometric mean of precisions is 0, even if every word is right. sacrebleu's
#   corpus_bleu returns that 0.0, its sentence_bleu shortens the longest n-gram to the sentence ("effective order") and
#   returns 100. nltk's sentence_bleu returns 1.2e-77 with a warning about 0 counts.
# Seen ("the cat sat" against itself):
#   sacrebleu corpus_bleu 0.0 | sacrebleu sentence_bleu 100.0 | nltk sentence_bleu 1.2e-77
# Expected: one answer from one library, or a warning from corpus_bleu. A test set of short answers, titles or
#   commands reads 0.0 as "nothing is right".
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check sacrebleu==2.6.0 nltk==3.10.4
cat > see.py <<'PY'
import sys
import warnings

import sacrebleu
from nltk.translate.bleu_score import sentence_bleu

text = "the cat sat"
corpus = sacrebleu.corpus_bleu([text], [[text]]).score
sentence = sacrebleu.sentence_bleu(text, [text]).score
longer = sacrebleu.corpus_bleu([text + " down"], [[text + " down"]]).score
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    other = sentence_bleu([text.split()], text.split())
print(f"three words: corpus_bleu {corpus:.1f}, sentence_bleu {sentence:.1f}, nltk {other:.2g}")
print(f"four words: corpus_bleu {longer:.1f}")
if not (corpus == 0 and sentence > 99 and other < 1e-50 and longer > 99):
    sys.exit("changed: 0, 100, almost 0 and 100 before")
PY
timeout 60 venv/bin/python see.py
