"""The folder of a training run: nothing of the user's is lost, a failed start leaves no trace, a run goes on."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.cli.resume import compared, saved_command
from llama_minimal.cli.train import Train
from llama_minimal.config import preset, read_json
from llama_minimal.data import documents, read_corpus_info
from llama_minimal.locks import hold_folder
from llama_minimal.metrics import read_metrics
from llama_minimal.model import build
from llama_minimal.optim import learning_rate
from llama_minimal.run_folder import is_run_file, remove_run, run_files
from llama_minimal.settings import FREE_ON_RESUME, TrainConfig
from llama_minimal.snapshot import read_state, snapshots
from llama_minimal.tokenizer import Tokenizer

SENTENCES = ("The ferry left at noon.", "渡船在中午离开。", "Nobody saw who rang the bell.", "Паром ушёл в полдень.")
TEXT = "\n".join(f"{SENTENCES[i * 7 % 4]} {i}" for i in range(80))
FLAGS = (
    "--preset tiny --vocab-size 300 --dim 32 --n-layers 1 --n-heads 2 --warmup-steps 1 --batch-size 2 --seq-len 32 "
    "--samples 0 --snapshot-every 2 --validate-every 2"
).split()


def train(out, *flags, steps=4):
    main(["train", "--out", str(out), *FLAGS, "--steps", str(steps), *map(str, flags)])


def fails(capsys, *args):
    """Run a command that must fail; return its one line of explanation."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main([str(arg) for arg in args])
    error = capsys.readouterr().err
    assert ending.value.code == 2, error
    assert "Traceback" not in error
    return " ".join(error.split())


