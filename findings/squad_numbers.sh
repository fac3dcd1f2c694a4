#!/usr/bin/env bash
# Exact match as in SQuAD takes 35 for 3.5, 5 for -5 and "the" for the answer "A".
#
# Versions: torchmetrics 1.9.0, torch 2.13.0 (Python 3.11).
# Behavior: both answers are lowercased, lose all ASCII punctuation, wherever it stands, and the words a, an and the.
#   A decimal point, a minus sign and the signs of a programming language are punctuation, and option A of a multiple
#   choice is an article. The normalization is that of the official SQuAD script, which many scorers copy.
# Seen (exact match and F1):
#   35 for 3.5, 5 for -5, C for C++, "the" for "A": 100 and 100 | "4" for 3.5: 0 and 0
# Expected: 0. Answers in SQuAD are spans of Wikipedia, where this rarely matters; in a set of amounts, temperatures or
#   options it counts wrong answers as right, and an empty answer as option A.
# Upstream: UKGovernmentBEIS/inspect_ai issue 4620 and huggingface/lighteval pull request 1273, on copies of it.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import sys

from torchmetrics.functional.text import squad

seen = {}
for answer, right in (("35", "3.5"), ("5", "-5"), ("C", "C++"), ("the", "A"), ("", "A"), ("4", "3.5")):
    target = {"answers": {"answer_start": [0], "text": [right]}, "id": "0"}
    scores = squad([{"prediction_text": answer, "id": "0"}], [target])
    seen[answer, right] = int(scores["exact_match"]), int(scores["f1"])
    print(f"{answer!r} for {right!r}: exact match {seen[answer, right][0]}, F1 {seen[answer, right][1]}")
if list(seen.values()) != [(100, 100)] * 5 + [(0, 0)]:
    sys.exit("changed: five wrong answers were right before")
PY
timeout 300 venv/bin/python see.py
