"""Every box of processes trains to the loss curve, and to the parameters, of one process."""

import json
import sys
from functools import cache
from pathlib import Path

import launching
import numpy as np
import parallel_worker
import pytest
import torch
from safetensors.torch import load_file

from llama_minimal.parallel import Mesh

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")

WORKER = Path(parallel_worker.__file__)
SHAPES_OF = {
    2: ["llama", "tied and shared", "one layer", "transformer", "packed"],
    4: ["one layer", "tied and shared"],
    8: ["two layers", "four layers", "eight layers"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function: number of processes -> curves and folder; each number starts once."""

    @cache
    def run(n):
        out = tmp_path_factory.mktemp(f"processes-{n}")
        status, _, error, _ = launching.run(WORKER, out, *SHAPES_OF[n], n=n, timeout=900)
        assert status == 0, error[-3000:]
        return json.loads((out / "curves.json").read_text()), out

    return run


@cache
def one_process(shape, **changes):
    mesh = Mesh(device=torch.device("cpu"))
    trainer, metrics = parallel_worker.train(mesh, parallel_worker.SHAPES[shape], **changes)
    return metrics, {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}


KEYS = [(n, key) for n, shapes in SHAPES_OF.items() for key in parallel_worker.keys(n, shapes)]


@pytest.mark.parametrize(("n", "key"), [(n, key) for n, key in KEYS if "bf16" not in key])
def test_a_layout_trains_as_one_process_does(trained, n, key):
    """Only the order of sums differs: losses within 1e-5 at each step, parameters within 1e-4 at the end."""
    curves, folder = trained(n)
    metrics, parameters = one_process(key.split(": ")[0], **parallel_worker.steps_of(n))
    for name, rtol in (("loss", 1e-5), ("grad_norm", 1e-4)):
        np.testing.assert_allclose([m[name] for m in curves[key]], [m[name] for m in metrics], rtol=rtol)
    assert curves[key][-1]["validation_loss"] == pytest.approx(metrics[-1]["validation_loss"], rel=1e-5)
    found = load_file(folder / f"{key}.safetensors")
    assert found.keys() == parameters.keys()
    for name, expected in parameters.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("n", "key"), [(n, key) for n, key in KEYS if "bf16" in key])
def test_a_sharded_run_in_bf16_stays_near_one_process_in_bf16(trained, n, key):
    """The policy rounds parameters before they travel, where autocast rounds them before they multiply."""
    curves, _ = trained(n)
    metrics, _ = one_process(key.split(": ")[0], precision="bf16", **parallel_worker.steps_of(n))
    np.testing.assert_allclose([m["loss"] for m in curves[key]], [m["loss"] for m in metrics], rtol=2e-3)
