"""The tuning tool, from a file of examples to a report."""

import dataclasses
import json
import random
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

import llama_minimal as lm
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig
from llama_minimal.finetuning import classify, read_examples
from llama_minimal.finetuning.asking import Asking
from llama_minimal.finetuning.grouping import recognize
from llama_minimal.finetuning.material import Text, bits_per_byte, gather
from llama_minimal.finetuning.search import Arm
from llama_minimal.finetuning.splitting import split_examples
from llama_minimal.finetuning.trainings import new_model
from llama_minimal.loss import next_token_loss
from llama_minimal.tokenizer import Tokenizer

ANIMALS, PLACES = ["Benny", "Lila", "Oscar", "Pip", "Rosa", "Tom", "Una"], ["the bridge", "the mill", "the reeds"]
GOOD, BAD = (
    ["was happy", "laughed", "sang a song", "found the kite"],
    ["was sad", "cried", "lost the kite", "fell down"],
)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant:{% endif %}"
TEMPLATE = TEMPLATE.replace("assistant: ", "assistant:").replace("}}: {{", "}}:{{")
QUICK = ["--steps", "8", "--method", "lora", "--rank", "2", "--lr", "0.01"]


def lines(kind, n=60):
    """Return n different examples of a kind, as values for JSON."""
    dice = random.Random(0)
    found = {}
    while len(found) < n:
        who, where, good = dice.choice(ANIMALS), dice.choice(PLACES), dice.random() < 0.5
        what, number = dice.choice(GOOD if good else BAD), dice.randrange(100)
        text = f"On day {number} {who} came to {where} and {what}."
        found[text] = {
            "labels": {"text": text, "label": "good" if good else "bad"},
            "pairs": {"prompt": f"{text} Who?", "completion": f" {who} {number}"},
            "chat": {"messages": [{"role": "user", "content": f"{text} Who?"}, {"role": "assistant", "content": who}]},
        }[kind]
    return list(found.values())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model that has learned nothing."""
    folder = tmp_path_factory.mktemp("base")
    texts = [row["text"] for row in lines("labels")] + ["user: assistant: Who? "] * 5
    tokenizer = Tokenizer.train(texts, vocab_size=400)
    shape = LlamaConfig(dim=32, n_layers=2, n_heads=2, vocab_size=tokenizer.vocab_size, hidden_dim=48, max_seq_len=96)
    lm.save(lm.build(shape, seed=1), folder, tokenizer)
    return folder


def tune(data, base, out, *flags):
    main(["finetune", str(data), "--base", str(base), "--out", str(out), *map(str, flags)])
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def labeled(base, tmp_path_factory):
    """A finished tuning on labels: its data, its folder and its report."""
    folder = tmp_path_factory.mktemp("labeled")
    data = write(folder / "a.jsonl", lines("labels", 100))
    return data, folder / "out", tune(data, base, folder / "out", *QUICK)


def fails(capsys, *args):
    """Run a command that must be refused; return its sentence."""
    with pytest.raises(SystemExit) as ending:
        main(["finetune", *map(str, args)])
    error = capsys.readouterr().err
    assert ending.value.code == 2, error
    assert "Traceback" not in error
    return " ".join(error.split())


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_file_of_labels_becomes_a_classifier_and_a_report(labeled):
    _, out, report = labeled
    assert names(out) >= {"config.json", "model.safetensors", "tokenizer.json", "report.html", "finetune.json"}
    assert not (out / "training").exists()
    model, tokenizer = lm.load(out)
    assert model.config.labels == ("bad", "good")
    (found,) = classify(model, tokenizer, ["On day 3 Lila came to the mill and cried."])
    assert sum(found.values()) == pytest.approx(1)
    assert report["task"] == {"kind": "labels", "metric": "accuracy", "labels": ["bad", "good"]}
    assert [one["kind"] for one in report["scores"]] == ["baseline", "baseline", "before", "tuned"]
    assert sum(map(sum, report["confusion"]["counts"])) == report["n_measured"] == report["data"]["split"]["test"]
    right = sum(row[i] for i, row in enumerate(report["confusion"]["counts"]))
    assert 100 * right / report["n_measured"] == pytest.approx(report["scores"][-1]["score"])


def test_the_scores_are_those_of_the_saved_model_on_the_test_part(labeled):
    data, out, report = labeled
    examples = read_examples(data)
    parts = split_examples(examples, seed=0, shares=(0.7, 0.15, 0.15))
    model, tokenizer = lm.load(out)
    found = classify(model, tokenizer, [one.text for one in parts.test])
    right = [max(one, key=one.get) == example.label for one, example in zip(found, parts.test, strict=True)]
    assert report["scores"][-1]["score"] == pytest.approx(100 * sum(right) / len(right))


def test_what_a_baseline_answers_better_is_recommended(labeled):
    """Eight steps of a model that knew nothing do not reach naive Bayes, which is right everywhere here."""
    _, out, report = labeled
    bayes = next(one for one in report["scores"] if one["name"] == "naive Bayes")
    assert bayes["score"] == 100
    assert report["recommended"] == "naive Bayes"
    page = (out / "report.html").read_text(encoding="utf-8")
    first = re.sub("<[^>]*>", "", page[page.index("<h1>") :])[:200]
    assert "Use naive Bayes. It does better than the tuned model" in first


def test_the_command_in_the_report_makes_the_same_model(labeled, tmp_path, capsys):
    _, out, report = labeled
    words = shlex.split(report["command"])
    assert words[:2] == ["llama-minimal", "finetune"]
    main([*words[1:-1], str(tmp_path / "again")])
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_the_same_command_again_only_reports(labeled, base, capsys):
    data, out, report = labeled
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert tune(data, base, out, *QUICK) == report
    main(["finetune", "--out", str(out), "--resume"])
    assert "finished" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_another_command_or_other_data_in_the_same_folder_is_refused(labeled, base, tmp_path, capsys):
    data, out, _ = labeled
    place = ["--base", base, "--out", out]
    assert "--lr was 0.01, is 0.5" in fails(capsys, data, *place, *QUICK[:-1], "0.5")
    assert "--rank was 2, is 4" in fails(capsys, data, "--resume", "--out", out, "--rank", "4")
    other = write(tmp_path / "a.jsonl", lines("labels", 70))
    assert "the content of DATA was" in fails(capsys, other, *place, *QUICK)
    assert "give one of them" in fails(capsys, data, *place, "--resume", "--overwrite")


def test_what_is_not_given_is_searched_in_the_time_that_there_is(base, tmp_path):
    """There is hardly any, so all get the fewest steps: four arms four, two arms eight, the last one sixteen."""
    report = tune(write(tmp_path / "a.jsonl", lines("labels")), base, tmp_path / "out", "--minutes", "1e-6")
    assert report["rounds"] == ["4", "8"]
    assert [sorted(one["losses"]) for one in report["search"]].count(["4", "8"]) == 2
    assert {one["name"].split(",")[0] for one in report["search"]} == {
        "LoRA of rank 8",
        "all weights",
        "the output layer alone",
    }
    assert report["chosen"]["steps"] == json.loads((tmp_path / "out" / "finetune.json").read_text())["steps"] == 16
    assert "--steps 16" in report["command"]


def test_a_tuning_is_deleted_only_when_asked_and_other_files_stay(base, tmp_path):
    out = tmp_path / "out"
    data = write(tmp_path / "a.jsonl", lines("labels"))
    first = tune(data, base, out, *QUICK)
    (out / "notes.txt").write_text("mine")
    second = tune(write(data, lines("labels", 80)), base, out, *QUICK, "--overwrite")
    assert (out / "notes.txt").read_text() == "mine"
    assert (first["data"]["n_examples"], second["data"]["n_examples"]) == (60, 80)


def test_pairs_are_searched_tuned_and_written(base, tmp_path, capsys):
    """Nothing is given but the steps: four arms, then two, then one; the adapter is there by itself, too."""
    out = tmp_path / "out"
    replayed = tmp_path / "old.txt"
    replayed.write_text("Lila the llama sang a song at the mill. " * 200)
    report = tune(write(tmp_path / "a.jsonl", lines("pairs")), base, out, "--steps", "16", "--replay", replayed)
    printed = capsys.readouterr().out
    assert "trying 4 ways to tune (4 for 4, 2 for 8 steps); the best gets 16" in printed
    assert [len(one["losses"]) for one in report["search"]].count(2) == 2
    losses = {one["name"]: one["losses"] for one in report["search"]}
    finalists = {name: loss["8"] for name, loss in losses.items() if "8" in loss}
    assert report["chosen"]["name"] == min(finalists, key=finalists.get)
    assert set(finalists) == set(sorted(losses, key=lambda name: losses[name]["4"])[:2])
    assert report["task"]["metric"] == "exact match"
    assert report["forgetting"]["before"] > 0
    assert report["forgetting"]["text"] == f"a tenth of {replayed} that was held out"
    model, tokenizer = lm.load(out)
    assert model.config.labels is None
    if report["chosen"]["method"] == "lora":
        adapted, _ = lm.load(base, adapter=out / "adapter")
        tokens = torch.tensor([tokenizer.encode("Lila came to the mill")])
        torch.testing.assert_close(adapted(tokens), model(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_what_a_classifier_forgot_is_measured_with_the_old_output_layer(method, base, tmp_path):
    """Before training nothing is forgotten, whatever the method; when the body changes, something is."""
    found = gather(write(tmp_path / "a.jsonl", lines("labels")), base, seed=0)
    assert bits_per_byte(found, found.base) is None
    ids = np.array(found.asking.tokenizer.encode("Lila came to the mill and sang a song. " * 5))
    found = dataclasses.replace(found, held_out=Text(name="a text", ids=ids, n_bytes=195))
    model = new_model(found, Arm(method=method, lr=1.0, rank=2 if method == "lora" else None), seed=0)
    before = bits_per_byte(found, found.base)
    total, _ = next_token_loss(found.base(torch.tensor(ids)[None, :-1]), torch.tensor(ids)[None, 1:])
    assert before == pytest.approx(total.item() / np.log(2) / 195, rel=1e-5)
    assert bits_per_byte(found, model) == pytest.approx(before, rel=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.requires_grad)
    change = abs(bits_per_byte(found, model) - before)
    assert change == 0 if method == "head" else change > 1e-3


def test_chats_are_tuned_with_a_template(base, tmp_path, capsys):
    data = write(tmp_path / "a.jsonl", lines("chat"))
    assert "give one: --template" in fails(capsys, data, "--base", base, "--out", tmp_path / "out", *QUICK)
    assert not (tmp_path / "out").exists()
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    report = tune(data, base, tmp_path / "out", *QUICK, "--template", tmp_path / "t.jinja")
    assert report["task"]["kind"] == "chat"
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()


BAD_FILES = {
    "a.jsonl": ('{"story": "a"}\n', "are not enough to know"),
    "b.jsonl": ('{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}\n', "line 2"),
    "c.csv": ("text,label\n" + "".join(f"line {i},same\n" for i in range(40)), "nothing to tell apart"),
    "d.csv": ("text,label\na,x\nb,y\n", "at least 20"),
    "e.jsonl": ("", "is empty"),
    "f.txt": ("text", "ends in"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence_and_nothing_is_written(name, base, tmp_path, capsys):
    content, words = BAD_FILES[name]
    (tmp_path / name).write_text(content)
    assert words in fails(capsys, tmp_path / name, "--base", base, "--out", tmp_path / "new" / "out", *QUICK)
    assert names(tmp_path) == {name}


def test_flags_that_make_no_sense_are_refused_before_anything_is_written(base, tmp_path, capsys):
    data = write(tmp_path / "a.jsonl", lines("labels"))
    place = ["--base", base, "--out", tmp_path / "out"]
    assert "leave one out" in fails(capsys, data, *place, "--method", "full", "--rank", "4")
    assert "minutes=0.0 must be a positive number" in fails(capsys, data, *place, "--minutes", "0")
    assert "writes none" in fails(capsys, data, *place, "--replay", "valley:20")
    assert "for conversations" in fails(capsys, data, *place, "--template", data)
    assert "larger than" in fails(capsys, data, *place, "--rank", "400")
    assert "no folder" in fails(capsys, data, "--base", tmp_path / "none", "--out", tmp_path / "out")
    assert "no file" in fails(capsys, tmp_path / "none.csv", *place)
    assert "no fine-tuning" in fails(capsys, "--resume", "--out", tmp_path / "out")
    assert names(tmp_path) == {"a.jsonl"}


def test_a_folder_of_somebody_else_is_not_touched(base, tmp_path, capsys):
    data, out = write(tmp_path / "a.jsonl", lines("labels")), tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_text("mine")
    for flag in ([], ["--overwrite"]):
        assert "nothing there is touched" in fails(capsys, data, "--base", base, "--out", out, *QUICK, *flag)
    assert names(out) == {"model.safetensors"}


STOP = """
import json, os, signal, sys
from llama_minimal.cli import main
from llama_minimal.training import Trainer
from llama_minimal.finetuning.asking import Asking