def tree(folder) -> dict:
    """Return every file and folder below a folder, hidden ones too, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its text; do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    train(folder / "run", "--corpus", folder / "text.txt")
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# ------------------------------------------------------------- nothing is lost


def test_overwriting_deletes_what_the_run_wrote_and_nothing_else(run, text):
    mine = ["diary.txt", "data/book.txt", "snapshots/notes.md", "snapshots/step-00000004/why.txt", "lora.safetensors"]
    mine += ["tensorboard/mine.log", "snapshots/step-00000002/x/y", ".draft.tmp", "snapshots/step-by-step.md"]
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    old = tree(run)
    train(run, "--corpus", text, "--overwrite", "--seed", "1", steps=2)
    new = tree(run)
    assert all(new[name] == old[name] for name in mine)
    assert new["model.safetensors"] != old["model.safetensors"]
    assert read_json(run / "run.json")["train"]["seed"] == 1
    assert len(read_metrics(run / "metrics.jsonl")) == 2
    assert [path.name for path in snapshots(run / "snapshots")] == ["step-00000002"]
    assert not [name for name in new if ".start." in name]


def test_removing_a_run_leaves_an_empty_folder(run):
    """Every file that a run writes is known by name: what this finds missing would be left lying about."""
    assert set(run_files(run)) == {path for path in run.rglob("*") if path.is_file()}
    remove_run(run)
    assert tree(run) == {}


def test_training_in_the_current_folder_leaves_what_is_there(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("diary.txt", "data/book.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine, and long enough to learn from. " * 20)
    mine = {name: value for name, value in tree(tmp_path).items() if value}
    train(".", "--corpus", ".")
    train(".", "--corpus", ".", "--overwrite")
    assert mine.items() <= tree(tmp_path).items()
    assert read_corpus_info("data").train.documents + read_corpus_info("data").validation.documents == 3


def test_a_link_to_a_folder_is_as_good_as_the_folder(tmp_path, text):
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "disk" / "diary.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for more in ((), ("--overwrite",)):
        train(tmp_path / "link", "--corpus", text, *more)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "diary.txt").read_text() == "mine"
    assert load(tmp_path / "disk")[1]


def test_a_link_to_nothing_or_a_file_is_explained(tmp_path, text, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "which does not exist" in fails(capsys, "train", *FLAGS, "--corpus", text, "--out", tmp_path / "link")
    assert "is a file" in fails(capsys, "train", *FLAGS, "--corpus", text, "--out", text)


def write_model(folder, format):
    save(build(preset("tiny")), folder, format=format)


OTHERS = {
    "a model of the transformers library": lambda folder: write_model(folder, "huggingface"),
    "a model of Meta": lambda folder: write_model(folder, "meta"),
    "a tokenizer": lambda folder: Tokenizer.train(["abab"], vocab_size=260).save(folder),
    "metrics": lambda folder: (folder / "metrics.jsonl").write_text("{}"),
    "another program's run.json": lambda folder: (folder / "run.json").write_text('{"train": "fast"}'),
    "an encoded corpus": lambda folder: ((folder / "data").mkdir(), (folder / "data" / "corpus.json").write_text("{}")),
    "a file that is in the way of a folder": lambda folder: (folder / "snapshots").write_text("mine"),
}


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]], ids=str)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_no_run_wrote_is_never_replaced(tmp_path, text, capsys, other, flags):
    out = tmp_path / "out"
    out.mkdir()
    other(out)
    before = tree(out)
    message = fails(capsys, "train", *FLAGS, "--corpus", text, "--out", out, "--steps", 2, *flags)
    assert "leave --resume out" if flags == ["--resume"] else "no run wrote them" in message
    assert tree(out) == before


@pytest.mark.parametrize(
    "needs",
    [
        ["--corpus", "run/metrics.jsonl"],
        ["--tokenizer", "run"],
        ["--tokenizer", "run/tokenizer.json"],
        ["--tokenizer", "link.json"],
        ["--init-from", "run"],
        ["--init-from", "run/snapshots/step-00000004"],
    ],
    ids=" ".join,
)
def test_overwriting_what_is_needed_is_refused(run, capsys, monkeypatch, needs):
    monkeypatch.chdir(run.parent)
    Path("link.json").symlink_to("run/tokenizer.json")
    before = tree(run)
    flags = "--samples 0 --steps 2 --warmup-steps 1 --batch-size 2 --seq-len 32 --overwrite".split()
    assert f"but {needs[0]} needs it" in fails(capsys, "train", "--out", run, *flags, *needs)
    assert tree(run) == before


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path, text, capsys):
    pytest.importorskip("fcntl")
    (tmp_path / "run").mkdir()
    with hold_folder(tmp_path / "run"):
        assert "another process" in fails(capsys, "train", *FLAGS, "--corpus", text, "--out", tmp_path / "run")
    assert tree(tmp_path / "run") == {}
    train(tmp_path / "run", "--corpus", text)


# ------------------------------------------------------ a failed start, a killed start

FAILING = [
    (["--corpus", "txet.txt"], "txet.txt"),
    (["--corpus", "empty"], "no text"),
    (["--corpus", "latin.txt"], "UTF-8"),
    (["--corpus", "short.txt"], "tokens"),
    (["--seq-len", "512"], "--seq-len 512 is longer than the model's context, max_seq_len=256"),
    (["--seq-len", "512"], "a larger --max-seq-len"),
    (["--seq-len", "33", "--max-seq-len", "32"], "a smaller --seq-len"),
    (["--dim", "33"], "dim=33"),
    (["--vocab-size", "10"], "vocab_size"),
    (["--tokenizer", "nowhere"], "nowhere"),
    (["--tokenizer", "text.txt"], "not a tokenizer"),
    (["--validation-fraction", "1"], "validation_fraction=1"),
    (["--seed", "-1"], "seed=-1"),
    (["--samples", "-1"], "--samples -1"),
    (["--patience", "0"], "patience=0"),
    (["--batch-size", "0"], "batch_size=0"),
    (["--seq-len", "250", "--validation-fraction", "0.9"], "tokens"),
    (["--seq-len", "250", "--validation-fraction", "0.9", "--align-documents"], "tokens"),
    (["--init-from", "empty"], "is it the folder of a model"),
    (["--compile"], "compiler"),
    (["--resume", "--overwrite"], "give one of them"),
]


@pytest.mark.parametrize("place", ["absent", "with a file", "a run"])
def test_a_start_that_fails_leaves_the_folder_as_it_was(finished, tmp_path, capsys, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("latin.txt").write_bytes(b"caf\xe9 au lait" * 50)
    Path("short.txt").write_text("Too short.")
    Path("empty").mkdir()
    Path("empty/nothing.txt").touch()
    if place == "with a file":
        Path("run").mkdir()
        Path("run/diary.txt").write_text("mine")
    elif place == "a run":
        shutil.copytree(finished, "run")
    before = tree(tmp_path)
    for flags, words in FAILING:
        if flags == ["--compile"]:
            monkeypatch.setenv("PATH", "")
            monkeypatch.delenv("CXX", raising=False)
        overwrite = ["--overwrite"] if place == "a run" and "--overwrite" not in flags else []
        base = FLAGS if "--init-from" not in flags else FLAGS[10:]
        out = "run" if place != "absent" else "new/run"
        message = fails(capsys, "train", "--corpus", "text.txt", "--out", out, *base, "--steps", 2, *overwrite, *flags)
        assert words in message, flags
        assert tree(tmp_path) == before, flags


def test_the_corrected_command_just_runs(tmp_path, text, capsys):
    fails(capsys, "train", *FLAGS, "--out", tmp_path / "run", "--corpus", tmp_path / "txet.txt")
    train(tmp_path / "run", "--corpus", text)


# Forks children that start a training; each ends, as if killed, at another file that it touches in its folder. A second
# child then gives the same command again. The parent computes nothing, so that no thread is forked.
KILLED_STARTS = """
import os, shutil, sys
from pathlib import Path
import torch, torch._dynamo  # what is imported here need not be in every child
torch.set_num_threads(1)
import llama_minimal.checkpoint, llama_minimal.training
from llama_minimal.cli import main

