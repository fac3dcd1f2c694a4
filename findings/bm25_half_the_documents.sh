#!/usr/bin/env bash
# BM25 finds nothing for a word that half of the documents have, and prefers those without a more common one.
#
# Versions: rank-bm25 0.2.2, numpy 2.4.6 (Python 3.11).
# Behavior: the weight log((N - n + 0.5) / (n + 0.5)) is 0 where n = N / 2. For more common words it is negative,
#   and is replaced by a quarter of the average weight, which is negative too if most words are common. In a small
#   collection the document with the word then has the same score as the one without, or a lower one.
# Seen:
#   "cat" in "the cat sat", "the dog ran": 0, 0 | "the sat" in "the cat", "the dog", "the sat the": see the output
# Expected: a positive weight, as in the formula with 1 added inside the logarithm that Lucene uses; get_top_n
#   otherwise returns documents in the order in which they came. BM25Plus in the same package has positive weights.
# Upstream: dorianbrown/rank_bm25 issue 39.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check rank-bm25==0.2.2 numpy==2.4.6
cat > see.py <<'PY'
import sys

from rank_bm25 import BM25Okapi, BM25Plus


def scores(method, documents, query):
    return [round(float(s), 3) for s in method([d.split() for d in documents]).get_scores(query.split())]


two = ["the cat sat", "the dog ran"]
half = scores(BM25Okapi, two, "cat")
common = scores(BM25Okapi, ["cat cat", "cat dog", "dog cat", "none"], "cat")
negative = scores(BM25Okapi, ["the cat", "the cat", "sat"], "the cat")
print("half:", half, "BM25Plus:", scores(BM25Plus, two, "cat"))
print("three of four:", common)
print("two of three:", negative)
if half != [0, 0] or not scores(BM25Plus, two, "cat")[0] > scores(BM25Plus, two, "cat")[1]:
    sys.exit("changed: both documents had 0 before")
PY
timeout 60 venv/bin/python see.py
