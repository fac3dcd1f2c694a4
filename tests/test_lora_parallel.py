"""An adapter trains by several processes as by one; where it could not, it is refused."""

import json
import sys

import launching
import lora_worker
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama_minimal.parallel import Mesh

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("lora")
    status, _, error, _ = launching.run(lora_worker.__file__, out)
    assert status == 0, error[-3000:]
    return json.loads((out / "curves.json").read_text()), out


@pytest.mark.parametrize("layout", lora_worker.LAYOUTS)
def test_a_layout_trains_an_adapter_as_one_process_does(trained, layout):
    curves, folder = trained
    trainer, losses = lora_worker.train(Mesh(device=torch.device("cpu")))
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(curves[layout], losses, rtol=1e-5)
    found = load_file(folder / f"{layout}.safetensors")
    parameters = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    assert found.keys() == parameters.keys()
    for name, expected in parameters.items():
        # The base stays, to the bit; of the adapter only the order of sums differs.
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-3 if "adapters" in name else 0)


def test_tensor_parallelism_is_refused(trained):
    assert (
        "cannot split the matrices of a model with adapters (one); merge_and_unload them first" in trained[0]["tensor"]
    )