out, *flags = sys.argv[1:]

def start(end_at):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    touched = 0
    def count(event, arguments):
        nonlocal touched
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and out in str(arguments):
            touched += 1
            if touched == end_at:
                os._exit(9)
    sys.addaudithook(count)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    main(["train", "--out", out, *flags])
    os._exit(0)

def content():
    files = [path for path in Path(out).rglob("*") if path.is_file()]
    return {str(path): None if path.name in ("run.json", "metrics.jsonl") else path.read_bytes() for path in files}

assert start(0) == 0
whole = content()
for n in range(1, 60, 5):
    shutil.rmtree(out)
    assert start(n) == 9
    if list(Path(out).glob("snapshots/step-*/trainer.json")):
        break
    assert start(0) == 0, n
    assert content() == whole, n
print("ended at", n)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_start_that_is_killed_anywhere_is_begun_anew_by_the_same_command(tmp_path, text):
    """Killed before it reads, while it encodes, between two files that it moves in: until there is a snapshot."""
    flags = [*FLAGS, "--corpus", str(text), "--steps", "1", "--snapshot-every", "100", "--validate-every", "100"]
    command = [sys.executable, "-c", KILLED_STARTS, str(tmp_path / "run"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 20


def test_resuming_a_start_without_a_snapshot_begins_anew(run, capsys):
    """As if it had been killed before its first snapshot: no line of the metrics stands there twice."""
    whole = read_metrics(run / "metrics.jsonl")
    for path in [*snapshots(run / "snapshots"), run / "data"]:
        shutil.rmtree(path)
    for path in [*run.glob("*.safetensors"), run / "config.json"]:
        path.unlink()
    main(["train", "--out", str(run), "--resume"])
    again = read_metrics(run / "metrics.jsonl")
    assert [(m["step"], m["loss"]) for m in again] == [(m["step"], m["loss"]) for m in whole]


# ------------------------------------------------------------------ resuming


def test_the_flags_of_the_first_time_may_be_given_again(run, capsys):
    main(["train", "--out", str(run), *FLAGS, "--steps", "4", "--resume"])
    assert "resumed at step 4 of 4" in capsys.readouterr().out


def test_every_flag_is_compared_unless_nothing_depends_on_it(run):
    """Walks over all flags, so that one that is added later is compared, too."""
    saved = saved_command(["train", "--out", str(run), "--resume"])
    free = FREE_ON_RESUME | {"out", "resume", "overwrite", "device", "tensor", "pipeline", "samples", "tensorboard"}
    refused = set()
    for part, owner in ((None, saved), ("model", saved.model), ("train", saved.train)):
        for name in (f.name for f in fields(owner) if f.name not in ("model", "train")):
            value = getattr(owner, name)
            others = {bool: not value, int: 2 * value if isinstance(value, int) and value else 2, float: 0.123}
            others[tuple] = ("other",)
            other = others.get(type(value), "other")
            chosen = {
                "precision": "bf16",
                "optimizer": "muon",
                "schedule": "linear",
                "pipeline_schedule": "gpipe",
                "balance": (2,),
                "weights": (0.5, 0.25),
            }
            other = chosen.get(name, 2 if part == "train" and value is None else other)
            needed = {"optimizer": "muon"} if name == "embedding_lr_ratio" else {}
            changed = replace(owner, **{name: other} | needed)
            command = changed if part is None else replace(saved, **{part: changed})
            try:
                compared(command, saved)
            except ValueError as error:
                was, is_now = (" ".join(map(repr, v)) if isinstance(v, tuple) else repr(v) for v in (value, other))
                assert f"--{name.replace('_', '-')} was {was}, is {is_now}" in str(error)  # noqa: PT017
                refused.add(name)
    names = {f.name for f in fields(Train)} | asdict(saved.model).keys() | asdict(saved.train).keys()
    assert refused == names - free - {"model", "train"}
    assert {"corpus", "tokenizer", "init_from", "vocab_size", "validation_fraction", "preset", "dim", "lr"} <= refused


def test_all_changes_are_named_at_once_and_nothing_is_written(run, capsys):
    before = tree(run)
    flags = ["--lr", "0.5", "--corpus", "valley", "--validation-fraction", "0.5", "--dim", "64"]
    message = fails(capsys, "train", "--out", run, "--resume", *flags)
    for words in ("--lr was 0.002, is 0.5", "--corpus was", "--validation-fraction was 0.1", "--dim was 32, is 64"):
        assert words in message
    assert tree(run) == before


def test_a_path_may_be_written_in_another_way(run, finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    main(["train", "--out", str(run), "--corpus", "text.txt", "--resume"])
    assert "resumed at step 4" in capsys.readouterr().out


def test_a_finished_run_is_extended_along_the_cosine_of_its_new_length(run):
    before = {m["step"]: (m["loss"], m["lr"]) for m in read_metrics(run / "metrics.jsonl")}
    main(["train", "--out", str(run), "--resume", "--steps", "9"])
    metrics = read_metrics(run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == list(range(1, 10))
    assert {m["step"]: (m["loss"], m["lr"]) for m in metrics[:4]} == before
    for m in metrics[4:]:
        assert m["lr"] == learning_rate(m["step"] - 1, lr=2e-3, steps=9, warmup_steps=1)
    assert read_json(run / "run.json")["train"]["steps"] == 9
    after = tree(run)["model.safetensors"]
    main(["train", "--out", str(run), "--resume"])  # knows its new length
    assert tree(run)["model.safetensors"] == after


def test_fewer_steps_than_are_done_are_refused(run, capsys):
    before = tree(run)
    assert "has done 4 steps already" in fails(capsys, "train", "--out", run, "--resume", "--steps", 3)
    assert tree(run) == before


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("snapshots", "--init-from"),
        ("data", "the encoded text of the run is gone"),
        ("run.json", "run.json is missing or damaged"),
    ],
)
def test_a_run_that_lacks_a_part_is_not_begun_anew_in_silence(run, capsys, lost, words):
    (shutil.rmtree if (run / lost).is_dir() else os.remove)(run / lost)
    before = tree(run)
    assert words in fails(capsys, "train", "--out", run, "--resume")
    assert tree(run) == before


def test_a_run_file_of_another_version_is_explained(run, capsys):
    values = read_json(run / "run.json") | {"colour": "red"}
    (run / "run.json").write_text(json.dumps(values))
    assert "not what this version writes" in fails(capsys, "train", "--out", run, "--resume")


@pytest.mark.parametrize("flags", [["--steps", "foo"], ["--stepps", "6"], ["--precision", "fp8"], ["--out"]])
def test_mistakes_in_the_flags_of_a_resumed_run_are_explained_as_usual(run, capsys, flags):
    message = fails(capsys, "train", "--out", run, "--resume", *flags)
    assert flags[0] in message
    assert "dummy" not in message


def test_a_smaller_vocabulary_than_asked_is_told_and_kept(tmp_path, text, capsys):
    flags = ["--corpus", text, "--vocab-size", "5000"]
    train(tmp_path / "run", *flags)
    size = load(tmp_path / "run")[1].vocab_size
    assert size < 5000
    assert f"vocabulary of 5000 tokens: it gives {size}" in capsys.readouterr().err
    assert (
        read_json(tmp_path / "run" / "run.json")["vocab_size"]
        == size
        == read_json(tmp_path / "run" / "config.json")["vocab_size"]
    )
    for n in ("5000", str(size)):  # as it was asked, and as it is
        train(tmp_path / "run", "--resume", "--corpus", text, "--vocab-size", n)
    assert "--vocab-size was" in fails(capsys, "train", "--out", tmp_path / "run", "--resume", "--vocab-size", 4999)


def test_a_tokenizer_and_another_vocabulary_contradict_each_other(run, tmp_path, text, capsys):
    flags = ["--corpus", text, "--tokenizer", run, "--out", tmp_path / "new"]
    assert "contradicts --tokenizer" in fails(capsys, "train", *FLAGS, *flags, "--vocab-size", 512)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------- the best model, patience


def test_the_model_of_the_lowest_validation_loss_is_saved(tmp_path, text, capsys):
    """A learning rate that spoils the model after a while."""
    flags = ["--corpus", text, "--lr", "1", "--warmup-steps", "20", "--validate-every", 1, "--snapshot-every", 1]
    train(tmp_path / "run", *flags, steps=20)
    curve = {m["step"]: m["validation_loss"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    best = min(curve, key=curve.get)
    assert best < 19  # so that it is not one of the newest snapshots
    printed = capsys.readouterr().out
    assert f"lowest after step {best}," in printed
    assert f"{curve[best]:.3f}" in printed.split("this model")[1].splitlines()[0]
    main(["evaluate", str(tmp_path / "run"), "--seq-len", "32"])
    assert float(capsys.readouterr().out.split("nats per token")[1].split()[0]) == pytest.approx(curve[best], abs=1e-4)
    kept = [path.name for path in snapshots(tmp_path / "run" / "snapshots")]
    assert kept == [f"step-{step:08d}" for step in (best, 19, 20)]
    saved, exact = load(tmp_path / "run")[0], load(tmp_path / "run" / "snapshots" / kept[0])[0]
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), exact.parameters(), strict=True))
    train(tmp_path / "last", *flags, "--no-keep-best", steps=20)
    last, newest = load(tmp_path / "last")[0], load(tmp_path / "run" / "snapshots" / kept[-1])[0]
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), newest.parameters(), strict=True))


