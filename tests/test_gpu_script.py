"""benchmarks/gpu.py: every path of it runs on a CPU, and what does not hold is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_every_part_runs_on_a_cpu(tmp_path):
    """Compiled paths run as they are, for the compiler takes a minute; others' tests compile them."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, BENCHMARKS / "gpu.py", "--toy", "--device", "cpu", "--out", out]
    done = subprocess.run(
        command, env=os.environ | {"TORCHDYNAMO_DISABLE": "1"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(out.read_text())
    assert len(kept["parity"]) >= 25
    assert all(row["holds"] for row in kept["parity"].values() if isinstance(row, dict))
    assert kept["meta"]["llama-65b"]["parameters"] == 65_285_660_672
    for part, share in (("decode", "share_of_bandwidth"), ("training", "mfu")):
        rows = [row for row in kept[part].values() if isinstance(row, dict)]
        assert rows
        assert all(0 < row[share] < 1 for row in rows)


def test_what_does_not_hold_is_named(gpu):
    results = {
        "limits": {"error": "not done after 30 s"},
        "parity": {"text": {"far": 3.0, "allowed": 0, "holds": False}, "logits": {"holds": True}, "seconds": 1.0},
        "meta": {"tiny": {"parameters": 1, "holds": True}},
    }
    assert gpu.failures(results) == ["limits", "parity: text"]


def test_a_path_that_raises_leaves_the_others(gpu, monkeypatch):
    def broken(device):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "PARITY", {"broken": broken, "whole": lambda device: (0.0, 0.0)})
    figures = gpu.parity("cpu", True)
    assert figures["broken"] == {"error": "RuntimeError: no such kernel", "holds": False}
    assert figures["whole"]["holds"]


def test_a_wrong_device_is_seen(gpu, monkeypatch):
    """A model that computes something else once it is on the device is further from the CPU than it may be."""
    import gpu_parity

    plain = gpu_parity.Llama.to

    def spoiled(model, place):
        with gpu_parity.torch.no_grad():
            model.output.weight *= 1.01 if isinstance(place, gpu_parity.torch.device) else 1.0
        return plain(model, place)

    monkeypatch.setattr(gpu_parity.Llama, "to", spoiled)
    far, allowed = gpu_parity.PARITY["logits, float32"](gpu_parity.torch.device("cpu"))
    assert far > allowed


def test_without_a_gpu_it_says_what_to_do():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "--toy runs every path on the CPU" in done.stderr
