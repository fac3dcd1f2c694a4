"""Several real processes give what one gives."""

import os
import shutil
import subprocess
import sys

import launching
import numpy as np
import pytest

from llama_minimal.cli import main
from llama_minimal.metrics import read_metrics
from llama_minimal.snapshot import snapshots

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")

FLAGS = (
    "--corpus python-docs --vocab-size 300 --dim 32 --n-layers 2 --n-heads 4 --n-kv-heads 2 --seq-len 32 "
    "--batch-size 8 --steps 6 --warmup-steps 2 --validate-every 6 --snapshot-every 3 --samples 0"
).split()


def launch(out, *flags, n_processes=1):
    command = ["-m", "llama_minimal", "train", "--out", out, *flags]
    if n_processes > 1:
        status, stdout, stderr, left = launching.run(*command, n=n_processes)
        assert not left
        return subprocess.CompletedProcess(command, status, stdout, stderr)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, timeout=launching.LIMIT, env=environment)


def train(out, *flags, n_processes=1):
    done = launch(out, *FLAGS, *flags, n_processes=n_processes)
    assert done.returncode == 0, done.stderr
    return read_metrics(out / "metrics.jsonl"), done.stdout


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    """With and without accumulation: the sums are the same but for the order of their terms."""
    one, _ = train(tmp_path / "one")
    two, stdout = train(tmp_path / "two", "--micro-batch-size", "2", n_processes=2)
    assert "2 process(es)" in stdout
    assert stdout.count("parameters,") == 1  # only the first process speaks
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose([m[key] for m in two], [m[key] for m in one], rtol=2e-5)
    assert two[-1]["validation_loss"] == pytest.approx(one[-1]["validation_loss"], rel=2e-5)


def test_two_processes_begin_with_a_models_weights_stop_early_and_go_on(tmp_path):
    """As one process does: the same losses, the same best step, the same end, whether or not it was cut."""
    train(tmp_path / "start")
    flags = "--corpus python-docs --seq-len 32 --batch-size 8 --warmup-steps 4 --lr 1 --samples 0".split()
    flags += f"--validate-every 1 --snapshot-every 1 --patience 2 --init-from {tmp_path / 'start'}".split()
    main(["train", "--out", str(tmp_path / "one"), *flags, "--steps", "40"])
    done = launch(tmp_path / "two", *flags, "--steps", "40", n_processes=2)
    assert done.returncode == 0, done.stderr
    assert "no lower validation loss in 2 validations" in done.stdout
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [m["step"] for m in two] == [m["step"] for m in one]
    np.testing.assert_allclose([m["loss"] for m in two][:3], [m["loss"] for m in one][:3], rtol=2e-4)
    for path in snapshots(tmp_path / "two" / "snapshots")[-1:]:
        shutil.rmtree(path)
    done = launch(tmp_path / "two", "--resume", "--samples", "0", n_processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed at step") == 1
    again = read_metrics(tmp_path / "two" / "metrics.jsonl")
    assert [(m["step"], m["loss"]) for m in again] == [(m["step"], m["loss"]) for m in two]


def test_what_one_of_two_processes_finds_wrong_ends_both_and_leaves_nothing(tmp_path):
    done = launch(tmp_path / "run", *FLAGS, "--corpus", "no/such/file.txt", n_processes=2)
    assert done.returncode != 0
    assert done.stderr.count("error: there is no file or folder no/such/file.txt") == 1
    assert not (tmp_path / "run").exists()
    done = launch(tmp_path / "run", *FLAGS, "--batch-size", "3", n_processes=2)
    assert done.stderr.count("error: --batch-size 3 cannot be shared by 2 processes") == 1
    assert not (tmp_path / "run").exists()