def test_patience_ends_a_run_and_resuming_it_only_reports(tmp_path, text, capsys):
    flags = ["--corpus", text, "--lr", "1", "--warmup-steps", "20", "--validate-every", 1, "--patience", 3]
    train(tmp_path / "run", *flags, steps=60)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [m["validation_loss"] for m in metrics]
    assert len(losses) < 60
    assert min(losses) == losses[-4] < min(losses[-3:])
    assert "no lower validation loss in 3 validations" in capsys.readouterr().out
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == metrics
    main(["train", "--out", str(tmp_path / "run"), "--resume", "--patience", "5", "--samples", "0"])
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > len(metrics)


# ------------------------------------------------------------------ --init-from

ONE_STEP = "--steps 1 --warmup-steps 1 --batch-size 2 --seq-len 32 --samples 0 --weight-decay 0 --lr 1e-30".split()


def test_training_begins_with_the_weights_shape_and_tokenizer_of_a_model(finished, tmp_path, text):
    """A step of next to no length leaves the weights as they were; the optimizer has done this one step only."""
    out = tmp_path / "new"
    main(["train", "--init-from", str(finished), "--corpus", str(text), "--out", str(out), *ONE_STEP])
    (old, old_tokenizer), (new, new_tokenizer) = load(finished), load(out)
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert new.config == old.config
    assert new_tokenizer.fingerprint == old_tokenizer.fingerprint
    from llama_minimal.checkpoint.tensors import load_safetensors

    state = load_safetensors(snapshots(out / "snapshots")[-1] / "trainer.safetensors")
    assert {value.item() for name, value in state.items() if name.endswith(".step")} == {1.0}


