"""Runs that end before their time: killed at any moment, stopped with Ctrl-C, short of disk space."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from llama_minimal.metrics import read_metrics
from llama_minimal.snapshot import snapshots

# Forks children that train with a snapshot at every step and report each file they touch; kills each after a random
# number of reports, wherever it is by then, and goes on from what it left.
KILL_LOOP = """
import os, random, signal, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)  # no threads before a fork
from llama_minimal.config import LlamaConfig
from llama_minimal.model import build
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

out, n_kills = Path(sys.argv[1]), int(sys.argv[2])
config = LlamaConfig(dim=32, n_layers=2, n_heads=2, vocab_size=50, max_seq_len=16)
recipe = TrainConfig(steps=400, batch_size=2, seq_len=8, warmup_steps=5, snapshot_every=1, keep_snapshots=2)
tokens = np.random.default_rng(0).integers(0, 50, 500)

def trainer(out):
    return Trainer(build(config), tokens, recipe, out=out)

def train(reports):
    def report(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(out) in str(arguments):
            os.write(reports, b".")
    sys.addaudithook(report)
    run = trainer(out)
    run.resume()
    for _ in run.run():
        pass

random.seed(int(sys.argv[3]))
progress = [0]
for _ in range(n_kills):
    reports, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        train(write_end)
        os._exit(0)
    os.close(write_end)
    for _ in range(random.randrange(1, 60)):
        assert os.read(reports, 1), "the child ended by itself"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reports)
    run = trainer(out)
    run.resume()  # must always work
    progress.append(run.step)
assert progress == sorted(progress), progress
unbroken = trainer(None)
for metrics in unbroken.run():
    if metrics["step"] == progress[-1]:
        break
same = all(torch.equal(a, b) for a, b in zip(run.model.parameters(), unbroken.model.parameters()))
print(f"killed {n_kills} times, reached step {progress[-1]}, identical: {same}")
"""


def test_a_run_killed_at_many_random_moments_goes_on_as_if_nothing_had_happened(tmp_path):
    command = [sys.executable, "-c", KILL_LOOP, str(tmp_path), "25", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("killed 25 times, reached step ")
    assert done.stdout.endswith("identical: True\n")
    reached = int(done.stdout.split("step ")[1].split(",")[0])
    assert reached > 10  # the kills hit work, not only the start


def train_command(out, *flags):
    small = "--vocab-size 300 --dim 32 --n-layers 1 --n-heads 2 --seq-len 32 --batch-size 4 --samples 0".split()
    return [sys.executable, "-m", "llama_minimal", "train", "--out", str(out), *small, *flags]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_says_how_to_go_on(tmp_path, number):
    out = tmp_path / "run"
    process = subprocess.Popen(
        train_command(out, "--steps", "100000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 600
        while len(read_metrics(out / "metrics.jsonl")) < 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 128 + number, stderr  # as a shell reports it
    assert f"train --out {out} --resume" in stdout
    assert "Traceback" not in stderr
    (snapshot,) = snapshots(out / "snapshots")
    step = json.loads((snapshot / "trainer.json").read_text())["step"]
    assert len(read_metrics(out / "metrics.jsonl")) == step


def test_a_full_disk_ends_a_run_with_a_clear_error_and_keeps_the_last_snapshot(tmp_path):
    """A limit on the size of files stands in for a disk that fills up: no optimizer state gets written whole."""
    script = textwrap.dedent("""
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = 7 * 10**5
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from llama_minimal.cli import main
        main(sys.argv[1:])
    """)
    out = tmp_path / "run"
    command = train_command(out, "--steps", "4", "--warmup-steps", "1", "--snapshot-every", "2", "--dim", "64")
    done = subprocess.run([sys.executable, "-c", script, *command[3:]], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2, done.stderr
    assert "error: could not write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((out / "snapshots").iterdir())  # nothing half-written


def test_killing_the_writer_of_a_file_leaves_the_old_content(tmp_path):
    """A child rewrites one file over and over; wherever it is killed, the file is one of its versions, whole."""
    path = tmp_path / "file"
    path.write_text("0" * 100_000)
    rng = random.Random(0)
    for _ in range(20):
        reports, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            from llama_minimal.files import replace_file

            sys.addaudithook(lambda *_, end=write_end: os.write(end, b"."))  # before each call that opens or renames
            for i in range(10_000):
                replace_file(path, str(i % 10).encode() * 100_000)
            os._exit(0)
        os.close(write_end)
        for _ in range(rng.randrange(1, 100)):
            assert os.read(reports, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reports)
        text = path.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1


MOVES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def test_an_update_that_is_killed_at_any_moment_loses_nothing(tmp_path):
    """A child saves two sets of files in turn; wherever it is killed, the next update finds one of them whole."""
    from llama_minimal.files import update_folder

    def put(i):
        with update_folder(tmp_path, last="config.json", obsolete=["*.txt"]) as path:
            for name in ("config.json", "a.txt", f"{i % 2}.txt"):
                (path / name).write_text(str(i))

    rng = random.Random(0)
    put(0)
    for _ in range(40):
        reports, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            sys.addaudithook(lambda event, _, end=write_end: os.write(end, b".") if event in MOVES else None)
            for i in range(10_000):
                put(i)
            os._exit(0)
        os.close(write_end)
        for _ in range(rng.randrange(1, 80)):
            assert os.read(reports, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reports)
        with pytest.raises(ZeroDivisionError), update_folder(tmp_path, last="config.json"):
            raise ZeroDivisionError
        found = {path.name: path.read_text() for path in tmp_path.iterdir()}
        i = int(found["config.json"])
        assert found == dict.fromkeys(("config.json", "a.txt", f"{i % 2}.txt"), str(i))
