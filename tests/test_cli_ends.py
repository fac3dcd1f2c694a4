"""How a command ends: values that cannot be, devices that are not there, readers that leave, odd encodings."""

import errno
import io
import os
import re
import subprocess
import sys

import pytest
import torch

from llama_minimal import __version__, load, save
from llama_minimal.cli import main
from llama_minimal.cli.console import ending_quietly, print_anything
from llama_minimal.finetuning import with_labels

COMMAND = [sys.executable, "-m", "llama_minimal"]


def refusal(args, capsys):
    """Run a command that must fail; return the one line that it says."""
    with pytest.raises(SystemExit) as ending:
        main(args)
    printed = capsys.readouterr()
    assert ending.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("error: ")
    return printed.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --batch-size 0", "batch_size=0"),
        ("train --micro-batch-size 0", "micro_batch_size=0"),
        ("train --seq-len -1", "seq_len=-1"),
        ("train --samples -1", "--samples -1"),
        ("train --steps 0", "steps=0"),
        ("train --seed -1", "seed=-1"),
        ("train --lr nan", "lr=nan"),
        ("train --clip-norm nan", "clip_norm=nan"),
        ("train --beta2 nan", "beta2=nan"),
        ("train --min-lr-ratio inf", "min_lr_ratio=inf"),
        ("generate course --temperature nan", "temperature=nan"),
        ("generate course --top-k 0", "top_k=0"),
        ("generate course --max-new-tokens 0", "--max-new-tokens 0"),
        ("generate course --seed 99999999999999999999", "18 digits"),
        ("chat course --top-p nan", "top_p=nan"),
        ("chat course --repetition-penalty inf", "repetition_penalty=inf"),
        ("evaluate course --corpus x --batch-size 0", "--batch-size 0"),
        ("evaluate course --corpus x --max-batches 0", "--max-batches 0"),
        ("evaluate course --corpus x --max-batches -3", "--max-batches -3"),
        ("evaluate course --corpus x --seq-len 0", "--seq-len 0"),
        ("convert course y --n-shards 0", "--n-shards 0"),
        ("convert course y --max-shard-gb 0", "--max-shard-gb 0"),
        ("convert course y --max-shard-gb nan", "--max-shard-gb nan"),
        ("convert course y --max-shard-gb inf", "--max-shard-gb inf"),
        ("corpus valley --out x.txt --stories 0", "--stories 0"),
        ("corpus valley --out x.txt --unkind nan", "unkind"),
        ("info tiny --context 0", "--context 0"),
    ],
)
def test_a_value_that_cannot_be_gets_one_plain_line(command, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(command.split(), capsys)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_a_file_in_the_place_of_a_folder_and_the_reverse(capsys, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "folder.txt").mkdir()
    corpus = ["corpus", "valley", "--stories", "1", "--overwrite", "--out", str(tmp_path / "folder.txt")]
    assert "folder.txt is a folder; give the name of a file" in refusal(corpus, capsys)
    assert "file.txt is a file; give a new folder" in refusal(["convert", "course", str(tmp_path / "file.txt")], capsys)
    assert (tmp_path / "file.txt").read_text() == "mine"
    (tmp_path / "a.gguf").touch()
    file = ["convert", "course", str(tmp_path / "a.gguf"), "--format", "gguf"]
    assert "a.gguf is a file; give a new file" in refusal(file, capsys)
    ending = ["convert", "course", str(tmp_path / "b.gguf")]
    assert "b.gguf ends as GGUF files do; add --format gguf" in refusal(ending, capsys)
    assert not (tmp_path / "b.gguf").exists()


def test_a_short_text_to_calibrate_on_is_told_of_and_info_says_in_how_many_bits_a_model_is(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("Hi")
    out = tmp_path / "int4"
    main([*f"convert course {out} --quantize int4 --method gptq --corpus".split(), str(tmp_path / "a.txt")])
    assert "--method gptq calibrates on 3 tokens where 16,384 were asked for" in capsys.readouterr().err
    main(["info", str(out)])
    size = (out / "model.safetensors").stat().st_size
    assert f"  weights, int4, as they are saved             {size / 1e6:.3g} MB\n" in capsys.readouterr().out
    main(["info", "course"])
    assert "as they are saved" not in capsys.readouterr().out


@pytest.fixture
def classifier(tmp_path):
    """The folder of a model that tells labels apart."""
    model, tokenizer = load("course")
    save(with_labels(model, ("bad", "good")), tmp_path / "labels", tokenizer)
    return tmp_path / "labels"


@pytest.mark.parametrize(
    "command",
    [
        "generate LABELS",
        "chat LABELS",
        "evaluate LABELS --corpus TEXT",
        "evaluate LABELS --application sentiment",
        "train --init-from LABELS --corpus TEXT --seq-len 16 --out run",
    ],
)
def test_a_model_that_writes_no_text_is_refused_at_the_start(command, classifier, capsys, tmp_path, monkeypatch):
    """Before a greeting, a measurement, or a folder for a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One line after another. " * 200)
    line = refusal(command.replace("LABELS", str(classifier)).replace("TEXT", "a.txt").split(), capsys)
    assert f"{classifier} tells labels apart (bad, good) and writes no text" in line
    assert {path.name for path in tmp_path.iterdir()} == {"labels", "a.txt"}


def test_a_closed_standard_input_gets_one_plain_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input, which is closed" in refusal(["generate", "course", "-p", "-"], capsys)


def test_a_byte_order_mark_is_no_part_of_a_piped_prompt(capsys, monkeypatch):
    """PowerShell puts one before what it pipes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffLila\r\n"))
    main(["generate", "course", "-p", "-", "--max-new-tokens", "1"])
    assert capsys.readouterr().out.startswith("Lila")


def test_a_warning_is_one_plain_line(tmp_path):
    """Where in the program it comes from is of no use to the user."""
    (tmp_path / "a.txt").write_text("One line after another. " * 200)
    args = (
        "train --corpus a.txt --document-separator *** --out run --steps 1 --warmup-steps 1 --batch-size 2 --seq-len 16"
    )
    command = [
        sys.executable,
        "-m",
        "llama_minimal",
        *args.split(),
        *"--preset tiny --vocab-size 280 --samples 0".split(),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    (line,) = (line for line in done.stderr.splitlines() if "***" in line)
    assert line == "warning: no line is '***', so every file is one document"
    assert "corpora.py" not in done.stderr


def test_flags_that_do_not_exist_are_still_explained_by_the_parser(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["generate", "course", "--temperature", "warm"])
    assert ending.value.code == 2
    assert "--temperature" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "vulkan", "", "cpu:x"])
@pytest.mark.parametrize("command", ["generate course", "chat course", "evaluate course --corpus x", "train --out run"])
def test_a_device_that_is_not_there_gets_one_plain_line(command, device, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal([*command.split(), "--device", device], capsys)
    assert f"device {device!r}" in line
    assert "this computer has" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "mps:0"])
