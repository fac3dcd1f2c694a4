"""Damaged, foreign and malicious checkpoints: each is refused with a message that helps, and nothing in it is run."""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import draw_model
from torch.nn.utils import parametrize, prune

from llama_minimal.checkpoint import load, save
from llama_minimal.tokenizer import load_tokenizer

SIZES = {"vocab_size": 64, "n_kv_heads": 2}
INDEX = "model.safetensors.index.json"
WQ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(make_model, tmp_path_factory):
    """One model in every format."""
    folder = tmp_path_factory.mktemp("saved")
    model = make_model(**SIZES)
    save(model, folder / "huggingface")
    save(model, folder / "sharded", max_shard_bytes=12_000)
    save(model, folder / "native", format="native")
    save(model, folder / "meta", format="meta")
    save(model, folder / "meta-2", format="meta", n_shards=2)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """``copy(name)`` is a copy of one of the folders, to damage."""
    return lambda name: shutil.copytree(saved / name, tmp_path / name)


def refused(folder, *says) -> str:
    """Loading must fail with a message that says all of this; return the message."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(folder)
    message = str(error.value)
    for words in says:
        assert words in message
    return message


def try_to_load(folder):
    """Return the model; or None, if loading fails with a message that names the folder."""
    try:
        return load(folder)[0]
    except ValueError as error:
        assert str(folder) in str(error)  # noqa: PT017 - a model is as good an outcome
        return None


def edit(path, change) -> None:
    """Apply ``change`` to what a file of JSON, safetensors or PyTorch holds."""
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    elif path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    else:
        torch.save(change(torch.load(path, weights_only=True)), path)


# ------------------------------------------------------------------ no model there


@pytest.mark.parametrize("path", ["./nope", "nope", "nope/", "../nope/nope", "/nope/nope", "a/b/c", "~/nope"])
def test_a_missing_folder_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=path.strip("./~")) as error:
        load(path)
    assert "give a folder" in str(error.value)


def test_a_file_or_an_empty_folder_is_no_model(copy, tmp_path):
    folder = copy("native")
    refused(folder / "model.safetensors", "model.safetensors is a file", "give the folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", str(tmp_path / "empty"), "config.json", "params.json")


def test_a_hub_id_without_network_or_library_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("it asked the network"))
    refused("nobody/no-such-model", "no folder nobody/no-such-model", "the hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"llama_minimal\[hub\]"):
        load("nobody/no-such-model")


@pytest.mark.parametrize("kind", ["huggingface", "pickled", "meta"])
def test_of_a_hub_model_pickled_weights_are_downloaded_only_if_there_are_no_others(copy, tmp_path, monkeypatch, kind):
    """What may run code elsewhere, such as training_args.bin, is never asked for; nor is what stands in subfolders."""
    repository, local, asked = copy("meta" if kind == "meta" else "huggingface"), tmp_path / "cache", []
    if kind == "pickled":
        torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
        (repository / "model.safetensors").unlink()
    (repository / "original").mkdir()
    for name in ("training_args.bin", "modeling.py", "original/consolidated.00.pth", "original/pytorch_model.bin"):
        (repository / name).write_text("")
    if kind == "huggingface":
        (repository / "pytorch_model.bin").write_text("")

    def download(name, allow_patterns):
        assert name == "some/model"
        files = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
        for file in sorted(filter_repo_objects(files, allow_patterns=allow_patterns)):
            asked.append(file)
            (local / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / file, local / file)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("some/model")[0].config.vocab_size == 64
    weights = {"huggingface": "model.safetensors", "pickled": "pytorch_model.bin", "meta": "consolidated.00.pth"}
    assert {name for name in asked if not name.endswith((".json", "tokenizer.model"))} == {weights[kind]}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 12345\n"


@pytest.mark.parametrize(
    "file",
    ["huggingface/model.safetensors", "huggingface/pytorch_model.bin", "huggingface/tokenizer.json"]
    + ["sharded/model-00002-of-00002.safetensors", "meta/consolidated.00.pth", "meta/tokenizer.model"],
)
def test_a_pointer_that_git_left_in_a_files_place_is_named_for_what_it_is(copy, file):
    folder = copy(file.split("/")[0])
    (folder.parent / file).write_text(POINTER)
    refused(folder, file, "Git LFS", "git lfs pull")
    if "tokenizer" in file:
        with pytest.raises(ValueError, match="git lfs pull"):
            load_tokenizer(folder)


# ------------------------------------------------------------------ wrong configs

LONGROPE = {"rope_type": "longrope", "factor": 2.0, "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gpt2"}, ["'gpt2'", "only 'llama'"]),
        ({"model_type": None}, ["only 'llama'"]),
        ({"hidden_size": None, "vocab_size": None}, ["lacks hidden_size, vocab_size"]),
        ({"hidden_size": "32"}, ["'32'", "whole number"]),
        ({"num_attention_heads": 5, "head_dim": None}, ["not divisible by n_heads=5", "use n_heads 2, 4 or 8"]),
        ({"num_key_value_heads": 3}, ["n_kv_heads=3", "use n_kv_heads 1, 2 or 4"]),
        ({"head_dim": 7}, ["head_dim=7", "odd width of 7"]),
        ({"hidden_act": "gelu"}, ["hidden_act='gelu'", "'silu'"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config={'bits': 4}"]),
        ({"rope_scaling": LONGROPE}, ["'longrope'", "'default', 'linear', 'dynamic', 'llama3' and 'yarn'"]),
        ({"rope_parameters": LONGROPE}, ["'longrope'", "'default', 'linear', 'dynamic', 'llama3' and 'yarn'"]),
        ({"rope_scaling": {"type": "dynamic"}}, ["lacks 'factor'"]),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": -1}}, ["attention_factor=-1"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, ["whole heads"]),
        ({"rope_scaling": {"type": "linear"}}, ["lacks 'factor'"]),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, ["lacks 'low_freq_factor'"]),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, ["rope_scaling.factor='2'"]),
        ({"rope_scaling": "linear"}, ["should be an object, not 'linear'"]),
        ({"rope_parameters": [1]}, ["should be an object, not [1]"]),
        ({"rope_theta": "big"}, ["'big'"]),
        ({"rope_theta": -1}, ["rope_theta=-1"]),
        ({"tie_word_embeddings": "no"}, ["'no'"]),
        ({"max_position_embeddings": 0}, ["max_seq_len=0"]),
    ],
    ids=str,
)
def test_a_config_of_transformers_that_does_not_fit_names_the_file_and_the_field(copy, changes, says):
    folder = copy("huggingface")
    edit(folder / "config.json", lambda config: config | changes)
    refused(folder, str(folder / "config.json"), *says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 4}, ["unknown config fields ['heads']"]),
        ({"dim": "32"}, ["dim='32'"]),
        ({"norm": "batch"}, ["norm='batch'", "'rms', 'layer'"]),
        ({"bias": None}, ["bias=None"]),
        ({"rope_scaling": {"kind": "linear"}}, ["factor"]),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0, "twist": 1}}, ["twist"]),
        ({"rope_scaling": "linear"}, []),
        ({"rope_scaling": {"kind": "llama3", "factor": 2.0, "low_freq_factor": "a"}}, []),
    ],
    ids=str,
)
def test_a_config_of_ours_that_does_not_fit_names_the_file(copy, changes, says):
    folder = copy("native")
    edit(folder / "config.json", lambda config: config | changes)
    refused(folder, str(folder / "config.json"), *says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization_args": {"scheme": "int8_int4"}}, ["int8_int4", "a version that is not quantized"]),
        ({"vision_args": {}}, ["unknown config fields ['vision_args']"]),
        ({"n_heads": "4"}, ["n_heads='4'"]),
        ({"dim": "32"}, ["dim='32'", "positive number"]),
        ({"multiple_of": 0}, ["multiple_of=0", "positive number"]),
        ({"multiple_of": "many"}, ["multiple_of='many'"]),
        ({"ffn_dim_multiplier": "1"}, ["ffn_dim_multiplier='1'"]),
        ({"ffn_dim_multiplier": float("inf")}, ["ffn_dim_multiplier=inf"]),
        ({"rope_theta": "big"}, ["rope_theta='big'"]),
    ],
    ids=str,
)
def test_params_that_do_not_fit_name_the_file(copy, changes, says):
    folder = copy("meta")
    edit(folder / "params.json", lambda params: params | changes)
    refused(folder, str(folder / "params.json"), *says)


@pytest.mark.parametrize("name", ["huggingface", "native", "meta"])
def test_a_config_that_lacks_a_size_names_it(copy, name):
    folder = copy(name)
    file = folder / ("params.json" if name == "meta" else "config.json")
    size = "num_hidden_layers" if name == "huggingface" else "n_layers"
    edit(file, lambda config: {key: value for key, value in config.items() if key != size})
    refused(folder, str(file), f"lacks {size}" if name != "native" else "lacks ['n_layers']")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"1", b"null", b'{"dim": }', b"\xff\xfe", b"PK\x03\x04"], ids=str
)
@pytest.mark.parametrize(
    "file", ["huggingface/config.json", "native/config.json", "meta/params.json", f"sharded/{INDEX}"]
)
def test_json_that_is_damaged_names_the_file(copy, file, content):
    folder, name = file.split("/")
    folder = copy(folder)
    (folder / name).write_bytes(content)
    refused(folder, str(folder / name))


# ------------------------------------------------------------------ wrong tensors


def changed(tensor, value):
    """Return a copy in which one number is another."""
    tensor = tensor.clone()
    tensor.view(-1)[3] = value
    return tensor


# What is wrong with a tensor: what becomes of it, and what the message says of it.
WRONG = {
    "missing": (lambda w: None, "lacks"),
    "transposed": (lambda w: w.T.contiguous(), "has shape (48, 32), but the config asks for (32, 48)"),
    "shorter": (lambda w: w[:-1].contiguous(), "has shape (31, 48), but the config asks for (32, 48)"),
    "empty": (lambda w: w[:0], "has shape (0, 48)"),
    "scalar": (lambda w: w[0, 0].clone(), "has shape ()"),
    "flat": (lambda w: w.flatten(), "has shape (1536,)"),
    "NaN": (lambda w: changed(w, float("nan")), "NaN or infinity"),
    "infinite": (lambda w: changed(w, float("inf")), "NaN or infinity"),
    "minus-infinite": (lambda w: changed(w, float("-inf")), "NaN or infinity"),
    "integer": (lambda w: w.to(torch.int8), "torch.int8"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    "complex": (lambda w: w.to(torch.complex64), "torch.complex64"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "file", ["huggingface/model.safetensors", "native/model.safetensors", "meta/consolidated.00.pth"]
)
def test_a_wrong_tensor_is_named(copy, file, change, says):
    folder, file = file.split("/")
    name = "model.layers.1.mlp.down_proj.weight" if folder == "huggingface" else "layers.1.feed_forward.w2.weight"
    folder = copy(folder)

    def edited(weights):
        new = weights | {name: change(weights[name])}
        return {key: value for key, value in new.items() if value is not None}

    edit(folder / file, edited)
    message = refused(folder, str(folder), says)
    # Where it is checked in the file, it goes by the file's name.
    assert "layers.1.feed_forward.w2.weight" in message or name in message


@pytest.mark.parametrize("shape", [(), (4,), (30, 32), (64, 32), (32, 30)], ids=str)
def test_a_query_matrix_that_cannot_be_reordered_is_refused(copy, shape):
    folder = copy("huggingface")
    edit(folder / "model.safetensors", lambda weights: weights | {WQ: torch.zeros(shape)})
    refused(folder, f"layers.0.attention.wq.weight has shape {shape}")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("huggingface/model.safetensors", "model.layers.2.mlp.up_proj.weight"),
        ("huggingface/model.safetensors", "model.layers.0.self_attn.q_proj.bias"),
        ("huggingface/model.safetensors", "model.layers.0.self_attn.q_norm.weight"),
        ("huggingface/model.safetensors", "wq"),
        ("native/model.safetensors", "output.bias"),
        ("meta/consolidated.00.pth", "layers.0.attention.wq.lora"),
    ],
)
@pytest.mark.parametrize("shape", [(), (32, 32)], ids=str)
def test_a_tensor_that_the_model_lacks_is_named(copy, file, name, shape):
    folder, file = file.split("/")
    folder = copy(folder)
    edit(folder / file, lambda weights: weights | {name: torch.ones(shape)})
    refused(folder, str(folder), f"has unknown {name}", "belong together")


def test_weights_of_another_number_of_heads_are_refused(copy):
    """The number of kv heads decides both the shape of wk and how its rows are reordered."""
    for name, file, field in (
        ("huggingface", "config.json", "num_key_value_heads"),
        ("native", "config.json", "n_kv_heads"),
        ("meta", "params.json", "n_kv_heads"),
    ):
        folder = copy(name)
        for n_kv_heads in (1, 4):
            edit(folder / file, lambda config, field=field, n=n_kv_heads: config | {field: n})
            refused(folder, "attention.wk.weight has shape (16, 32)", f"asks for ({8 * n_kv_heads}, 32)")


# -------------------------------------------------------------- wrong sets of files


def test_a_shard_that_is_missing_is_named(copy):
    folder = copy("sharded")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    refused(folder, str(shard), "is missing", "download it again")


@pytest.mark.parametrize(
    "weight_map",
    [
        *(3, [], {}, {"a": 1}, {"a": None, "b": "c"}, {"a": ["b"]}, {"a": ""}, {"a": "."}),
        *({"a": "../x.safetensors"}, {"a": "/x.safetensors"}, {"a": "config.json"}),
    ],
    ids=str,
)
def test_an_index_that_names_no_files_is_refused(copy, weight_map):
    folder = copy("sharded")
    edit(folder / INDEX, lambda index: index | {"weight_map": weight_map})
    refused(folder, str(folder / INDEX), "download it again")


def test_an_index_that_leaves_a_shard_out_lacks_its_tensors(copy):
    folder = copy("sharded")

    def without_first(index):
        return {"weight_map": {name: file for name, file in index["weight_map"].items() if "00001" not in file}}

    edit(folder / INDEX, without_first)
    refused(folder, "lacks tok_embeddings.weight")


@pytest.mark.parametrize(("remains", "says"), [("pytorch_model.bin", "is no PyTorch file"), ("notes.txt", "complete?")])
def test_a_folder_without_safetensors_says_what_to_do(copy, remains, says):
    folder = copy("huggingface")
    (folder / "model.safetensors").rename(folder / remains)
    refused(folder, str(folder), says)


def test_a_folder_of_metas_without_weights_or_with_those_of_another_is_refused(copy, make_model, tmp_path):
    folder = copy("meta-2")
    second = folder / "consolidated.01.pth"
    for change in (
        lambda weights: weights | {"more": torch.ones(3)},
        lambda weights: {name: weight for name, weight in weights.items() if name != "norm.weight"},
        lambda weights: weights | {"layers.0.attention.wq.weight": torch.zeros(16, 30)},
        lambda weights: weights | {"output.weight": torch.zeros(())},
        lambda weights: weights | {"output.weight": torch.zeros(0, 32)},
    ):
        content = second.read_bytes()
        edit(second, change)
        refused(folder, str(folder), "hold different tensors")
        second.write_bytes(content)
    second.unlink()
    refused(folder, "has 1 of 2 files consolidated.NN.pth", "complete?")
    (folder / "consolidated.00.pth").unlink()
    refused(folder, str(folder), "no consolidated.NN.pth", "complete?")


def test_slices_that_should_be_equal_but_are_not_are_refused(copy):
    """params.json says 1 kv head, which both ranks would hold; but they hold two different ones."""
    folder = copy("meta-2")
    edit(folder / "params.json", lambda params: params | {"n_kv_heads": 1})
    refused(folder, "layers.0.attention.wk.weight differs between ranks", "belong together")


# ------------------------------------------------------------------- damaged bytes


def header_size(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


@pytest.fixture(scope="module", params=["huggingface", "native"])
def victim(request, saved, tmp_path_factory):
    """A folder, the file in it to damage, its bytes, and the weights that it holds."""
    folder = shutil.copytree(saved / request.param, tmp_path_factory.mktemp("victim") / "model")
    weights = {name: weight.clone() for name, weight in load(folder)[0].named_parameters()}
    return folder, folder / "model.safetensors", (folder / "model.safetensors").read_bytes(), weights


@settings(max_examples=60)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_safetensors_file_is_refused_whatever_its_length(victim, part):
    folder, file, content, _ = victim
    for length in (int(part * len(content)), int(part * header_size(content))):
        file.write_bytes(content[:length])
        refused(folder, str(file), "download or save it again")


@settings(max_examples=250)
@given(part=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_refused_or_harmless(victim, part, bit):
    folder, file, content, weights = victim
    damaged = bytearray(content)
    damaged[int(part * header_size(content))] ^= 1 << bit
    file.write_bytes(damaged)
    loaded = try_to_load(folder)
    for name, weight in loaded.named_parameters() if loaded else ():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("content", [b"", b"x", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" + b"x" * 50], ids=repr)
def test_a_file_that_is_no_safetensors_file_is_refused(copy, content):
    folder = copy("native")
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, str(folder / "model.safetensors"))


def test_a_truncated_pth_file_is_refused_whatever_its_length(copy):
    folder = copy("meta-2")
    file = folder / "consolidated.01.pth"
    content = file.read_bytes()
    for length in [*range(0, 200, 7), *range(0, len(content), len(content) // 50), len(content) - 1]:
        file.write_bytes(content[:length])
        refused(folder, str(file), "download it again")


@pytest.mark.parametrize(
    "content",
    [
        *([torch.ones(3)], {"a": 1}, {"a": [torch.ones(3)]}, {1: torch.ones(3)}, torch.ones(3), "text"),
        {"output.weight": torch.eye(3).to_sparse()},
    ],
    ids=lambda content: type(content).__name__ + str(len(content)),
)
def test_a_pth_file_that_is_no_dictionary_of_tensors_is_refused(copy, content):
    folder = copy("meta")
    torch.save(content, folder / "consolidated.00.pth")
    refused(folder, str(folder / "consolidated.00.pth"))


def test_a_pth_file_of_another_model_is_refused(copy):
    folder = copy("meta")
    torch.save({"weight": torch.ones(3)}, folder / "consolidated.00.pth")
    refused(folder, str(folder / "consolidated.00.pth"), "tok_embeddings.weight")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_pth_files_never_raise_anything_else(copy, seed):
    """A flipped bit among the weights cannot be noticed, but everything around them is parsed."""
    folder = copy("meta")
    file = folder / "consolidated.00.pth"
    content = bytearray(file.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    with zipfile.ZipFile(file) as archive:
        pickled = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
    start = pickled.header_offset if seed % 2 else len(content) - 3000
    for position in (start + torch.randint(0, 2900, (3,), generator=generator)).tolist():
        content[position] ^= 1 << int(torch.randint(0, 8, (), generator=generator))
    file.write_bytes(content)
    loaded = try_to_load(folder)
    assert loaded is None or {weight.dtype for weight in loaded.parameters()} == {torch.float32}


# --------------------------------------------------------------------- malicious


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def payloads(marker) -> dict:
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {marker}"),
        "exec": Payload(exec, write),
        "eval": Payload(eval, write),
        "os.mkdir": Payload(os.mkdir, str(marker)),
        "beside-tensors": {"output.weight": torch.ones(64, 32), "x": Payload(exec, write)},
    }


def ways_to_write(content) -> dict[str, bytes]:
    """Return the bytes of each container that ``torch.load`` reads."""
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return {"zip": new.getvalue(), "legacy": old.getvalue(), "pickle": pickle.dumps(content)}


def test_the_payloads_would_run(tmp_path):
    """Otherwise the next test could not fail."""
    for name in payloads(tmp_path):
        marker = tmp_path / name
        for way, content in ways_to_write(payloads(marker)[name]).items():
            if way == "pickle":
                pickle.loads(content)
            else:
                torch.load(io.BytesIO(content), weights_only=False)
            assert marker.exists(), (name, way)
            marker.rmdir() if marker.is_dir() else marker.unlink()


@pytest.mark.parametrize("name", payloads("x"))
def test_no_loader_runs_what_a_file_asks_for(copy, tmp_path, name):
    marker = tmp_path / "marker"
    places = {
        "meta": ["consolidated.00.pth", "params.json", "tokenizer.model"],
        "meta-2": ["consolidated.01.pth"],
        "huggingface": ["model.safetensors", "config.json", "tokenizer.json", "tokenizer.model"],
        "sharded": ["model-00002-of-00010.safetensors", INDEX],
        "native": ["model.safetensors"],
    }
    for content in ways_to_write(payloads(marker)[name]).values():
        for format, files in places.items():
            for file in files:
                folder = copy(format)
                assert (folder / file).exists() or "tokenizer" in file
                (folder / file).write_bytes(content)
                refused(folder, str(folder / file))
                assert not marker.exists()
                shutil.rmtree(folder)
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)
        assert not marker.exists()


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", payloads("x"))
def test_weights_in_pickle_files_are_read_only_where_there_are_no_others_and_never_run(copy, tmp_path, name, way):
    marker = tmp_path / "marker"
    folder = copy("huggingface")
    (folder / "pytorch_model.bin").write_bytes(ways_to_write(payloads(marker)[name])[way])
    load(folder)
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder / "pytorch_model.bin"))
    assert not marker.exists()


def test_an_index_of_pickle_files_names_pickle_files_only(copy):
    folder = copy("huggingface")
    (folder / "model.safetensors").unlink()
    for file in ("../pytorch_model.bin", "x.safetensors", "x.pkl"):
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
        refused(folder, "pytorch_model.bin.index.json", "no bin file")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    refused(folder, str(folder / "x.bin"), "is missing")


@pytest.mark.parametrize("content", ["[]", "{", '{"max_seq_len": 0}', '{"context": 3}'])
def test_what_stands_beside_params_json_is_checked_too(copy, content):
    folder = copy("meta")
    (folder / "llama_minimal.json").write_text(content)
    refused(folder, str(folder))


@pytest.mark.parametrize("options", [{"max_shard_bytes": 0}, {"format": "meta", "n_shards": 0}])
def test_shards_have_a_size_and_a_number(make_model, options, tmp_path):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        save(make_model(), tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("change", ["prune", "parametrize"])
def test_weights_that_are_computed_of_others_are_refused(tmp_path, change):
    model = draw_model()
    layer = model.layers["0"].attention.wq
    if change == "prune":
        prune.random_unstructured(layer, "weight", amount=0.5)
    else:
        parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    for format in ("auto", "native", "meta"):
        with pytest.raises(ValueError, match=r"layers\.0\.attention\.wq.* make it permanent"):
            save(model, tmp_path / "new", format=format)
    assert not (tmp_path / "new").exists()
