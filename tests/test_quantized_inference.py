"""Several processes share a model in few bits, and write what one writes: of the whole's codes each has its part."""

import json
import sys
from functools import cache
from pathlib import Path

import inference_worker
import launching
import numpy as np
import pytest
import quantized_worker
import torch
from tiny_models import draw_model

from llama_minimal.checkpoint import load, save, save_adapter
from llama_minimal.checkpoint.tensors import tensors_of
from llama_minimal.cli import main
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.quantization import Quantization, quantize

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on Linux and macOS")

BASE = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4}
POST = {"norm": "layer", "norm_placement": "post", "ffn": "relu", "position": "sinusoidal"}
SHAPES = {
    "grouped": {},
    "tied": {"tie_embeddings": True, "n_kv_heads": 8},
    "biased": {"bias": True} | POST,
    "shared": {"share_layers": 2, "n_layers": 4, "tie_embeddings": True},
}
LAYOUTS = [(n, layout) for n in (2, 4) for layout in quantized_worker.LAYOUTS[n]]
CASES = [(n, layout, *case) for n, layout in LAYOUTS for case in quantized_worker.CASES[n]]
EACH_CASE = pytest.mark.parametrize(
    ("n", "layout", "shape", "scheme"), CASES, ids=lambda value: str(value).replace(", ", "x")
)
EACH_LAYOUT = pytest.mark.parametrize(("n", "layout"), LAYOUTS, ids=lambda value: str(value).replace(", ", "x"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models on disk, as they are and in few bits; in float64, so that the order of sums does not matter."""
    folder = tmp_path_factory.mktemp("models")
    for i, (name, changes) in enumerate(SHAPES.items()):
        save(draw_model(seed=i, **(BASE | changes)).double(), folder / name)
        for scheme, how in quantized_worker.HOW.items():
            save(load(folder / name, quantize=how, dtype="float64")[0], folder / f"{name}-{scheme}")
    save(draw_model(seed=9, n_layers=1).double(), folder / "draft")
    large = {"dim": 128, "hidden_dim": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 512}
    save(draw_model(**large), folder / "large")
    save(quantize(draw_model(**large), "int8"), folder / "half")
    save(draw_model(dim=48, n_heads=4, hidden_dim=96, vocab_size=60), folder / "odd")
    return folder


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """Return a function: number of processes -> what each found, in their order; each number starts once."""

    @cache
    def run(n):
        out = tmp_path_factory.mktemp(f"processes-{n}")
        status, _, stderr, left = launching.run(Path(quantized_worker.__file__), folder, out, n=n, timeout=600)
        assert status == 0, stderr[-3000:]
        assert not left
        return [json.loads((out / f"{n}-{rank}.json").read_text()) for rank in range(n)]

    return run


@pytest.fixture(scope="module")
def alone(folder):
    """Return a function: shape and scheme -> what one process writes, with the model saved in few bits."""
    draft = load(folder / "draft", dtype="float64")[0]

    @cache
    def run(shape, scheme):
        return json.loads(json.dumps(quantized_worker.written(load(folder / f"{shape}-{scheme}")[0], draft)))

    return run


def of_layout(found, n, layout):
    return [process["x".join(map(str, layout))] for process in found(n)]


@EACH_CASE
def test_every_process_writes_what_one_alone_writes(found, alone, n, layout, shape, scheme):
    one = alone(shape, scheme)
    for process in of_layout(found, n, layout):
        several = process[f"{shape} {scheme}"]
        for kind in ("alone", "model", "lookup", "sampled", "cache", "kept"):
            assert several[kind] == one[kind], kind
        np.testing.assert_allclose(several["logits"], one["logits"], rtol=1e-9, atol=1e-9)
    assert one["alone"] == one["model"] == one["lookup"]
    assert any(map(sum, one["kept"])) or any(0 in row for row in one["kept"])  # the draft was asked


@EACH_LAYOUT
def test_each_process_holds_its_part_of_the_codes(found, folder, n, layout):
    for shape, scheme in quantized_worker.CASES[n]:
        model = load(folder / f"{shape}-{scheme}")[0]
        whole = sum(tensor.nbytes for tensor in tensors_of(model).values())
        table = sum(tensor.nbytes for name, tensor in tensors_of(model).items() if name.startswith("output."))
        parts = [process[f"{shape} {scheme}"]["bytes"] for process in of_layout(found, n, layout)]
        copies = table if layout[1] > 1 and SHAPES[shape].get("tie_embeddings") else 0  # of both ends of a pipeline
        assert whole <= sum(parts) < 1.1 * whole + copies
        assert max(parts) < 0.8 * whole


@EACH_LAYOUT
def test_loading_holds_this_processs_part_and_one_whole_matrix(found, folder, n, layout):
    model = load(folder / "large")[0]
    whole, largest = sum(p.nbytes for p in model.parameters()), max(p.nbytes for p in model.parameters())
    for process in of_layout(found, n, layout):
        memory = process["memory"]
        assert memory["kept"] < 0.6 * 0.28 * whole
        assert memory["peak"] < memory["kept"] + 6 * largest  # what is read, and rounding's own numbers
        assert memory["peak"] < 0.6 * whole


@EACH_LAYOUT
def test_in_16_bits_all_have_the_same_bits_and_are_as_good_as_one_process(found, folder, n, layout):
    model = load(folder / "half")[0]
    exact = load(folder / "half", dtype="float64")[0]
    for i, tokens in enumerate((torch.tensor([inference_worker.PROMPTS[1]]), torch.arange(128).view(8, 16))):
        several = [process["half"][i] for process in of_layout(found, n, layout)]
        assert all(other == several[0] for other in several)
        with torch.no_grad():
            wanted = exact(tokens)
            error = (model(tokens).double() - wanted).norm()
        assert (torch.tensor(several[0]).double() - wanted).norm() < 1.5 * error


@EACH_LAYOUT
def test_the_command_line_prints_what_one_process_prints(found, capsys, n, layout):
    flags = ["-p", "Once", "--temperature", "0", "--max-new-tokens", "24", "--dtype", "float32", "--device", "cpu"]
    expected = {}
    for scheme in ("int8", "int4"):
        main(["generate", "course", "--quantize", scheme, *flags])
        expected[scheme] = capsys.readouterr().out
    expected |= {"lookup": expected["int8"], "model": expected["int4"]}
    for name, one in expected.items():
        said = [process["commands"][name] for process in of_layout(found, n, layout)]
        assert [process["status"] for process in said] == [0] * n, said
        assert [process["out"] for process in said] == [one] + [""] * (n - 1)


@pytest.mark.parametrize("n", [2, 4])
def test_what_cannot_be_shared_is_refused_and_left_as_it_was(found, n):
    for process in found(n):
        refused = process["refusals"]
        for way in ("loaded", "split"):
            assert f"tensor={n} does not divide the 48 inputs of layers.0.attention.wo" in refused[way]
            assert "whole groups of 32" in refused[way]
            assert "can be split among 1 processes" in refused[way]
        assert "is quantized already (int8)" in refused["twice"]
        assert "'int3' is not one of" in refused["unknown"]
        assert "the draft has a vocabulary of 60 tokens and the model one of 61" in refused["draft"]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", quantized_worker.SCHEMES)
def test_a_model_rounded_while_it_is_loaded_is_the_one_that_is_rounded_then(tmp_path, scheme, tied):
    save(draw_model(tie_embeddings=tied, bias=True, share_layers=2), tmp_path / "model")
    for dtype in (None, "float32", "bfloat16"):
        once = load(tmp_path / "model", quantize=scheme, dtype=dtype)[0]
        then = quantize(load(tmp_path / "model", dtype=dtype)[0], scheme, dtype=dtype or "bfloat16")
        ours, theirs = once.state_dict(), then.state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            assert torch.equal(tensor, theirs[name]), name
        assert not any(parameter.requires_grad for parameter in once.parameters())
    save(once, tmp_path / "few")
    with pytest.raises(ValueError, match=f"few is quantized already \\({scheme}\\)"):
        load(tmp_path / "few", quantize=scheme)
    with pytest.raises(ValueError, match=r"in .*, row length=32 is not divisible by group_size=5"):
        load(tmp_path / "model", quantize=Quantization(scheme="int8", group_size=5))
    with pytest.raises(ValueError, match="no layer 'w9' to skip"):
        load(tmp_path / "model", quantize=Quantization(scheme=scheme, skip=("w9",)))


def test_an_adapter_comes_before_rounding(tmp_path):
    """It belongs to the weights as they were; so does its checksum."""
    model = draw_model()
    add_adapter(model, "one", LoRAConfig(rank=2))
    for layer in model.modules():
        if hasattr(layer, "adapters"):
            torch.nn.init.normal_(layer.adapters["one"].B, std=0.3)
    save_adapter(model, tmp_path / "one")
    save(draw_model(), tmp_path / "model")
    loaded = load(tmp_path / "model", quantize="int8", dtype="float32", adapter=tmp_path / "one")[0]
    quantize(model, "int8", dtype="float32")
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(tokens), model(tokens))