def test_an_accelerator_that_is_not_there_gets_one_plain_line(device, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "this computer has cpu" in refusal(["generate", "course", "--device", device], capsys)


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"llama-minimal {__version__}\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
@pytest.mark.parametrize("command", ["--version", "--help", "info", "info llama-7b", "generate --help"])
def test_a_reader_that_left_is_no_error(command):
    """Standard output is a pipe that nobody reads from the beginning: the worst case of ``| head``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, *command.split()], stdout=writing, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
def test_a_reader_that_leaves_in_the_middle_is_no_error():
    process = subprocess.Popen(
        [*COMMAND, "generate", "course", "--max-new-tokens", "200"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.read(5)
        process.stdout.close()
        stderr = process.stderr.read()
        assert (process.wait(timeout=120), stderr) == (141, b"")
    finally:
        process.kill()
        process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")  # noqa: PTH110
def test_an_output_that_is_full_is_an_error_of_one_line():
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run([*COMMAND, "info"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: could not write: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["train --corpus a.txt --out", "convert course", "corpus valley --out"])
def test_a_place_that_cannot_be_written_to_is_named_with_what_to_do(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One line after another. " * 200)
    line = refusal([*command.split(), "a.txt/x.txt"], capsys)  # in a folder that is a file
    assert re.match(r"error: cannot use .*a\.txt.*: (Not a directory|File exists); give another path", line)
    assert "Errno" not in line


def test_windows_has_another_name_for_a_broken_pipe(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(SystemExit) as ending, ending_quietly():
        raise OSError(errno.EINVAL, "Invalid argument")
    assert ending.value.code == 141


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_letters_that_the_output_does_not_know_are_written_as_codes(encoding):
    script = "from llama_minimal.cli import main; import sys; main(sys.argv[1:])"
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    args = ["generate", "course", "-p", "有一天，", "--max-new-tokens", "3"]
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("ascii").startswith("\\u6709\\u4e00\\u5929")


def test_what_the_output_knows_is_written_as_it_is(monkeypatch):
    for encoding, text, written in [("utf-8", "有é", "有é"), ("latin-1", "有é", "\\u6709é")]:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        print_anything()
        print(text, end="", flush=True)
        assert stream.buffer.getvalue().decode(encoding) == written


def test_a_choice_of_the_user_stays(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="xmlcharrefreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    print_anything()
    assert stream.errors == "xmlcharrefreplace"


def test_an_interrupted_command_ends_with_the_status_of_an_interruption(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llama_minimal.cost.parameters", interrupted)
    with pytest.raises(SystemExit) as ending:
        main(["info", "tiny"])
    assert ending.value.code == 130
    assert capsys.readouterr().err.split() == ["stopped"]
