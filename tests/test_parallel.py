"""Several real processes give what one gives."""

import os
import subprocess
import sys

import numpy as np
import pytest

from llama_minimal.metrics import read_metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")

FLAGS = (
    "--corpus python-docs --vocab-size 300 --dim 32 --n-layers 2 --n-heads 4 --n-kv-heads 2 --seq-len 32 "
    "--batch-size 8 --steps 6 --warmup-steps 2 --validate-every 6 --snapshot-every 3 --samples 0"
).split()


def train(out, *flags, n_processes=1):
    launcher = [sys.executable, "-m"]
    if n_processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", "-m"]
    command = [*launcher, "llama_minimal", "train", "--out", str(out), *FLAGS, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
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
