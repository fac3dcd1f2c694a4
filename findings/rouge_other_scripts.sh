#!/usr/bin/env bash
# ROUGE gives 0 to a perfect summary in Chinese, and 1 to C++ in place of C.
#
# Versions: rouge-score 0.1.2 (Python 3.11).
# Behavior: the default tokenizer lowercases and keeps a-z and 0-9 only. A text in another script has no tokens, and
#   two texts without tokens have the score 0. In Latin script accents and signs separate: what differs in them alone
#   is equal.
# Seen (ROUGE-1 F):
#   Chinese against itself 0.0 | Russian against itself 0.0 | "C++ is fun" against "C is fun" 1.0
# Expected: 1.0 for identical texts, or an error that nothing was left to compare. The README speaks of replicating
#   the Perl script, not of a language; passing a tokenizer of one's own helps.
# Upstream: huggingface/evaluate issue 256, on the same scorer.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check rouge-score==0.1.2
cat > see.py <<'PY'
import sys

from rouge_score.rouge_scorer import RougeScorer

scorer = RougeScorer(["rouge1"])
same = ["the cat sat", "猫坐在垫子上", "кот сидит"]
pairs = [(text, text) for text in same] + [("C++ is fun", "C is fun")]
scores = [scorer.score(*pair)["rouge1"].fmeasure for pair in pairs]
for pair, score in zip(pairs, scores):
    print(f"{score:.1f}", *pair, sep="  |  ")
if scores != [1, 0, 0, 1]:
    sys.exit("changed: 1, 0, 0, 1 before")
PY
timeout 60 venv/bin/python see.py
