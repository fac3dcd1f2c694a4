"""Give ``llama-minimal finetune`` two files of 200 labeled lines, and measure what comes out on 1,000 hidden lines.

    python benchmarks/finetune_tool.py --out finetune_tool.json

The sentiment of stories from the Llama Valley, and the subject of passages of Python's documentation; five seeds each,
which draw other lines. The tool sees the 200 lines alone. Naive Bayes and the most frequent label learn from all 200.
"""

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llama_minimal.checkpoint import load
from llama_minimal.data.valley import ValleySettings, examples, stories
from llama_minimal.data.valley.corpus import python_sections
from llama_minimal.finetuning import classify
from llama_minimal.finetuning.baselines import Majority, NaiveBayes

SHOWN, HIDDEN = 200, 1000
LONGEST = 300  # characters of a passage, which fit the context
# Subject -> the topics of Python's help that are about it.
SUBJECTS = {
    "debugging": "debugger",
    "classes": "specialnames customization class objects typesmethods specialattrs callable-types naming execmodel",
    "statements": "compound assignment import with try raise for if while return del assert global nonlocal yield "
    "async function exceptions",
    "text": "strings string-methods formatstrings identifiers",
    "containers": "typesseq typesmapping sequence-types dict lists slicings subscriptions typesseq-mutable exprlists",
    "types": "types typesmodules id-classes bltin-code-objects booleans attribute-references attribute-access",
    "numbers and operators": "comparisons numeric-types operator-summary binary unary bitwise shifting integers "
    "floating numbers imaginary power calls lambda truth conversions",
}


def sentiment(seed: int) -> Iterator[tuple[str, str]]:
    """Yield stories and how they end: positive, neutral or negative."""
    for story in stories(SHOWN + HIDDEN, ValleySettings(seed=2000 + seed), split="test"):
        found = examples(story, "sentiment")[0]
        yield found.prompt.removesuffix("\n\nSentiment: "), found.answer


def topics(seed: int) -> Iterator[tuple[str, str]]:
    """Yield passages of Python's documentation and their subject."""
    subjects = {topic: subject for subject, names in SUBJECTS.items() for topic in names.split()}
    found = [*python_sections(longest=200), *python_sections(longest=200, held_out=True)]
    lines = [(text[:LONGEST], subjects.get(name.split("/")[1])) for name, text in found if len(text) >= 40]
    lines = [(text, subject) for text, subject in lines if subject]
    random.Random(seed).shuffle(lines)
    yield from lines[: SHOWN + HIDDEN]


def measure(name: str, seed: int, flags: list[str]) -> dict:
    """Run the tool once, and return the accuracy of all on the hidden lines."""
    lines = list({"sentiment": sentiment, "topics": topics}[name](seed))
    shown, hidden = lines[:SHOWN], lines[SHOWN:]
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"{name}.csv", Path(folder) / "out"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *shown])
        command = [sys.executable, "-m", "llama_minimal", "finetune", path, "--out", out, *flags]
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*map(str, command), "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        model, tokenizer = load(out)
    texts, wanted = zip(*hidden, strict=True)
    found = classify(model, tokenizer, texts)
    given = {
        "the tuned model": [max(one, key=one.get) for one in found],
        "naive Bayes": NaiveBayes(*zip(*shown, strict=True)).predict(texts),
        "the most frequent answer": Majority([label for _, label in shown]).predict(texts),
    }
    return {
        "data": name,
        "seed": seed,
        "hidden": len(hidden),
        "accuracy": {who: sum(map(str.__eq__, said, wanted)) / len(wanted) for who, said in given.items()},
        "test_scores": {one["name"]: one["score"] for one in report["scores"]},
        "recommended": report["recommended"],
        "chosen": report["chosen"]["name"],
        "steps": report["chosen"]["steps_done"],
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def as_table(found: list[dict]) -> str:
    """Return the runs as a table in Markdown, a line for each."""
    names = list(found[0]["accuracy"])
    lines = [
        f"| data | seed | {' | '.join(names)} | recommended | chosen | minutes (CPU) |",
        "|---" * (len(names) + 5) + "|",
    ]
    for one in found:
        scores = " | ".join(f"{100 * one['accuracy'][name]:.1f}" for name in names)
        minutes = f"{one['seconds'] / 60:.1f} ({one['cpu_seconds'] / 60:.1f})"
        words = [one["data"], str(one["seed"]), scores, one["recommended"] or "none", one["chosen"], minutes]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write what was found after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["sentiment", "topics"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--steps", type=int, help="instead of the minutes, on a machine that is busy with other things")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    flags = ["--steps", str(options.steps)] if options.steps else ["--minutes", str(options.minutes)]
    found = []
    for seed in options.seeds:
        for name in options.data:
            found.append(one := measure(name, seed, flags))
            print(json.dumps(one), flush=True)
    print(as_table(found))
    if options.out:
        machine = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
        options.out.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
