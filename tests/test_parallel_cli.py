"""The command line under torchrun: one speaks for all, one error ends all, one Ctrl-C stops all, a lost one returns.

The processes that torchrun starts have sessions of their own; ``launching`` finds them by a mark and leaves none.
"""

import sys
import time

import numpy as np
import pytest
import torch
from launching import TESTS, run

from llama_minimal import cost
from llama_minimal.checkpoint import load
from llama_minimal.cli import main
from llama_minimal.cli.console import human
from llama_minimal.cli.train import Train
from llama_minimal.cli.train_checks import as_flags, check_machine, config_of
from llama_minimal.metrics import read_metrics
from llama_minimal.parallel import Mesh
from llama_minimal.run_folder import has_model
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import snapshots

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed by /proc")

FLAGS = (
    "--corpus python-docs --vocab-size 300 --dim 32 --n-layers 2 --n-heads 4 --n-kv-heads 2 --seq-len 32 "
    "--batch-size 8 --steps 6 --warmup-steps 2 --validate-every 6 --snapshot-every 2 --samples 1 --device cpu"
).split()


def train(folder, what, *flags, rank=0, step=3, **options):
    """Run torchrun … train; ``what`` happens to one process when it begins a step."""
    folder.mkdir(exist_ok=True)
    command = [TESTS / "failing_worker.py", folder, what, rank, step, "train", "--out", folder / "run", *flags]
    return run(*command, **options)


