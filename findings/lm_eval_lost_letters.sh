#!/usr/bin/env bash
# lm-eval scores another text than the question and its answer where a token spans the border.
#
# Versions: lm_eval 0.4.13, tokenizers 0.23.3, datasets 5.2.0, torch 2.13.0 (Python 3.11).
# Behavior: question and answer are encoded together, and cut after as many tokens as the question alone has. If a
#   merge crosses the border, the answer loses its beginning, while the question keeps its own tokens: the model sees a
#   text without the lost letters. A shorter answer has a higher score, and an empty one the highest, 0 (the adapter for
#   transformers stops at an empty one; an adapter of one's own, built on TemplateLM, does not).
# Seen (a Chinese task, whose target_delimiter is ""):
#   '他住在北' + '京大学' is scored as '他住在北大学'; '我来自上' + '海' is scored as '我来自上' with no answer
# Expected: the text of the task. Encoding it whole and scoring the tokens that reach past the border would keep it.
# Upstream: EleutherAI/lm-evaluation-harness issue 1297 and pull request 4055 (the empty answer).
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check \
  lm_eval==0.4.13 tokenizers==0.23.3 datasets==5.2.0 torch==2.13.0 numpy==2.4.6
cat > see.py <<'PY'
import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models

letters = "他她住工作在我来自北上海京大学"
words = [("北", "京"), ("上", "海"), ("大", "学")]
vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(letters), *("".join(word) for word in words)])}
tokenizer = Tokenizer(models.BPE(vocabulary, words))


class Listening(TemplateLM):
    """Write down what is to be scored, and give every token the same probability."""

    eot_token_id = 0
    scored = []

    def tok_encode(self, string, **kwargs):
        return tokenizer.encode(string).ids

    def _loglikelihood_tokens(self, requests, **kwargs):
        for (question, answer), question_ids, answer_ids in requests:
            text = "".join(tokenizer.id_to_token(i) for i in [*question_ids, *answer_ids])
            self.scored.append((question, answer, text, len(answer_ids)))
        return [(-float(len(answer_ids)), False) for _, _, answer_ids in requests]

    def loglikelihood_rolling(self, requests, **kwargs):
        raise NotImplementedError

    def generate_until(self, requests, **kwargs):
        raise NotImplementedError


rows = [{"q": "他住在北", "choices": ["京大学", "海"]}, {"q": "我来自上", "choices": ["学", "海"]}]
Path("toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
Path("toy.yaml").write_text(
    "task: toy\ndataset_path: json\ndataset_kwargs: {data_files: {test: toy.jsonl}}\ntest_split: test\n"
    "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: choices\ndoc_to_target: 0\ntarget_delimiter: ''\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
)
tasks = TaskManager(include_path=".", include_defaults=False)
model = Listening()
simple_evaluate(model, tasks=["toy"], task_manager=tasks, bootstrap_iters=0)
lost = 0
for question, answer, text, n_tokens in model.scored:
    lost += text != question + answer
    print(f"{question!r} + {answer!r} is scored as {text!r}, {n_tokens} tokens of it as the answer")
if (lost, min(n for *_, n in model.scored)) != (2, 0):
    sys.exit("changed: two of four texts lost letters before, and one answer was empty")
PY
timeout 300 venv/bin/python see.py
