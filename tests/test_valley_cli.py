"""The corpus command as a user types it, and the valley as a corpus to train on."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from llama_minimal.cli import main
from llama_minimal.data import documents
from llama_minimal.data.valley import CANARIES, TASKS, ValleySettings, examples, mixed, stories

COLUMNS = {"task", "kind", "seed", "story", "split", "prompt", "answer", "text"}


def corpus(out, *flags):
    main(["corpus", "valley", "--out", str(out), *map(str, flags)])


def names(folder):
    return [path.name for path in folder.iterdir()]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def fails(capsys, out, *flags) -> str:
    """Run the command, which must fail; return its explanation."""
    with pytest.raises(SystemExit) as ending:
        corpus(out, *flags)
    error = capsys.readouterr().err
    assert ending.value.code == 2, error
    assert "Traceback" not in error
    return " ".join(error.replace("│", " ").split())


def test_json_lines(tmp_path, capsys):
    out = tmp_path / "valley.jsonl"
    corpus(out, "--stories", 12, "--seed", 5)
    printed = capsys.readouterr().out
    assert f"12 texts in {out}" in printed
    assert f"llama-minimal train --corpus {out}" in printed
    expected = list(stories(12, ValleySettings(seed=5)))
    for line, one in zip(lines(out), expected, strict=True):
        assert set(line) == COLUMNS
        assert line["text"] == line["prompt"] + line["answer"] == one.text()
        assert (line["seed"], line["story"], line["split"]) == (5, one.index, "train")
    assert [document.text for document in documents(out)] == [one.text() for one in expected]
    assert names(tmp_path) == ["valley.jsonl"]


def test_plain_text(tmp_path, capsys):
    out = tmp_path / "valley.txt"
    corpus(out, "--stories", 7)
    assert out.read_text("utf-8").split("\n\n* * *\n\n") == [one.text() for one in stories(7)]
    assert "train --corpus" not in capsys.readouterr().out


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_standard_output_gets_the_lines_and_nothing_else(tmp_path, language):
    flags = ["--stories", "5", "--language", language]
    command = [sys.executable, "-m", "llama_minimal", "corpus", "valley", "--out", "-", *flags]
    # Bytes are the same wherever they go, whatever the terminal can show.
    done = subprocess.run(command, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    corpus(tmp_path / "valley.JSONL", *flags)
    assert done.stdout == (tmp_path / "valley.JSONL").read_bytes()
    assert b"5 texts" in done.stderr
    assert not [name for name in names(Path()) if name == "-"]


def test_records(tmp_path):
    out = tmp_path / "valley.jsonl"
    corpus(out, "--stories", 6, "--record")
    assert [line["record"] for line in lines(out)] == [one.record() for one in stories(6)]


@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path, task):
    out = tmp_path / "valley.jsonl"
    corpus(out, "--stories", 25, "--task", task)
    expected = [example for one in stories(25) for example in examples(one, task)]
    assert [line["text"] for line in lines(out)] == [example.text for example in expected]
    assert {line["task"] for line in lines(out)} == {task}


def test_the_mix(tmp_path):
    out = tmp_path / "valley.jsonl"
    corpus(out, "--stories", 150, "--task", "mix", "--split", "test")
    found, standard = lines(out), ValleySettings()
    assert [line["text"] for line in found] == [example.text for example in mixed(150, standard, split="test")]
    assert len({line["story"] for line in found}) == 150
    assert len({line["task"] for line in found}) >= 6
    assert {line["split"] for line in found} == {"test"}


def test_chinese_stories(tmp_path):
    out = tmp_path / "valley.jsonl"
    corpus(out, "--stories", 3, "--language", "chinese")
    assert [line["text"] for line in lines(out)] == [one.text("chinese") for one in stories(3)]
    assert "\\u" not in out.read_text("utf-8")


def test_the_settings_arrive(tmp_path):
    out = tmp_path / "valley.jsonl"
    flags = ["--gender-bias", "vet", "1.0", "judge", "0.0", "--unkind", "1.0", "--canaries", "Seven herons flew.", "9"]
    corpus(out, "--stories", 120, "--record", *flags)
    found = lines(out)
    assert sum("Seven herons flew." in line["text"] for line in found) == 9
    workers = {
        (who["job"], who["pronoun"])
        for line in found
        for who in line["record"]["characters"]
        if who["job"] in ("vet", "judge")
    }
    assert workers == {("vet", "she"), ("judge", "he")}
    quarrels = [line["record"] for line in found if line["record"]["shape"] in ("quarrel", "council")]
    assert quarrels
    assert all("unkind" in {event["kind"] for event in record["events"]} for record in quarrels)


def test_the_same_command_writes_the_same_bytes(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        corpus(tmp_path / name, "--stories", 90, "--task", "mix", "--record")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_small_mix(tmp_path):
    corpus(tmp_path / "valley.jsonl", "--stories", 20, "--task", "mix")


def test_a_file_is_replaced_only_if_asked(tmp_path, capsys):
    out = tmp_path / "valley.txt"
    out.write_text("mine")
    assert "--overwrite" in fails(capsys, out, "--stories", 2)
    assert out.read_text() == "mine"
    corpus(out, "--stories", 2, "--overwrite")
    assert out.read_text().startswith(next(stories(1)).text())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stories", "0"], "at least 1"),
        (["--stories", "-3"], "at least 1"),
        (["--seed", "-1"], "from 0 to 2,147,483,647"),
        (["--unkind", "1.5"], "between 0 and 1"),
        (["--gender-bias", "pilot", "0.5"], "there are baker, miller"),
        (["--gender-bias", "vet", "-1"], "between 0 and 1"),
        (["--canaries", "Ten owls.", "5", "--stories", "3"], "5 canaries do not fit into 3"),
        (["--language", "chinese", "--task", "qa"], "--task story"),
        (["--task", "poem"], "translate"),
        (["--split", "dev"], "combinations"),
        (["--language", "latin"], "chinese"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, words):
    assert words in fails(capsys, tmp_path / "valley.jsonl", *flags)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["valley", "valley.json", "valley.csv"])
def test_bad_suffixes(tmp_path, capsys, name):
    assert "must end in .jsonl or .txt" in fails(capsys, tmp_path / name)


def test_there_is_one_corpus(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["corpus", "hills", "--out", str(tmp_path / "a.txt")])
    assert "valley" in capsys.readouterr().err


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    import llama_minimal.data.valley as valley

    def broken(one, task, *, language):
        if one.index > 5:
            raise KeyboardInterrupt
        return examples(one, task, language=language)

    out = tmp_path / "valley.jsonl"
    out.write_text("old")
    monkeypatch.setattr(valley, "examples", broken)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        corpus(out, "--stories", 50, "--overwrite")
    assert out.read_text() == "old"
    assert names(tmp_path) == ["valley.jsonl"]


def test_an_interrupted_process_leaves_nothing(tmp_path):
    """Ctrl-C while it writes."""
    command = [sys.executable, "-m", "llama_minimal", "corpus", "valley", "--stories", "1000000"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "valley.jsonl")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 600
        while not any(path.stat().st_size for path in tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [path.name[:14] for path in tmp_path.iterdir()] == [".valley.jsonl."]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=600)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert names(tmp_path) == []


def test_the_valley_is_a_corpus():
    expected = mixed(20_000, ValleySettings(canaries=CANARIES))
    for document, example in zip(islice(documents("valley"), 3), expected, strict=False):
        assert document == (f"valley/0/{example.story.index}", example.text)


def test_stories_go_where_a_link_points_and_never_to_a_folder(tmp_path, capsys):
    (tmp_path / "there.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("there.jsonl")
    main(["corpus", "valley", "--stories", "1", "--out", str(tmp_path / "link.jsonl"), "--overwrite"])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert json.loads((tmp_path / "there.jsonl").read_text())["text"]
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SystemExit) as ending:
        main(["corpus", "valley", "--out", str(tmp_path / "folder.jsonl"), "--overwrite"])
    assert ending.value.code == 2
    assert "is a folder" in capsys.readouterr().err


def test_documents_come_one_by_one(monkeypatch):
    module = importlib.import_module("llama_minimal.data.valley.story")
    told = []
    original = module.story
    monkeypatch.setattr(module, "story", lambda index, *a, **k: (told.append(index), original(index, *a, **k))[1])
    assert len(list(islice(documents("valley"), 3))) == 3
    assert len(told) < 20


def test_training_on_the_valley_just_works(tmp_path, capsys):
    flags = "--preset tiny --vocab-size 400 --steps 2 --batch-size 2 --seq-len 32 --warmup-steps 1 --samples 0"
    main(["train", "--corpus", "valley:80", "--out", str(tmp_path / "run"), *flags.split()])
    assert "saved in" in capsys.readouterr().out


def test_a_story_is_the_same_whatever_is_asked_of_it():
    """The mixture, the tasks and the plain stories tell one and the same story of a number."""
    tale = next(iter(stories(1, split="train")))
    assert all(
        one.prompt.startswith(tale.text()) for task in ("qa", "summary", "dialogue") for one in examples(tale, task)
    )