def test_a_run_from_other_weights_goes_on_when_those_are_gone(run, tmp_path, text, capsys):
    flags = ["--corpus", str(text), "--batch-size", "2", "--seq-len", "32", "--warmup-steps", "1", "--samples", "0"]
    flags += ["--snapshot-every", "2"]
    main(["train", "--init-from", str(run), "--out", str(tmp_path / "whole"), *flags, "--steps", "4"])
    main(["train", "--init-from", str(run), "--out", str(tmp_path / "parts"), *flags, "--steps", "4"])
    shutil.rmtree(run)
    shutil.rmtree(snapshots(tmp_path / "parts" / "snapshots")[-1])
    main(["train", "--out", str(tmp_path / "parts"), "--resume"])
    assert "resumed at step 2 of 4" in capsys.readouterr().out
    assert tree(tmp_path / "parts")["model.safetensors"] == tree(tmp_path / "whole")["model.safetensors"]


def test_the_course_model_is_trained_on_in_float32(tmp_path, text):
    main(["train", "--init-from", "course", "--corpus", str(text), "--out", str(tmp_path / "run"), *ONE_STEP])
    old, new = load("course", dtype=torch.float32)[0], load(tmp_path / "run")[0]
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


@pytest.mark.parametrize(
    "flags",
    [["--preset", "tiny"], ["--vocab-size", "99"], ["--tokenizer", "x"], ["--dim", "8"], ["--max-seq-len", "999"]],
    ids=" ".join,
)
def test_flags_that_other_weights_bring_are_refused(finished, tmp_path, text, capsys, flags):
    args = ["train", "--init-from", finished, "--corpus", text, "--out", tmp_path / "new", *ONE_STEP, *flags]
    message = fails(capsys, *args)
    assert f"so {flags[0]} cannot be given with it" in message
    assert not (tmp_path / "new").exists()


