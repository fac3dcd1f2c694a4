#!/usr/bin/env bash
# A JSON Lines file of texts loads as dates, and a CSV file of texts loses the answer "None".
#
# Versions: datasets 5.2.0 (Python 3.11).
# Behavior: load_dataset("json") turns a column of strings into timestamps if each of them looks like a date; one other
#   string in the file, and all stay strings. load_dataset("csv") turns the strings None, NA, null and nan into
#   missing values. Neither is told.
# Seen:
#   "2011-01-02" in JSON -> datetime(2011, 1, 2, 0, 0), as text "2011-01-02 00:00:00"; with an "unknown" below it, the
#   string; CSV None, NA, null, yes -> None, None, None, 'yes'
# Expected: strings in JSON stay strings, for the format has a type for them and none for dates. Answers of a
#   question set then never match, and whether they do depends on the other rows. For CSV the reader's list of missing
#   values is documented by pandas, but not where one looks.
# Upstream: huggingface/datasets issue 4467 (CSV).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check datasets==5.2.0
cat > see.py <<'PY'
import datetime
import json
import sys
from pathlib import Path

import datasets

datasets.disable_progress_bars()


def load(kind, name, text):
    Path(name).write_text(text)
    return list(datasets.load_dataset(kind, data_files=name, split="train")["answer"])


def lines(*answers):
    return "".join(json.dumps({"answer": answer}) + "\n" for answer in answers)


dates = load("json", "dates.jsonl", lines("2011-01-02", "2012-03-04"))
mixed = load("json", "mixed.jsonl", lines("2011-01-02", "unknown"))
table = load("csv", "table.csv", "question,answer\n1,None\n2,NA\n3,null\n4,yes\n")
print("JSON, dates only:", dates, "as text:", str(dates[0]))
print("JSON, one other string:", mixed)
print("CSV:", table)
if (
    dates != [datetime.datetime(2011, 1, 2), datetime.datetime(2012, 3, 4)]
    or mixed != ["2011-01-02", "unknown"]
    or table != [None, None, None, "yes"]
):
    sys.exit("changed: dates, strings and missing values before")
PY
timeout 120 venv/bin/python see.py
