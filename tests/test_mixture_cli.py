"""``llama-minimal train`` on several corpora: weights, duplicates, resuming, what is refused."""

import json
from itertools import islice

import pytest

from llama_minimal.cli import main
from llama_minimal.cli.resume import saved_command
from llama_minimal.cli.sources import in_proportion
from llama_minimal.config import read_json
from llama_minimal.data import TokenFile
from llama_minimal.metrics import read_metrics
from llama_minimal.tokenizer import load_tokenizer

FLAGS = (
    "--preset tiny --vocab-size 280 --dim 16 --n-layers 1 --n-heads 2 --warmup-steps 1 --batch-size 4 --seq-len 16 "
    "--samples 0 --snapshot-every 2 --validate-every 2 --steps 4"
).split()


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """Two corpora in the current folder: a.txt, of two documents that are the same, too, and b.jsonl."""
    monkeypatch.chdir(tmp_path)
    texts = [f"The ferry number {n} left at noon, and {n * 7} people waved." for n in range(40)]
    (tmp_path / "a.txt").write_text("\n***\n".join([*texts, texts[3], texts[5]]), encoding="utf-8")
    lines = [json.dumps({"text": f"渡船 {n} 在中午离开, 有 {n * 3} 个人."}, ensure_ascii=False) for n in range(30)]
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, json.dumps({"text": texts[0]})]), encoding="utf-8")
    return "--corpus", "a.txt", "b.jsonl", "--document-separator", "***"


def train(*args, out="run"):
    main(["train", "--out", out, *args, *FLAGS])


def fails(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(["train", *args])
    assert ending.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_weighted_run_reports_each_source_and_goes_on(corpora, tmp_path, capsys):
    train(*corpora, "--weights", "3", "1")
    printed = capsys.readouterr().out
    file = TokenFile.open(tmp_path / "run" / "data", "train")
    assert list(file.sources) == ["a.txt", "b.jsonl"]
    rows = {line.split()[0]: line.split()[1:] for line in printed.split("\n") if line.startswith(("  a.txt", "  b.j"))}
    assert [row[0] for row in rows.values()] == ["75.0%", "25.0%"]
    for row, n_rows, source in zip(rows.values(), (12, 4), file.sources.values(), strict=True):
        assert float(row[1]) == pytest.approx(n_rows / ((source.n_tokens - 16) // 16), abs=0.01)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert [float(row[2]) for row in rows.values()] == pytest.approx(
        [last["validation_loss/a.txt"], last["validation_loss/b.jsonl"]], abs=1e-3
    )
    main(["train", "--out", "run", "--resume", "--steps", "6"])
    assert "resumed at step 4 of 6" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    message = fails(capsys, "--out", "run", "--resume", "--weights", "1", "1", "--corpus", "b.jsonl", "a.txt")
    assert "--corpus was 'a.txt' 'b.jsonl', is 'b.jsonl' 'a.txt'" in message
    assert "--weights was 3.0 1.0, is 1.0 1.0" in message


def test_a_run_of_before_there_were_several_corpora_goes_on(corpora, tmp_path, capsys):
    train("--corpus", "a.txt")
    run = tmp_path / "run" / "run.json"
    values = read_json(run)
    assert values["corpus"] == ["a.txt"]
    del values["train"]["weights"], values["deduplicate"]
    run.write_text(json.dumps(values | {"corpus": "a.txt"}), encoding="utf-8")
    for path in (tmp_path / "run" / "snapshots").glob("*/trainer.json"):
        state = read_json(path)
        del state["run"]["train"]["weights"]
        path.write_text(json.dumps(state), encoding="utf-8")
    assert saved_command(["train", "--out", "run", "--resume"]).corpus == ("a.txt",)
    main(["train", "--out", "run", "--resume", "--corpus", "a.txt", "--steps", "5"])
    assert "resumed at step 4 of 5" in capsys.readouterr().out


def test_duplicates_are_left_out_and_counted(corpora, tmp_path, capsys):
    train(*corpora, "--deduplicate", out="without")
    assert "of 73 documents 3 exact and 0 near-duplicates were left out" in capsys.readouterr().out
    train(*corpora, out="with")
    assert "duplicates" not in capsys.readouterr().out
    counts = {}
    for name in ("with", "without"):
        files = [TokenFile.open(tmp_path / name / "data", split) for split in ("train", "validation")]
        counts[name] = {source: sum(f.sources[source].n_documents for f in files) for source in ("a.txt", "b.jsonl")}
    assert counts == {"with": {"a.txt": 42, "b.jsonl": 31}, "without": {"a.txt": 40, "b.jsonl": 30}}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "1"], "--weights gives 1 for 2 corpora, a.txt, b.jsonl; give one to each, or none"),
        (["--weights", "1", "2", "3"], "--weights gives 3 for 2 corpora"),
        (["--weights", "1", "0"], "must be positive numbers"),
        (["--corpus", "a.txt", "--weights", "1"], "mixes several corpora, and a.txt is the only one"),
        (["--corpus", "a.txt", "b.jsonl", "a.txt"], "--corpus names a.txt twice"),
        (["--corpus", "a.txt", ""], "the name of the corpus is empty"),
        (["--corpus", "a.txt", "c.txt"], "there is no file or folder c.txt"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_is_written(corpora, tmp_path, capsys, flags, words):
    corpus = [] if "--corpus" in flags else corpora
    assert words in fails(capsys, "--out", "run", *corpus, *flags, *FLAGS)
    assert not (tmp_path / "run").exists()


def test_a_corpus_of_nothing_but_duplicates_is_refused(corpora, tmp_path, capsys):
    (tmp_path / "again.txt").write_bytes((tmp_path / "a.txt").read_bytes())
    flags = ["--corpus", "a.txt", "again.txt", "--deduplicate", *FLAGS]
    assert "all documents of again.txt are in the corpora before it" in fails(capsys, "--out", "run", *flags)


def test_a_tokenizer_learns_from_sources_in_proportion():
    readers = {"a": lambda: iter(["a" * 10] * 30), "b": lambda: iter(["b" * 7] * 100)}
    text = "".join(in_proportion(readers, (0.75, 0.25)))
    assert text.count("b") >= 700  # read to its end once; and a, which is short, several times
    assert text.count("a") / len(text) == pytest.approx(0.75, abs=0.01)
    for n in (20, 50, 100):  # and so at any time
        begun = "".join(islice(in_proportion(readers, (0.75, 0.25)), n))
        assert abs(begun.count("a") - 0.75 * len(begun)) <= 10
    text = "".join(in_proportion(readers, None))
    assert (text.count("a"), text.count("b")) == (300, 700)


def test_the_vocabulary_is_that_of_the_weights(corpora, tmp_path):
    """Of a vocabulary with little room, most goes to the source that weighs most."""

    def chinese_tokens(weights):
        train(*corpora, "--weights", *weights, out=weights[0])
        tokenizer = load_tokenizer(tmp_path / weights[0])
        return len(tokenizer.encode("渡船在中午离开"))

    assert chinese_tokens(("1", "50")) < chinese_tokens(("50", "1"))