def test_weights_that_training_cannot_begin_with_are_refused(run, tmp_path, text, capsys):
    args = ["train", "--init-from", run, "--corpus", text, "--out", tmp_path / "new", *ONE_STEP]
    message = fails(capsys, *args, "--seq-len", 512)
    assert "--seq-len 512 is longer" in message
    assert "--max-seq-len" not in message  # which --init-from does not take
    (run / "tokenizer.json").unlink()
    assert "has no tokenizer" in fails(capsys, *args)
    assert not (tmp_path / "new").exists()


def test_tokens_that_the_other_model_lacks_are_noticed_before_anything_is_written(finished, tmp_path, text, capsys):
    model, tokenizer = load(finished)
    save(build(model.config.replace(vocab_size=tokenizer.vocab_size - 9)), tmp_path / "smaller", tokenizer)
    args = ["train", "--init-from", tmp_path / "smaller", "--corpus", text, "--out", tmp_path / "new", *ONE_STEP]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "the model's ids are 0 to" in fails(capsys, *args)
    assert not (tmp_path / "new").exists()


def test_text_that_another_tokenizer_encoded_is_not_used(run, capsys):
    """Its ids would mean other text: nothing would look wrong but the loss."""
    tokenizer = Tokenizer.load(run)
    other = Tokenizer.train([TEXT[::-1]], vocab_size=tokenizer.vocab_size)
    assert other.vocab_size == tokenizer.vocab_size
    other.save(run)
    before = tree(run)
    for command in (["train", "--out", run, "--resume", "--steps", 8], ["evaluate", run]):
        assert "encoded with another tokenizer" in fails(capsys, *command)
    assert tree(run) == before


