#!/usr/bin/env bash
# Dataset.from_generator gives yesterday's data after the file behind it has changed.
#
# Versions: datasets 5.2.0 (Python 3.11).
# Behavior: the result is cached on disk under a hash of the generator's code and arguments. What the generator reads is
#   not part of it, so a file that was corrected or extended under the same name is not read again, in later
#   processes neither. load_dataset("text") on the same file does notice.
# Seen:
#   file "old" -> 'old'; file "new" -> from_generator 'old', load_dataset 'new'
# Expected: the file's content. A generator is code that runs, and running it again is what the call says; a cache that
#   cannot know whether it is stale should be asked for.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME=$work HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python3 -m venv venv
venv/bin/python -m pip install -qq --disable-pip-version-check datasets==5.2.0
cat > see.py <<'PY'
import os
import sys
from pathlib import Path

import datasets

datasets.disable_progress_bars()
path = Path("story.txt")


def stories(name):
    yield {"text": Path(name).read_text()}


seen = []
for i, content in enumerate(("old", "new")):
    path.write_text(content)
    os.utime(path, (i, i))  # no doubt about the time of change
    generated = datasets.Dataset.from_generator(stories, gen_kwargs={"name": str(path)})["text"][0]
    loaded = datasets.load_dataset("text", data_files=str(path), split="train")["text"][0]
    print(f"file {content!r}: from_generator {generated!r}, load_dataset {loaded!r}")
    seen.append((generated, loaded))
if seen != [("old", "old"), ("old", "new")]:
    sys.exit("changed: from_generator gave the old text before")
PY
timeout 120 venv/bin/python see.py
