#!/usr/bin/env bash
# BM25 gives the documents that match a lower score than the one that does not.
#
# Versions: rank-bm25 0.2.2, numpy 2.4.6 (Python 3.11).
# Behavior: the weight of a word, log((N - n + 0.5) / (n + 0.5)), is 0 if half of the documents have it and negative if
#   more have it. BM25Okapi then puts a quarter of the average weight in its place, which is negative too where most
#   words are common. A small collection of documents on one subject is such a case.
# Seen:
#   "the cat" asked of "the cat", "the cat", "sat": -0.078, -0.078, 0.0
#   "cat" asked of "the cat sat", "the dog ran": 0.0, 0.0
# Expected: positive weights, as with 1 added inside the logarithm (Lucene's form), or as BM25Plus of the same package
#   has them. get_top_n returns the wrong document in the first case and the last one in the second.
# Upstream: dorianbrown/rank_bm25 issue 39 (the zeros).
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


common, half = ["the cat", "the cat", "sat"], ["the cat sat", "the dog ran"]
seen = {}
for query, documents in (("the cat", common), ("cat", half)):
    for method in (BM25Okapi, BM25Plus):
        seen[query, method] = scores(method, documents, query)
        print(f"{method.__name__}: {query!r} asked of {documents}: {seen[query, method]}")
print("the best for 'cat':", BM25Okapi([d.split() for d in half]).get_top_n(["cat"], half, n=1))
if not (
    seen["the cat", BM25Okapi][0] < seen["the cat", BM25Okapi][2]
    and seen["cat", BM25Okapi] == [0, 0]
    and seen["the cat", BM25Plus][0] > seen["the cat", BM25Plus][2]
    and seen["cat", BM25Plus][0] > seen["cat", BM25Plus][1]
):
    sys.exit("changed: BM25Okapi ranked the matching documents below or level before, and BM25Plus above")
PY
timeout 60 venv/bin/python see.py