at, args = sys.argv[1], sys.argv[2:]
counts = {"search": 0, "training": 0, "asking": 0}

def ctrl_c(what):
    counts[what] += 1
    if what == at.split(":")[0] and counts[what] == int(at.split(":")[1]):
        os.kill(os.getpid(), signal.SIGINT)

step, ask = Trainer.train_step, Asking.ask
def train_step(self):
    found = step(self)
    ctrl_c("training" if self.snapshot_folder else "search")
    return found
def asked(self, *args, **options):
    ctrl_c("asking")
    return ask(self, *args, **options)
Trainer.train_step, Asking.ask = train_step, asked
try:
    main(args)
finally:
    print(json.dumps(counts), file=sys.stderr)
"""


def test_stopped_anywhere_it_goes_on_to_the_same_model(base, tmp_path):
    """Ctrl-C before, in the second arm, in the last training, and when the tuned model is asked; then to the end."""
    data = write(tmp_path / "a.jsonl", lines("labels"))
    flags = ["finetune", data, "--base", base, "--method", "lora", "--rank", "2", "--steps", "12"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main([*map(str, flags), "--out", str(whole)])
    begin, go_on = [*flags, "--out", parts], ["finetune", "--out", parts, "--resume"]
    searched = []
    runs = [("asking:1", begin), ("search:8", begin), ("training:5", go_on), ("asking:1", begin)]
    for i, (at, args) in enumerate(runs):
        done = subprocess.run(
            [sys.executable, "-c", STOP, at, *map(str, args)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 130, done.stderr
        assert "Traceback" not in done.stderr
        go_on_with = f"go on with: llama-minimal finetune --out {parts} --resume"
        said = f"stopped; {go_on_with}" if i else "stopped before anything was written"
        assert done.stdout.splitlines()[-1] == said
        assert parts.exists() == (i > 0)
        assert bool(re.search(r"went on at step \d+ of 12", done.stdout)) == (i == 3)
        searched.append(json.loads(done.stderr.splitlines()[-1])["search"])
    # Two arms of six steps: the first is not trained again, and the second from its beginning.
    assert searched == [0, 6 + 3, 6, 0]
    main([*map(str, go_on)])
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (whole, parts))
    for name in ("curve", "scores", "search", "chosen", "examples", "recommended", "command"):
        assert ours[name] == theirs[name], name


def test_a_chinese_sentence_is_not_one_short_word():
    """It has no spaces; split at them, it would be right or wrong as a whole."""
    examples = read_examples(
        [{"prompt": f"{i}:", "completion": " 皮皮把一根有力的绳子藏在芦苇丛里。"} for i in range(3)]
    )
    tokenizer = Tokenizer.train(["皮皮"], vocab_size=260)
    assert Asking.like(recognize(examples), examples, tokenizer).metric == "chrF"
    examples = read_examples([{"prompt": f"{i}:", "completion": " 皮皮"} for i in range(3)])
    assert Asking.like(recognize(examples), examples, tokenizer).metric == "exact match"
