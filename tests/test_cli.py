"""The command line as a user types it."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_minimal.cli import main
from llama_minimal.metrics import read_metrics

TRAIN = (
    "train --vocab-size 300 --dim 32 --n-layers 1 --n-heads 2 --max-seq-len 64 --seq-len 32 --batch-size 4 "
    "--warmup-steps 1 --samples 1"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("cli") / "run"
    main([*TRAIN, "--out", str(out), "--steps", "4"])
    return str(out)


def fails(args, capsys):
    """Run a command that must fail; return its one line of explanation."""
    with pytest.raises(SystemExit) as ending:
        main([str(arg) for arg in args])
    error = capsys.readouterr().err
    assert ending.value.code == 2, error
    assert "Traceback" not in error
    return " ".join(error.split())


def test_training_reports_and_saves(tmp_path, capsys):
    out = tmp_path / "run"
    main([*TRAIN, "--out", str(out), "--steps", "3"])
    printed = capsys.readouterr().out
    for words in ("this model", "bigram counts", "uniform guess", "--- sample 1 ---", f"saved in {out}"):
        assert words in printed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}


def test_training_on_a_text_file(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"This is sentence number {i} of a short text." for i in range(200)))
    main([*TRAIN, "--corpus", str(text), "--out", str(tmp_path / "run"), "--steps", "2"])
    assert "saved in" in capsys.readouterr().out


def test_every_switch_of_the_model_is_a_flag(tmp_path, capsys):
    flags = "--norm layer --norm-placement post --ffn relu --position sinusoidal --bias attention"
    flags += " --tie-embeddings True --head-dim 12"
    main([*TRAIN, *flags.split(), "--out", str(tmp_path / "run"), "--steps", "2"])
    main(["info", str(tmp_path / "run")])
    main(["generate", str(tmp_path / "run"), "--max-new-tokens", "4"])
    assert "saved in" in capsys.readouterr().out


def test_resuming_needs_no_other_flags(run, tmp_path, capsys):
    """Six steps in one go = four, killed, and two more with nothing but --resume."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["--steps", "6", "--snapshot-every", "2", "--seed", "3"]
    main([*TRAIN, "--out", str(whole), *flags])
    main([*TRAIN, "--out", str(parts), *flags])
    for path in parts.glob("*.safetensors"):
        path.unlink()
    newest = sorted((parts / "snapshots").iterdir())[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()  # as if the run had been killed after step 5
    main(["train", "--out", str(parts), "--resume"])
    assert "resumed at step 4 of 6" in capsys.readouterr().out
    for m, n in zip(read_metrics(whole / "metrics.jsonl"), read_metrics(parts / "metrics.jsonl"), strict=True):
        assert (m["step"], m["loss"]) == (n["step"], n["loss"])


def test_resuming_a_finished_run_only_reports(run, capsys):
    main(["train", "--out", run, "--resume"])
    assert "resumed at step 4 of 4" in capsys.readouterr().out


def test_resuming_with_other_values_is_refused(run, capsys):
    message = fails(["train", "--out", run, "--resume", "--lr", "0.5"], capsys)
    assert "lr was 0.002, is 0.5" in message


def test_a_run_is_not_overwritten_by_accident(run, capsys):
    assert "--resume, start anew with --overwrite" in fails([*TRAIN, "--out", run], capsys)


def test_generating(run, capsys):
    main(["generate", run, "--prompt", "The", "--max-new-tokens", "8", "--seed", "1"])
    first = capsys.readouterr().out
    main(["generate", run, "--prompt", "The", "--max-new-tokens", "8", "--seed", "1"])
    assert first.startswith("The")
    assert capsys.readouterr().out == first


def test_the_prompt_may_come_from_standard_input(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("An expression"))
    main(["generate", run, "--prompt", "-", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.startswith("An expression")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_line_end_that_the_shell_adds_is_no_part_of_the_prompt(run, capsys, monkeypatch, end):
    main(["generate", run, "-p", "An expression\n", "--max-new-tokens", "8"])
    with_line_end = capsys.readouterr().out
    for typed, expected in (("An expression\n", with_line_end), ("An expression", None)):
        if expected is None:
            main(["generate", run, "-p", typed, "--max-new-tokens", "8"])
            expected = capsys.readouterr().out
        if typed.endswith("\n") and not end:
            continue  # then its own is taken for the shell's
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed + end, newline=""))
        main(["generate", run, "-p", "-", "--max-new-tokens", "8"])
        assert capsys.readouterr().out == expected


def test_several_samples_are_those_of_single_runs(run, capsys):
    flags = ["generate", run, "-p", "The", "--max-new-tokens", "12"]
    main([*flags, "--seed", "7", "--num-samples", "3"])
    together = capsys.readouterr().out
    alone = []
    for i in range(3):
        main([*flags, "--seed", str(7 + i)])
        alone.append(f"--- sample {i + 1} ---\n{capsys.readouterr().out}")
    assert together == "\n".join(alone)
    assert len(set(alone)) == 3


def test_names_of_special_tokens_in_a_prompt_are_text_unless_asked_for(run, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "llama_minimal.generation.stream", lambda model, codec, prompt, **_: asked.append(prompt) or iter(["x"])
    )
    for flags in ([], ["--special-tokens"]):
        main(["generate", run, "-p", "a<|eos|>b", *flags])
        assert capsys.readouterr().out == "a<|eos|>bx\n"
    bos, eos = 297, 298  # of 300 tokens
    assert asked == ["a<|eos|>b", [bos, ord("a"), eos, ord("b")]]


@pytest.mark.parametrize(
    "flags", [["--max-new-tokens", "0"], ["--max-new-tokens", "-3"], ["--num-samples", "0"], ["--stop", ""]]
)
def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(flags, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["generate", "no/such_folder", "-p", "hi", *flags])
    printed = capsys.readouterr()
    assert ending.value.code == 2
    assert "no/such_folder" not in printed.err
    assert "hi" not in printed.out


def test_an_error_stands_on_a_line_of_its_own(run, capsys, monkeypatch):
    assert fails(["generate", run, "-p", "x" * 400], capsys).startswith("error: the prompt has")

    def breaks(*_, **__):
        yield " and so"
        raise ValueError("no more")

    monkeypatch.setattr("llama_minimal.generation.stream", breaks)
    with pytest.raises(SystemExit):
        main(["generate", run, "-p", "hi"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("hi and so\n", "error: no more\n")


def test_chatting_until_an_empty_line(run, capsys, monkeypatch):
    lines = iter(["The statement", "x" * 500, "A class", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    main(["chat", run, "--max-new-tokens", "4"])
    printed = capsys.readouterr().out
    assert "The statement" in printed
    assert "shorten it" in printed  # the long line is refused, and the chat goes on
    assert "A class" in printed


def test_evaluating(run, capsys):
    """On the run's own validation text, in the same windows, it finds the loss that training reported."""
    main(["evaluate", run, "--seq-len", "32"])
    printed = capsys.readouterr().out
    assert "bits per byte" in printed
    loss = float(printed.split("nats per token")[1].split()[0])
    assert loss == pytest.approx(read_metrics(Path(run) / "metrics.jsonl")[-1]["validation_loss"], abs=1e-4)


def test_converting_there_and_back(run, tmp_path, capsys):
    main(["convert", run, str(tmp_path / "meta"), "--format", "meta", "--n-shards", "2"])
    main(["convert", str(tmp_path / "meta"), str(tmp_path / "native"), "--format", "native"])
    main(["convert", str(tmp_path / "native"), str(tmp_path / "hf"), "--max-shard-gb", "0.00002"])
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    capsys.readouterr()
    for folder in (run, tmp_path / "hf"):
        main(["generate", str(folder), "--prompt", "The", "--temperature", "0", "--max-new-tokens", "12"])
    texts = capsys.readouterr().out
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]


@pytest.mark.parametrize("name", ["llama-7b", "llama3.1-70b", "tiny"])
def test_info_of_a_preset(name, capsys):
    main(["info", name])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("embeddings", "feed-forward", "key/value cache", "AdamW"))
    if name == "llama-7b":
        assert "6,738,415,616" in printed


def test_info_of_a_folder_and_the_list_of_presets(run, capsys):
    main(["info", run])
    main(["info"])
    assert "llama-65b" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["run", "unfinished", "snapshot", "meta", "native"])
def test_info_accepts_every_folder_that_generate_accepts(run, tmp_path, capsys, place):
    folder = Path(run)
    if place in ("meta", "native"):
        folder = tmp_path / place
        main(["convert", run, str(folder), "--format", place])
    elif place == "unfinished":
        folder = tmp_path / "unfinished"
        shutil.copytree(run, folder)
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
    elif place == "snapshot":
        folder = sorted((folder / "snapshots").iterdir())[-1]
    capsys.readouterr()
    main(["generate", str(folder), "--max-new-tokens", "2"])
    main(["info", str(folder)])
    assert "1 layers, width 32" in capsys.readouterr().out


def test_info_of_a_model_on_the_hub_downloads_its_config_alone(run, tmp_path, capsys, monkeypatch):
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        shutil.copy(Path(run) / "config.json", tmp_path)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    main(["info", "some/model"])
    assert "1 layers, width 32" in capsys.readouterr().out
    assert asked == [("some/model", ["config.json"])]


@pytest.mark.parametrize("command", ["", "train", "generate", "chat", "evaluate", "convert", "info"])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as ending:
        main([*command.split(), "--help"])
    assert ending.value.code == 0
    assert "usage: llama-minimal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--nonsense", "3"], "--nonsense"),
        (["nonsense"], "nonsense"),
        ([*TRAIN, "--dim", "33"], "dim=33 is not divisible by n_heads=2"),
        ([*TRAIN, "--n-heads", "4", "--n-kv-heads", "3"], "n_kv_heads"),
        ([*TRAIN, "--preset", "llama-8b"], "known are llama-7b"),
        ([*TRAIN, "--corpus", "no/such/file.txt"], "no/such/file.txt"),
        ([*TRAIN, "--vocab-size", "10"], "vocab_size"),
        ([*TRAIN, "--lr", "-1"], "lr=-1"),
        ([*TRAIN, "--seq-len", "65"], "max_seq_len=64"),
        ([*TRAIN, "--precision", "fp8"], "fp8"),
        ([*TRAIN, "--validation-fraction", "2"], "validation_fraction=2"),
        (["generate", "no/such_folder"], "no/such_folder"),
        (["info", "llama-8b"], "unknown preset"),
    ],
)
def test_mistakes_are_explained(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = ["--out", tmp_path / "run"] if args[0] == "train" else []
    assert words in fails([*args, *out], capsys)


def test_mistakes_in_writing_are_explained(run, capsys):
    assert "shorten it" in fails(["generate", run, "--prompt", "x" * 400], capsys)
    assert "temperature" in fails(["generate", run, "--temperature", "-1"], capsys)
    assert "top_p=2.0" in fails(["generate", run, "--top-p", "2"], capsys)
    assert "float99" in fails(["generate", run, "--dtype", "float99"], capsys)
    assert "not empty" in fails(["convert", run, run], capsys)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "no text"), (b"caf\xe9 au lait" * 50, "UTF-8"), (b"Too short.", "tokens")]
)
def test_unusable_text_is_explained(content, words, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(content)
    assert words in fails([*TRAIN, "--corpus", tmp_path / "text.txt", "--out", tmp_path / "run"], capsys)


def test_a_folder_that_cannot_be_written_is_explained(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails([*TRAIN, "--out", tmp_path / "file" / "run"], capsys)


def test_too_little_disk_space_is_noticed_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert "1 kB free" in fails([*TRAIN, "--out", tmp_path / "run"], capsys)


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "llama_minimal", "info", "tiny"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ,
    )
    assert done.returncode == 0
    assert "250,432" in done.stdout


def test_an_adapter_speaks_and_can_be_merged(run, tmp_path, capsys):
    from llama_minimal.checkpoint import load, save_adapter
    from llama_minimal.lora import LoRAConfig, adapter_tensors, add_adapter

    model, _ = load(run)
    add_adapter(model, "loud", LoRAConfig(targets=("wq", "w2", "output")))
    for tensor in adapter_tensors(model, "loud").values():
        torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "loud")
    adapter = ["--adapter", str(tmp_path / "loud")]
    main(["convert", run, str(tmp_path / "merged"), *adapter])
    texts = []
    for arguments in ([run], [run, *adapter], [str(tmp_path / "merged")]):
        capsys.readouterr()
        main(["generate", *arguments, "--prompt", "The", "--temperature", "0", "--max-new-tokens", "12"])
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1] == texts[2]
    losses = []
    for arguments in ([], adapter):
        main(["evaluate", run, "--max-batches", "1", *arguments])
        losses.append(capsys.readouterr().out.split("nats per token")[1].split()[0])
    assert losses[0] != losses[1]
    assert "own adapters there are: none" in fails(["generate", run, "--adapter", "quiet"], capsys)
    assert "the course model alone" in fails(["evaluate", "course", *adapter], capsys)