def statuses(folder):
    return {path.name: int(path.read_text()) for path in folder.glob("status-*")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    main(["train", "--out", str(folder), *FLAGS])
    return folder


def is_as_unbroken(run, unbroken):
    """Whether a run has the losses of the unbroken one, and its whole model at the end."""
    metrics, expected = (read_metrics(folder / "metrics.jsonl") for folder in (run, unbroken))
    assert [m["step"] for m in metrics] == [m["step"] for m in expected]
    np.testing.assert_allclose([m["loss"] for m in metrics], [m["loss"] for m in expected], rtol=1e-5)
    assert metrics[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], rel=1e-5)
    (model, tokenizer), (other, _) = load(run), load(unbroken)
    assert tokenizer is not None
    for (name, p), (other_name, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
    return True


def test_one_interrupt_stops_all_after_the_step_and_another_layout_goes_on(tmp_path, unbroken):
    """Ctrl-C as a terminal sends it: to torchrun's whole group. Then four processes finish the run that two began."""
    status, stdout, stderr, left = train(tmp_path, "interrupt", *FLAGS, "--shard")
    assert (status != 0, left) == (True, []), stderr
    assert statuses(tmp_path) == {"status-0-0": 130, "status-0-1": 130}
    assert stderr.count("stopping after this step") == 1
    done = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert 3 <= done < 6
    assert snapshots(tmp_path / "run" / "snapshots")[-1].name == f"step-{done:08d}"
    assert f"torchrun --nproc-per-node 2 -m llama_minimal train --out {tmp_path / 'run'} --resume" in stdout

    layout = "--tensor 2 --pipeline 2 --balance 1 1 --pipeline-schedule gpipe --activation-checkpointing".split()
    status, stdout, stderr, left = train(tmp_path, "nothing", "--resume", *layout, n=4, rank=9)
    assert (status, left) == (0, []), stderr
    n = sum(cost.parameters(load(unbroken)[0].config).values())
    assert f"{human(n)} parameters" in stdout  # of the whole model
    assert "on cpu, 4 process(es): tensor 2 × pipeline 2" in stdout
    for once in ("resumed at step", " parameters, ", "validation loss (nats", "--- sample 1 ---", "saved in"):
        assert stdout.count(once) == 1
    assert "UserWarning" not in stderr
    assert is_as_unbroken(tmp_path / "run", unbroken)


def test_a_signal_to_torchrun_alone_stops_all(tmp_path):
    """As a cluster's scheduler sends it."""
    status, stdout, stderr, left = train(tmp_path, "terminate", *FLAGS, "--pipeline", "2", rank=1)
    assert (status != 0, left) == (True, []), stderr
    assert statuses(tmp_path) == {"status-0-0": 143, "status-0-1": 143}
    assert "and saved; go on with" in stdout
    done = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert snapshots(tmp_path / "run" / "snapshots")[-1].name == f"step-{done:08d}"


def test_a_killed_process_comes_back_from_its_snapshot(tmp_path, unbroken):
    """Also a run that deleted another one first, and must not delete itself when it begins once more."""
    train_other = ["train", "--out", str(tmp_path / "run"), *FLAGS, "--steps", "2", "--lr", "1e-4"]
    main(train_other)
    status, stdout, stderr, left = train(
        tmp_path, "kill", *FLAGS, "--tensor", "2", "--overwrite", rank=1, step=4, restarts=1
    )
    assert (status, left) == (0, []), stderr
    found = statuses(tmp_path)
    survivor = found.pop("status-0-0", None)  # None: torchrun ended it before it could end by itself
    assert (found, survivor in (1, None)) == ({"status-1-0": 0, "status-1-1": 0}, True)
    assert stdout.count("resumed at step 2 of 6") == 1
    assert stderr.count("error: another process of this run has ended") in ((1,) if survivor else (0, 1))
    assert is_as_unbroken(tmp_path / "run", unbroken)


@pytest.mark.parametrize("what", ["raise", "raise beside a deaf one"])
def test_an_error_of_one_process_ends_all(tmp_path, what):
    status, _, stderr, left = train(tmp_path, what, *FLAGS, "--tensor", "2", rank=1)
    seconds = time.time() - float((tmp_path / "happened").read_text())
    assert (status != 0, left) == (True, [])
    assert seconds < 30
    assert stderr.count("RuntimeError: broken on purpose") == 1
    assert "gloo" not in stderr  # what the others found then is no news
    assert not has_model(tmp_path / "run")


def test_what_all_find_wrong_is_said_once_and_nothing_is_written(tmp_path):
    status, _, stderr, left = train(tmp_path, "nothing", *FLAGS, "--tensr", "2")
    assert (status != 0, left) == (True, [])
    assert stderr.count("Unrecognized options: --tensr") == 1, stderr
    assert not (tmp_path / "run").exists()


class FakeMesh(Mesh):
    """Processes that are not there: for what is refused before any of them computes."""

    def size_of(self, dimension):
        return {"data": 1, "tensor": 1, "pipeline": 1, **self.sizes}[dimension]


@pytest.mark.parametrize(
    ("sizes", "values", "words"),
    [
        ({"tensor": 2}, {"optimizer": "muon"}, "--optimizer muon needs whole matrices"),
        ({"pipeline": 2}, {"precision": "fp16"}, "give --precision bf16"),
        ({"tensor": 3}, {}, "--tensor 3 does not divide --n-kv-heads"),
        ({"tensor": 2}, {"seq_len": 33}, "33 tokens of a sequence cannot be shared by --tensor 2 processes"),
        ({"pipeline": 9}, {}, "--pipeline 9 needs a layer for each stage"),
        ({"pipeline": 2}, {"balance": (3, 9)}, "--balance 3 9 must be 2 numbers of layers"),
        ({"pipeline": 2}, {"batch_size": 4, "micro_batch_size": 4}, "or --pipeline-schedule gpipe"),
        ({"pipeline": 2}, {"batch_size": 4, "micro_batch_size": 4}, "give --micro-batch-size 2 or less"),
        ({"data": 3}, {}, "--batch-size 16 cannot be shared by 3 processes"),
    ],
)
def test_layouts_that_cannot_work_are_refused_in_the_words_of_the_command_line(sizes, values, words):
    mesh = type("Fake", (FakeMesh,), {"sizes": sizes})(device=torch.device("cpu"), size=np.prod(list(sizes.values())))
    command = Train(train=TrainConfig(**values), preset="tiny")
    with pytest.raises(ValueError, match="--") as refused:
        check_machine(command, config_of(command), mesh)
    assert words in str(refused.value)


def test_only_names_with_a_value_become_flags():
    with pytest.raises(ValueError, match="--") as refused, as_flags():
        raise ValueError("tensor=3 and seq_len, pipeline_schedule='gpipe' and balance=(2, 1); other=3, kv_tensor=2")
    assert str(refused.value) == (
        "--tensor 3 and seq_len, --pipeline-schedule gpipe and --balance 2 1; other=3, kv_tensor=2"
    )
