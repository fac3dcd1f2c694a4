"""Adapter folders of the peft library: there and back, with the library itself as the judge."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_minimal.checkpoint import load, load_adapter, save, save_adapter
from llama_minimal.lora import LoRAConfig, adapter_tensors, adapters, add_adapter

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

ALL = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "output")
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [7, 0, 7, 8, 1, 1, 2, 60]])
THEIRS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
CASES = [
    ({}, {}),
    ({"n_kv_heads": 2}, {}),
    ({"n_kv_heads": 1}, {"rank_stabilized": True}),
    ({"head_dim": 12, "n_kv_heads": 2}, {"alpha": 2.5}),
    ({"bias": True}, {}),
    ({"bias": "attention", "n_kv_heads": 2}, {"targets": ("wk", "w2")}),
    ({"tie_embeddings": True}, {"targets": ALL[:-1], "dropout": 0.1}),
    ({}, {"targets": ("layers.1.attention.wq", "layers.0.feed_forward.w3")}),
]


@torch.no_grad()
def draw(named, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    for _, tensor in sorted(named):
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))


def exported(model, tmp_path):
    """The folder of the base model as transformers reads it."""
    save(model, tmp_path / "base", format="huggingface")
    return tmp_path / "base"


def theirs(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def their_logits(base, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of tensors that find no place
        warnings.filterwarnings("ignore", category=FutureWarning)
        model = peft.PeftModel.from_pretrained(theirs(base), adapter).eval()
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize(("changes", "settings"), CASES, ids=str)
def test_peft_reads_ours_and_computes_the_same(make_model, tmp_path, changes, settings):
    base = exported(make_model(**changes), tmp_path)
    model, _ = load(base)
    add_adapter(model, "one", LoRAConfig(**({"rank": 3, "alpha": 5, "targets": ALL} | settings)))
    draw(adapter_tensors(model, "one").items())
    save_adapter(model, tmp_path / "one", base=base)
    with torch.no_grad():
        ours, plain = model(TOKENS), load(base)[0](TOKENS)
    assert (ours - plain).abs().max() > 0.1
    # Logits reach 10 and more: 1e-5 of them.
    torch.testing.assert_close(their_logits(base, tmp_path / "one"), ours, rtol=1e-5, atol=1e-5 * ours.abs().max())


@pytest.mark.parametrize("changes", [changes for changes, _ in CASES[:-1]], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 5, "lora_alpha": 3, "lora_dropout": 0.1},
        {"target_modules": ["k_proj", "down_proj"]},
        {"target_modules": r".*layers\.1\..*(q_proj|up_proj)"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=str,
)
def test_ours_reads_peft_and_computes_the_same(make_model, tmp_path, changes, settings):
    if changes.get("tie_embeddings") and "lm_head" in settings.get("target_modules", ()):
        pytest.skip("a tied output cannot be adapted")
    base = exported(make_model(**changes), tmp_path)
    targets = THEIRS[:-1] if changes.get("tie_embeddings") else THEIRS
    config = peft.LoraConfig(**({"r": 3, "task_type": "CAUSAL_LM", "target_modules": targets} | settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(theirs(base), config).eval()
        draw((name, p) for name, p in model.named_parameters() if "lora_" in name)
        model.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        expected = model(TOKENS).logits
        ours, _ = load(base, adapter=tmp_path / "one")
        torch.testing.assert_close(ours(TOKENS), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())
    save_adapter(ours, tmp_path / "again")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "again"))
    before = {name: tensor for name, tensor in before.items() if "base_layer" not in name}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def folder(make_model, tmp_path):
    model = make_model()
    add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq", "wv")))
    draw(adapter_tensors(model, "one").items())
    save_adapter(model, tmp_path / "one")
    return tmp_path / "one"


def change(folder, **values):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "use_dora=True: DoRA trains the length"),
        ({"peft_type": "IA3"}, "'IA3' adapter; only 'LORA'"),
        ({"peft_type": "gone"}, "None adapter; only 'LORA'"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole layers"),
        ({"bias": "all"}, "changes biases"),
        ({"lora_bias": True}, "lora_bias=True: it computes something other"),
        ({"rank_pattern": {"q_proj": 4}}, "different ranks"),
        ({"alpha_pattern": {"q_proj": 4}}, "different scales"),
        ({"task_type": "SEQ_CLS"}, "a model with another output"),
        ({"init_lora_weights": "pissa"}, "count from weights that were changed"),
        ({"a_field_of_tomorrow": 3}, "a_field_of_tomorrow=3: it computes something other"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"layers_to_transform": [0]}, "layers.1.self_attn.q_proj, too"),
        ({"exclude_modules": ["v_proj"]}, "layers.0.self_attn.v_proj, too"),
        ({"target_modules": ["q_proj"]}, "tensors for: model.layers.0.self_attn.v_proj, too"),
        ({"target_modules": ["q_proj", "v_proj", "c_attn"]}, "names 'c_attn' in target_modules"),
        ({"target_modules": r".*q_proj"}, "v_proj, too; make it name all"),
        ({"target_modules": 3}, "target_modules=3; it must be"),
        ({"target_modules": "("}, "no regular expression"),
        ({"r": 4}, "has shape"),
        ({"r": "many"}, "rank='many'"),
        ({"lora_alpha": None}, "alpha=None"),
    ],
    ids=str,
)
def test_what_is_no_plain_lora_of_this_model_gets_a_sentence(make_model, folder, values, message):
    change(folder, **values)
    model = make_model()
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(model, folder)
    assert str(folder) in str(error.value)
    assert not adapters(model)


def test_missing_fields_mean_what_they_mean_in_peft(make_model, folder, tmp_path):
    change(folder, lora_alpha="gone", target_modules="gone", use_rslora="gone", lora_dropout="gone", bias="gone")
    model = make_model()
    load_adapter(model, folder)
    assert adapters(model)["one"].alpha == 8
    base = exported(make_model(), tmp_path)
    with torch.no_grad():
        ours = model(TOKENS)
    torch.testing.assert_close(their_logits(base, folder), ours, rtol=1e-5, atol=1e-5 * ours.abs().max())


def rename(folder, old, new):
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self_attn.q_proj", "self_attn.c_attn"),
        ("layers.1", "layers.7"),
        ("lora_A", "lora_magnitude_vector"),
        ("layers.0.self_attn.q_proj", "embed_tokens"),
    ],
)
def test_tensors_that_have_no_place_are_refused(make_model, folder, old, new):
    rename(folder, old, new)
    model = make_model()
    with pytest.raises(ValueError, match="no low-rank update of a linear layer of this model"):
        load_adapter(model, folder)
    assert not adapters(model)


def test_an_incomplete_folder_is_refused(make_model, folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lacks layers\.1\.attention\.wv\.B"):
        load_adapter(make_model(), folder)
    save_file({"base_model.model.lm_head.base_layer.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="other weights of output"):
        load_adapter(make_model(), folder)
    save_file({"base_model.model.lm_head.base_layer.weight": make_model().output.weight.data}, path)
    with pytest.raises(ValueError, match="no low-rank updates"):
        load_adapter(make_model(), folder)
    path.unlink()
    with pytest.raises(ValueError, match="is the download complete"):
        load_adapter(make_model(), folder)


def test_a_pickled_file_is_read_but_nothing_in_it_is_run(make_model, folder):
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    model, other = make_model(), make_model()
    load_adapter(model, folder)
    path.unlink()
    load_adapter(other, folder)
    assert torch.equal(model(TOKENS), other(TOKENS))


def test_a_tied_output_is_refused(make_model, folder):
    model = make_model()
    add_adapter(model, "head", LoRAConfig(rank=2, targets=("output",)))
    save_adapter(model, folder)
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path)  # without the checksum
    with pytest.raises(ValueError, match="one matrix with another layer"):
        load_adapter(make_model(tie_embeddings=True), folder)
