#!/usr/bin/env bash
# A model that answers NaN to everything can have accuracy 1.0 in lm-eval.
#
# Versions: lm_eval 0.4.13, datasets 5.2.0, torch 2.13.0 (Python 3.11).
# Behavior: a multiple-choice task takes the argmax of the log-likelihoods, and NumPy's argmax of NaNs is 0: the first
#   choice counts as the answer. Where the right choice stands first, as in the task truthfulqa_mc1 of the package, a
#   model with overflowed weights is perfect; elsewhere it has chance accuracy, which looks normal.
# Seen (40 questions): the right choice first 1.0 | evenly among four 0.25
# Expected: an error, or NaN as the result. A model that computes NaN has answered nothing.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  lm_eval==0.4.13 datasets==5.2.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Broken(LM):
    def loglikelihood(self, requests):
        return [(float("nan"), False) for _ in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


def accuracy(name, right):
    rows = [{"q": f"Question {i}:", "choices": ["a", "b", "c", "d"], "right": right(i)} for i in range(40)]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: choices\ndoc_to_target: right\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    tasks = TaskManager(include_path=".", include_defaults=False)
    result = simple_evaluate(Broken(), tasks=[name], task_manager=tasks, bootstrap_iters=0)
    return result["results"][name]["acc,none"]


first, even = accuracy("first", lambda i: 0), accuracy("even", lambda i: i % 4)
print(f"a model of NaNs: accuracy {first} if the right choice is the first, {even} if it is spread evenly")
if (first, even) != (1.0, 0.25):
    sys.exit("changed: 1.0 and 0.25 before")
PY
timeout 300 venv/bin/python see.py