def test_a_run_whose_flags_are_lost_is_named_for_what_it_is(run, text, tmp_path, capsys):
    (run / "run.json").write_text("{")
    message = fails(capsys, "train", "--out", run, "--resume")
    assert "run.json is missing or damaged" in message
    assert f"--init-from {run} and another --out" in message
    main(["train", "--init-from", str(run), "--corpus", str(text), "--out", str(tmp_path / "new"), *ONE_STEP])


# ------------------------------------------------- outputs of runs are no text


def test_what_runs_wrote_is_never_read_as_text(tmp_path, monkeypatch):
    """A folder of texts gives the same documents whatever was trained in it."""
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in ("a.txt", "books/b.md", "books/c.jsonl"):
        Path(name).write_text(json.dumps({"text": TEXT + name}, ensure_ascii=False), encoding="utf-8")
    sources = [".", "books", "**/*", "*/*", "b*/*", str(tmp_path), str(tmp_path / "**" / "*")]
    before = [list(documents(source)) for source in sources]
    assert [len(found) for found in before] == [3, 2, 3, 2, 2, 3, 3]
    for out in ("run1", "run2", "books", "books/run", "."):
        train(out, "--corpus", ".", "--tensorboard", steps=2)
    assert [list(documents(source)) for source in sources] == before
    infos = [read_corpus_info(Path(out) / "data") for out in ("run1", "run2", "books", "books/run", ".")]
    assert len({asdict(info)["train"]["bytes"] + asdict(info)["validation"]["bytes"] for info in infos}) == 1
    # What the user puts there is text, though.
    for name in ("run1/data/d.txt", "run1/notes.txt", "run2/snapshots/step-00000002/e.md"):
        Path(name).write_text("mine")
    assert len(list(documents("."))) == 6
    # The metrics alone, without the run.
    Path("run1/run.json").unlink()
    shutil.rmtree("run1/snapshots")
    assert len(list(documents("."))) == 6


def test_a_file_of_the_same_name_that_no_run_wrote_is_text(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"text": "A line.", "step": 1}\n')
    (tmp_path / "config.json").write_text("{}")
    assert [document.text for document in documents(tmp_path)] == ["A line."]
    assert not is_run_file(tmp_path / "config.json")


# ---------------------------------------------------------------------- ending


def test_a_second_interrupt_ends_at_once_with_its_own_status(tmp_path, text):
    """Ctrl-C while the start is prepared: nothing is left behind, and the status says why it ended."""
    script = (
        "import sys, llama_minimal.data.encoding as encoding\n"
        "from llama_minimal.cli import main\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "encoding._write_group = interrupted\n"
        "main(sys.argv[1:])\n"
    )
    args = ["train", "--out", str(tmp_path / "a" / "run"), "--corpus", str(text), *FLAGS]
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=600)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_config_says_what_it_cannot_be():
    for name in ("seed", "warmup_steps", "patience", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            TrainConfig(**{name: -1})
        with pytest.raises(ValueError, match=f"{name}=1.5"):
            TrainConfig(**{name: 1.5})


def test_a_snapshot_tells_the_best_so_far(run):
    best = read_state(snapshots(run / "snapshots")[-1])["best"]
    curve = {m["step"]: m["validation_loss"] for m in read_metrics(run / "metrics.jsonl") if "validation_loss" in m}
    assert best["loss"] == min(curve.values()) == curve[best["step"]]


def test_nothing_warns(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(run)
