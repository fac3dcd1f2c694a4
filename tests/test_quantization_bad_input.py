"""Odd and damaged input around models in few bits is refused in words, and nothing is half done."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import draw_model

from llama_minimal.adaptive_computation import ModelDraft
from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.generation import generate
from llama_minimal.pruning import feature_scores, head_scores
from llama_minimal.quantization import Quantization, quantization_of, quantize

WEIGHT, SCALE = "layers.0.attention.wq.weight", "layers.0.attention.wq.scale"
TOKENS = torch.arange(32).view(2, 16)


def change(name, make):
    """Return what changes one tensor of a file."""
    return lambda tensors: tensors | {name: make(tensors[name])}


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change(SCALE, lambda x: torch.full_like(x, float("nan"))), "wq.scale holds NaN or infinity"),
        (change(SCALE, lambda x: x * 0), "wq.scale holds steps that are not above 0; the checkpoint is damaged"),
        (change(SCALE, lambda x: -x.abs()), "wq.scale holds steps that are not above 0"),
        (change(SCALE, lambda x: x[:, :-1].contiguous()), "wq.scale has shape"),
        (change(SCALE, lambda x: x.char()), "wq.scale is of torch.int8, but the config asks for torch.bfloat16"),
        (change(WEIGHT, lambda x: x.float()), "wq.weight is of torch.float32, but the config asks for torch"),
        (
            change(WEIGHT, lambda x: x.view([torch.uint8, torch.int8][x.dtype == torch.uint8])),
            "but the config asks for",
        ),
        (lambda tensors: {name: x for name, x in tensors.items() if name != SCALE}, f"lacks {SCALE}"),
    ],
)
def test_damaged_codes_and_grids_are_refused(tmp_path, scheme, damage, words):
    save(quantize(draw_model(), scheme), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(damage(load_file(path)), path)
    with pytest.raises(ValueError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("int8", "quantization='int8' must be an object, such as"),
        ([8], r"quantization=\[8\] must be an object"),
        ({}, "quantization lacks its scheme, such as 'int8'"),
        ({"scheme": "int3"}, "scheme='int3' is not one of 'int8', 'int4'"),
        ({"scheme": "int8", "bits": 8}, r"quantization has unknown fields \['bits'\]; known are \['scheme'"),
        ({"scheme": "fp8"}, "weight is of torch.int8, but the config asks for torch.uint8"),
    ],
)
def test_a_config_that_says_it_otherwise_is_refused(tmp_path, value, words):
    save(quantize(draw_model(n_layers=1), "int8"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization": value}))
    with pytest.raises(ValueError, match=words) as error:
        load(tmp_path)
    assert tmp_path.name in str(error.value)


def test_what_reads_weights_refuses_codes():
    model = quantize(draw_model(), "int8")
    for score in (head_scores, feature_scores):
        with pytest.raises(ValueError, match=r"of block 0 is a Int8Linear, .*; prune the model first"):
            score(model, [TOKENS])


def test_what_is_no_model_and_no_list_of_names_is_refused():
    with pytest.raises(ValueError, match="model is 'course', and must be a model"):
        quantize("course", "int8")
    with pytest.raises(ValueError, match="skip=None must be names of layers"):
        quantize(draw_model(), "int8", skip=None)
    with pytest.raises(ValueError, match="scheme=8 is not one of"):
        load("course", quantize=8)
    assert Quantization.from_dict(Quantization(scheme="int4", group_size=16).to_dict()).group_size == 16


def test_what_is_no_draft_is_refused_by_its_kind():
    model = draw_model()
    with pytest.raises(ValueError, match="draft is a tuple, and must be a Llama, a ModelDraft or a PromptLookup"):
        generate(model, None, [[1]], draft=(model, 4))
    with pytest.raises(ValueError, match="draft is 'prompt-lookup', and must be"):
        generate(model, None, [[1]], draft="prompt-lookup")
    with pytest.raises(ValueError, match="model is a NoneType, and must be a Llama"):
        ModelDraft(model=None)


def test_convert_keeps_few_bits_and_leaves_nothing_where_it_refuses(tmp_path, capsys):
    main(["convert", "course", str(tmp_path / "few"), "--quantize", "int8"])
    main(["convert", str(tmp_path / "few"), str(tmp_path / "wide"), "--dtype", "float32"])
    assert quantization_of(load(tmp_path / "wide")[0]).scheme == "int8"
    few, out = str(tmp_path / "few"), str(tmp_path / "out")
    for arguments, words in (
        (["convert", few, out, "--quantize", "int4"], "cannot quantize it once more"),
        (["convert", few, out, "--format", "huggingface"], "has no place for weights in int8"),
        (["convert", "course", out, "--quantize", "int8", "--format", "meta"], "has no place for weights in int8"),
        (["convert", "course", few, "--quantize", "int8"], "is not empty; give a new folder"),
        (["generate", few, "--quantize", "int8"], "is quantized already (int8); load it as it is"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert words in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()


def test_a_draft_that_is_in_few_bits_stays_so(tmp_path, capsys):
    save(quantize(load("course")[0], "int8"), tmp_path / "few", load("course")[1])
    flags = ["-p", "Once", "--temperature", "0", "--max-new-tokens", "8", "--quantize", "int4", "--dtype", "float32"]
    main(["generate", "course", *flags])
    alone = capsys.readouterr().out
    main(["generate", "course", *flags, "--draft", str(tmp_path / "few")])
    assert capsys.readouterr().out == alone


def test_codes_are_not_tuned_and_nothing_is_written(tmp_path, capsys):
    """An adapter beside them can be trained in Python; the commands end with weights that it was merged into."""
    few, out = tmp_path / "few", tmp_path / "out"
    save(quantize(load("course")[0], "int8"), few, load("course")[1])
    examples = [{"prompt": f"{i} and one?", "completion": f"It is {i + 1}."} for i in range(40)]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    for arguments, words in (
        (["finetune", tmp_path / "examples.jsonl", "--base", few, "--out", out], f"cannot tune {few}"),
        (["train", "--init-from", few, "--corpus", tmp_path / "examples.jsonl", "--out", out], "cannot begin with"),
    ):
        with pytest.raises(SystemExit):
            main(list(map(str, arguments)))
        error = " ".join(capsys.readouterr().err.split())
        assert words in error
        assert "the model is quantized (int8); load the original" in error
        assert not out.exists()


def test_a_group_that_is_named_divides_the_rows_of_every_layer():
    model = draw_model(dim=32, n_heads=2, n_kv_heads=1, hidden_dim=48)  # rows of 32 and of 48
    with pytest.raises(ValueError, match="row length=48 is not divisible by group_size=32; use 4, 8, 16, or leave it"):
        quantize(model, "int4", group_size=32)
    assert quantize(model, "int4", group_size=16)


def test_one_layer_is_no_model():
    layer = torch.nn.Linear(4, 4)
    with pytest.raises(ValueError, match="this is one layer; give the model"):
        quantize(layer, "int8")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibration_is_tensors(method):
    ids = torch.zeros(1, 8, dtype=torch.long).numpy()
    with pytest.raises(ValueError, match="a ndarray in it; give tensors"):
        quantize(draw_model(), "int4", method=method, calibration=ids)
