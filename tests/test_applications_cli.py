"""The commands examples and evaluate --application, as a user types them."""

import json
import re

import pytest
import torch.distributed.run as torchrun

from llama_minimal.applications import application
from llama_minimal.cli import _COMMANDS, main
from llama_minimal.cli import applications as command
from llama_minimal.finetuning import Chat, Pair, read_examples


def fails(capsys, *args) -> str:
    """Run a command, which must fail; return its explanation."""
    with pytest.raises(SystemExit) as ending:
        main([*map(str, args)])
    error = capsys.readouterr().err
    assert ending.value.code == 2, error
    assert "Traceback" not in error
    return " ".join(error.split())


def test_examples_are_what_finetune_reads(tmp_path, capsys):
    out = tmp_path / "sentiment.jsonl"
    main(["examples", "sentiment", "--n", "7", "--split", "validation", "--out", str(out)])
    assert f"7 examples in {out}" in capsys.readouterr().out
    expected = application("sentiment").examples(7, split="validation")
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == [one.as_dict() for one in expected]
    assert read_examples(out) == [Pair(one.prompt, one.completion) for one in expected]
    main(["examples", "sentiment", "--n", "2", "--out", str(out), "--overwrite"])
    assert len(out.read_text("utf-8").splitlines()) == 2
    assert list(tmp_path.iterdir()) == [out]


def test_dialogues_are_written_as_messages(tmp_path):
    out = tmp_path / "talk.jsonl"
    main(["examples", "dialogue", "--n", "6", "--seed", "3", "--out", str(out)])
    assert all(isinstance(one, Chat) for one in read_examples(out))


def test_examples_go_to_standard_output(capfd):
    main(["examples", "translation", "--n", "2", "--out", "-"])
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"prompt", "completion"}] * 2
    assert "薇" in lines[0] or any("\u4e00" <= letter <= "\u9fff" for letter in lines[0])


def test_examples_refuse_what_would_lose_something(tmp_path, capsys):
    out = tmp_path / "x.jsonl"
    out.write_text("mine")
    assert "exists; give another --out" in fails(capsys, "examples", "sentiment", "--out", out)
    assert "must end in .jsonl" in fails(capsys, "examples", "sentiment", "--out", tmp_path / "x.csv")
    assert "--n-examples 0 must be at least 1" in fails(
        capsys, "examples", "sentiment", "--n", 0, "--out", tmp_path / "y.jsonl"
    )
    assert "application='cooking'" in fails(capsys, "examples", "cooking", "--out", tmp_path / "y.jsonl")
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_a_model_is_scored_beside_the_baselines(monkeypatch, capsys):
    monkeypatch.setattr(command, "N_TRAIN", 60)
    main(["evaluate", "course", "--application", "sentiment", "--n", "12"])
    printed = capsys.readouterr().out
    rows = {line.split("  ")[1]: line.split()[-4:] for line in printed.splitlines() if line.startswith("  ")}
    assert "12 test examples" in printed
    chosen = application("sentiment")
    test, train = chosen.examples(12, split="test"), chosen.examples(60)
    counted = [chosen.score(predict(test), test)["accuracy"] for predict in chosen.baselines(train).values()]
    assert [float(cell) for cell in rows["accuracy"][1:]] == pytest.approx(counted, abs=0.06)
    assert float(rows["accuracy"][0]) > 60  # the course model has read such examples
    for name in ("(1) model", "bag of words", "ending"):
        assert name in printed


def test_retrieval_is_measured_by_one_command(monkeypatch, capsys):
    monkeypatch.setattr(command, "N_TRAIN", 60)
    main(["evaluate", "course", "--application", "question_answering", "--retrieve", "--n-examples", "16"])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    after, before = (float(part.split()[-1]) for part in last.split(":")[0].split(","))
    assert after > 50 > 25 > before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--application", "cooking"], "application='cooking'"),
        (["--application", "sentiment", "--retrieve"], "--retrieve is for --application question_answering"),
        (["--retrieve"], "--retrieve needs it"),
        (["--application", "sentiment", "--corpus", "valley"], "goes without --corpus"),
        (["--application", "sentiment", "--n", "0"], "--n-examples 0 must be at least 1"),
        (["--application", "sentiment", "--seed", "-1"], "--seed -1 must be at least 0"),
    ],
)
def test_evaluate_refuses_what_does_not_go_together(capsys, flags, says):
    assert says in fails(capsys, "evaluate", "course", *flags)


def options_of(command, capsys):
    """Return the names of each option of a command, of which most have one."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = [line.strip(" │\n") for line in capsys.readouterr().out.splitlines()]
    return [re.findall(r"(?<![\w-])--[a-z][\w-]*", line) for line in lines if re.match(r"(-\w[^-]*, )?--[a-z]", line)]


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_option_has_a_name_that_torchrun_leaves_alone(name, capsys):
    """Torchrun takes --n, even behind the module, for the beginning of --nnodes or --node-rank, and asks which."""
    found = options_of(name, capsys)
    assert len(found) >= 3
    for names in found:
        longest = max(names, key=len)
        assert torchrun.parse_args(["-m", "llama_minimal", name, longest, "1"]).training_script_args[1] == longest


def test_torchrun_passes_the_number_of_examples_on():
    command = "llama_minimal evaluate course --application sentiment --n-examples 5".split()
    given = torchrun.parse_args(["--nproc-per-node", "2", "-m", *command])
    assert [given.training_script, *given.training_script_args] == command
