"""Checkpoints as they are found in the wild: odd configs, odd names, odd files, against the transformers library."""

import itertools
import json
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig as HuggingFaceConfig
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama_minimal.checkpoint import load, meta, save
from llama_minimal.checkpoint.huggingface_config import config_from_huggingface
from llama_minimal.checkpoint.meta import config_from_params, config_to_params
from llama_minimal.config import PRESETS, RopeScaling, preset, read_json
from llama_minimal.generation import generate
from llama_minimal.positions import rope_table
from llama_minimal.tokenizer import Tokenizer

TOKENS = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """What is decided in silence must be certain; the rest is announced, and asked for by name below."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@torch.no_grad()
def same_logits(model, other):
    logits, expected = (getattr(out, "logits", out) for out in (model(TOKENS), other(TOKENS)))
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def read_by_transformers(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | changes))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    save_file({name: weight.contiguous() for name, weight in change(load_file(path)).items()}, path, {"format": "pt"})


# ------------------------------------------------------------------- rotary settings

maybe = st.none() | st.floats(0.5, 4)
YARN = st.fixed_dictionaries(
    {"rope_type": st.just("yarn"), "factor": st.floats(1, 32), "truncate": st.booleans()},
    optional={
        "original_max_position_embeddings": st.integers(8, 300),
        "attention_factor": st.none() | st.floats(0.1, 4),
        "beta_fast": st.none() | st.floats(2, 64),
        "beta_slow": st.none() | st.floats(0.1, 1),
        "mscale": maybe,
        "mscale_all_dim": maybe,
        "rope_theta": st.floats(2, 1e6),
    },
)
LLAMA3 = st.fixed_dictionaries(
    {
        "rope_type": st.just("llama3"),
        "factor": st.floats(1, 32),
        "low_freq_factor": st.floats(0.5, 2),
        "high_freq_factor": st.floats(3, 9),
    },
    optional={"original_max_position_embeddings": st.integers(8, 300), "rope_theta": st.floats(2, 1e6)},
)
PLAIN = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["default", "linear", "dynamic"]), "factor": st.floats(1, 32)},
    optional={"rope_theta": st.floats(2, 1e6)},
)
ROPE = YARN | LLAMA3 | PLAIN


@given(
    older=st.none() | ROPE,
    newer=st.none() | ROPE,
    top=st.fixed_dictionaries(
        {}, optional={"rope_theta": st.floats(2, 1e6), "original_max_position_embeddings": st.integers(8, 300)}
    ),
)
def test_every_rotary_setting_turns_as_in_transformers(older, newer, top):
    """Wherever the settings stand, whichever are left out, and if two of them disagree."""
    sizes = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {"model_type": "llama", "vocab_size": 9, "max_position_embeddings": 300, **sizes, **top}
    values |= {} if older is None else {"rope_scaling": older}
    values |= {} if newer is None else {"rope_parameters": newer}
    theirs = LlamaRotaryEmbedding(HuggingFaceConfig(**json.loads(json.dumps(values))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_from_huggingface(values)
    expected = theirs(torch.zeros(1, dtype=torch.float64), torch.arange(300)[None])
    ours = rope_table(config.head_dim, 300, config.rope_theta, config.rope_scaling)
    for table, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(table.double(), other[0, :, :16], atol=2e-4, rtol=0)  # 300 times the rounding


def test_of_two_rotary_settings_that_disagree_the_older_name_wins_and_it_is_told(tmp_path, make_model):
    model = make_model(rope_theta=500.0)
    save(model, tmp_path)
    newer = {"rope_type": "default", "rope_theta": 500.0}
    edit_config(tmp_path, rope_parameters=newer, rope_theta=10_000.0)
    same_logits(load(tmp_path)[0], model)
    edit_config(tmp_path, rope_scaling={"type": "linear", "factor": 4.0})
    with pytest.warns(UserWarning, match=r"rope_scaling wins \(base and scaling 10000, linear × 4\).*\(500, none\)"):
        loaded, _ = load(tmp_path)
    same_logits(loaded, read_by_transformers(tmp_path))
    edit_config(tmp_path, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0})
    load(tmp_path)  # two that agree need no words


@pytest.mark.parametrize("length", [20, 30])
def test_dynamic_scaling_beyond_the_trained_length_is_exported_as_the_base_that_it_makes(tmp_path, make_model, length):
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_seq_len=10)
    model = make_model(rope_scaling=scaling, max_seq_len=30)
    save(model, tmp_path / "ours")
    theirs = read_by_transformers(tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS[:, :length]).logits, model(TOKENS[:, :length]), atol=1e-5, rtol=1e-5)
    # The other way: their dynamic model, given a sequence as long as our context.
    edit_config(
        tmp_path / "ours",
        max_position_embeddings=10,
        rope_theta=10_000.0,
        rope_scaling={"rope_type": "dynamic", "factor": 4.0},
    )
    theirs, ours = read_by_transformers(tmp_path / "ours"), load(tmp_path / "ours", max_seq_len=30)[0]
    assert ours.config == model.config
    same_logits(ours, theirs)


def test_a_context_shorter_than_the_trained_one_does_not_change_when_dynamic_scaling_begins(tmp_path, make_model):
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_seq_len=30)
    save(make_model(rope_scaling=scaling, max_seq_len=16), tmp_path)
    same_logits(read_by_transformers(tmp_path), make_model(max_seq_len=30))


# ------------------------------------------------------------------ tied, or not


def test_two_matrices_are_kept_although_the_config_ties_them_and_it_is_told(tmp_path, make_model):
    untied = make_model()
    save(untied, tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="two different ones; both are kept"):
        model, _ = load(tmp_path)
    assert not model.config.tie_embeddings
    same_logits(model, untied)
    same_logits(model, read_by_transformers(tmp_path))


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_a_tied_matrix_may_go_by_either_name_or_by_both(tmp_path, make_model, kept):
    tied = make_model(tie_embeddings=True)
    save(tied, tmp_path)

    def rename(weights):
        shared = weights.pop("model.embed_tokens.weight")
        pair = {"model.embed_tokens.weight": shared, "lm_head.weight": shared.clone()}
        return weights | (pair if kept == "both" else {kept: pair[kept]})

    edit_weights(tmp_path, rename)
    model, _ = load(tmp_path)
    assert model.config == tied.config
    assert model.output.weight is model.tok_embeddings.weight
    same_logits(model, tied)


# ------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"model.{name}",
        lambda name: name.replace(".self_attn.", "._orig_mod._checkpoint_wrapped_module.self_attn."),
    ],
    ids=["bare", "module", "_orig_mod", "both", "model.model", "wrapped inside"],
)
@pytest.mark.parametrize("changes", [{"n_kv_heads": 2, "bias": "attention"}, {"tie_embeddings": True}], ids=str)
def test_names_may_lack_the_models_prefix_and_have_those_of_wrappers(tmp_path, make_model, rename, changes):
    model = make_model(**changes)
    save(model, tmp_path)
    edit_weights(tmp_path, lambda weights: {rename(name): weight for name, weight in weights.items()})
    same_logits(load(tmp_path)[0], model)


def test_a_weight_that_is_there_under_two_names_is_refused(tmp_path, make_model):
    save(make_model(), tmp_path)
    edit_weights(tmp_path, lambda weights: weights | {"module.lm_head.weight": weights["lm_head.weight"].clone()})
    with pytest.raises(ValueError, match=r"unknown (module\.lm_head|output)\.weight|unknown lm_head\.weight"):
        load(tmp_path)


# ------------------------------------------------------------------------- files


def as_bin(folder, *, shards=1, **options):
    """Turn model.safetensors into what torch.save wrote before there were safetensors."""
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", **options)
        return
    files = {name: f"pytorch_model-{1 + i % shards:05d}-of-{shards:05d}.bin" for i, name in enumerate(weights)}
    for file in set(files.values()):
        torch.save({name: weight for name, weight in weights.items() if files[name] == file}, folder / file, **options)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_in_files_of_torch_save(tmp_path, make_model, shards, zipped, dtype):
    model = make_model(n_kv_heads=2, tie_embeddings=True).to(dtype)
    save(model, tmp_path)
    as_bin(tmp_path, shards=shards, _use_new_zipfile_serialization=zipped)
    loaded, _ = load(tmp_path)
    assert loaded.config == model.config
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))
    assert next(loaded.parameters()).dtype == dtype


@pytest.mark.parametrize("files", ["huggingface", "meta", "both"])
def test_a_folder_with_both_configs_is_what_its_weights_are(tmp_path, make_model, files):
    """Their config.json and Meta's params.json, which would describe two different models."""
    huggingface, meta = make_model(seed=1), make_model(seed=2, n_kv_heads=2)
    save(meta, tmp_path / "meta", format="meta")
    save(huggingface, tmp_path / "model")
    for file in (tmp_path / "meta").iterdir():
        file.rename(tmp_path / "model" / file.name)
    if files == "huggingface":
        (tmp_path / "model" / "consolidated.00.pth").unlink()
    if files == "meta":
        (tmp_path / "model" / "model.safetensors").unlink()
    same_logits(load(tmp_path / "model")[0], meta if files == "meta" else huggingface)


def test_a_token_without_an_embedding_is_told_and_only_its_use_is_refused(tmp_path, make_model):
    tokenizer = Tokenizer()  # 256 bytes and three special tokens
    save(make_model(vocab_size=257), tmp_path, tokenizer)
    with pytest.warns(UserWarning, match=r"has 259 tokens.*for only 257: prompts with ids from 257 on"):
        model, found = load(tmp_path)
    assert found.fingerprint == tokenizer.fingerprint
    (written,) = generate(model, found, [[97, 98]], max_new_tokens=3, stop_ids=[])
    assert len(written.tokens) == 3
    for token in (257, 258, 300, -1):
        with pytest.raises(ValueError, match=f"token id {token} is not among the model's ids 0 to 256"):
            generate(model, found, [[97, token]], max_new_tokens=1)


# -------------------------------------------------------------------------- Meta

# What is in the params.json of each release, and the context that it was published with.
PUBLISHED = {
    "llama-7b": ({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6}, 2048),
    "llama-13b": ({"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-6}, 2048),
    "llama-30b": ({"dim": 6656, "multiple_of": 256, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-6}, 2048),
    "llama-65b": ({"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-5}, 2048),
    "llama2-7b": ({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5}, 4096),
    "llama2-13b": ({"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-5}, 4096),
    "llama2-70b": (
        {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80}
        | {"norm_eps": 1e-5},
        4096,
    ),
    "code-llama-34b": (
        {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 1.0}
        | {"norm_eps": 1e-5, "rope_theta": 1_000_000},
        16_384,
    ),
    "llama3-8b": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}
        | {"norm_eps": 1e-5, "rope_theta": 500_000.0},
        8192,
    ),
    "llama3.1-70b": (
        {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 4096}
        | {"norm_eps": 1e-5, "rope_theta": 500_000.0, "use_scaled_rope": True},
        131_072,
    ),
    "llama3.2-1b": (
        {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "ffn_dim_multiplier": 1.5, "multiple_of": 256}
        | {"norm_eps": 1e-5, "rope_theta": 500_000.0, "use_scaled_rope": True},
        131_072,
    ),
    "llama3.2-3b": (
        {"dim": 3072, "n_layers": 28, "n_heads": 24, "n_kv_heads": 8, "ffn_dim_multiplier": 1.0, "multiple_of": 256}
        | {"norm_eps": 1e-5, "rope_theta": 500_000.0, "use_scaled_rope": True},
        131_072,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_params_are_the_published_models(name):
    params, context = PUBLISHED[name]
    vocab_size = 128_256 if name.startswith("llama3") else 32_000
    config = config_from_params(params | {"vocab_size": -1}, vocab_size=vocab_size)
    assert config.max_seq_len == context
    if name in PRESETS:  # whether the embeddings are tied stands in the weights
        assert config == preset(name, tie_embeddings=False)
    scale = {"llama3.1-70b": 8.0, "llama3.2-1b": 32.0, "llama3.2-3b": 32.0}.get(name)
    assert (config.rope_scaling and config.rope_scaling.factor) == scale


LLAMA1 = {"dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "norm_eps"}  # fields of each release's ModelArgs
LLAMA2 = LLAMA1 | {"n_kv_heads", "ffn_dim_multiplier"}
CODE_LLAMA = LLAMA2 | {"rope_theta"}
LLAMA31 = CODE_LLAMA | {"use_scaled_rope"}


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("llama")])
def test_a_published_shape_is_written_with_the_fields_that_its_own_code_accepts(name):
    config = PRESETS[name]
    generation = {"llama-": LLAMA1, "llama2": LLAMA2, "llama3-": CODE_LLAMA}
    allowed = next((fields for prefix, fields in generation.items() if name.startswith(prefix)), LLAMA31)
    params = config_to_params(config)
    assert params.keys() <= allowed
    again = config_from_params(json.loads(json.dumps(params)), vocab_size=config.vocab_size)
    assert again == config.replace(tie_embeddings=False)


@pytest.mark.parametrize("name", ["tiny", "small", "course", "stories-15m", "stories-110m"])
def test_a_small_llama_is_written_with_the_fields_of_the_first_one(name):
    config = preset(name, n_kv_heads=None)
    assert config_to_params(config).keys() == LLAMA1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_theta": 500_000.0, "max_seq_len": 8192},
        {"rope_theta": 1_000_000.0, "max_seq_len": 16_384, "n_kv_heads": 2},
        {"rope_theta": 500_000.0, "rope_scaling": RopeScaling(kind="llama3", factor=8.0)},
        {"tie_embeddings": True},
        {"max_seq_len": 77, "norm_eps": 1e-6, "hidden_dim": 50},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_shards", [1, 2])
def test_what_we_wrote_for_metas_code_comes_back_whole(tmp_path, make_model, changes, n_shards):
    """Its context too, which stands beside params.json, where Meta's code does not look."""
    model = make_model(vocab_size=64, **changes)
    save(model, tmp_path, format="meta", n_shards=n_shards)
    assert "max_seq_len" not in read_json(tmp_path / "params.json")
    loaded, _ = load(tmp_path)
    assert loaded.config == model.config
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))
    save(model, tmp_path, format="huggingface")
    assert not (tmp_path / "llama_minimal.json").exists()


@pytest.mark.parametrize(("theta", "shape"), [(10_000.0, (64, 16)), (1e6, (64, 16)), (500_000.0, (32, 32))])
def test_embeddings_are_cut_as_the_code_of_their_generation_cuts_them(tmp_path, make_model, theta, shape):
    """By columns in LLaMA, LLaMA-2 and Code Llama (ParallelEmbedding), by rows in Llama 3 (VocabParallelEmbedding)."""
    model = make_model(vocab_size=64, rope_theta=theta)
    save(model, tmp_path, format="meta", n_shards=2)
    ranks = [torch.load(path, weights_only=True)["tok_embeddings.weight"] for path in sorted(tmp_path.glob("*.pth"))]
    assert all(rank.shape == shape for rank in ranks)
    assert torch.equal(torch.cat(ranks, dim=int(shape[0] == 64)), model.tok_embeddings.weight)


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_metas_files_may_lack_the_output_and_have_names_of_wrappers(tmp_path, make_model, theta):
    model = make_model(vocab_size=64, tie_embeddings=True, rope_theta=theta)
    save(model, tmp_path, format="meta", n_shards=2)
    for path in tmp_path.glob("*.pth"):
        weights = torch.load(path, weights_only=True)
        del weights["output.weight"]
        torch.save({f"module.{name}": weight for name, weight in weights.items()}, path)
    loaded, _ = load(tmp_path)
    assert loaded.config == model.config
    same_logits(loaded, model)


def test_llama_3_2_is_tied_where_its_two_matrices_are_equal(tmp_path, make_model, monkeypatch):
    """Meta's files of 1B and 3B hold the one matrix twice, and do not say that it is one."""
    monkeypatch.setattr(meta, "_is_small_llama32", lambda config: True)  # real ones are too large for a test
    model = make_model(tie_embeddings=True, vocab_size=64, max_seq_len=4096)
    save(model, tmp_path, format="meta", n_shards=2)
    assert not (tmp_path / "llama_minimal.json").exists()
    assert load(tmp_path)[0].config == model.config
    last = tmp_path / "consolidated.01.pth"
    weights = torch.load(last, weights_only=True)
    weights["output.weight"][-1, -1] += 1
    torch.save(weights, last)
    assert load(tmp_path)[0].config == model.config.replace(tie_embeddings=False)


def test_two_matrices_in_metas_files_are_kept_although_we_said_that_they_are_one(tmp_path, make_model):
    model = make_model(tie_embeddings=True)
    save(model, tmp_path, format="meta")
    path = tmp_path / "consolidated.00.pth"
    weights = torch.load(path, weights_only=True)
    torch.save(weights | {"output.weight": 2 * weights["output.weight"]}, path)
    with pytest.warns(UserWarning, match="two different ones; both are kept"):
        loaded, _ = load(tmp_path)
    torch.testing.assert_close(loaded(TOKENS), 2 * model(TOKENS))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head_dim": 12}, "head_dim=12"),
        ({"bias": "attention"}, "bias='attention'"),
        ({"bias": True}, "bias=True"),
        ({"rope_scaling": RopeScaling(kind="llama3", factor=32.0)}, "rope_scaling=.*factor=32.0"),
        ({"rope_scaling": RopeScaling(kind="yarn", factor=2.0)}, "rope_scaling=.*yarn"),
    ],
    ids=str,
)
def test_what_metas_code_does_not_know_is_refused(make_model, changes, says):
    with pytest.raises(ValueError, match=says):
        config_to_params(make_model(**changes).config)


def test_every_way_to_have_own_heads_and_biases_survives_its_format(tmp_path, make_model):
    for n, (head_dim, bias) in enumerate(itertools.product([None, 4, 12], [False, True, "attention", "feed_forward"])):
        model = make_model(head_dim=head_dim, bias=bias, n_kv_heads=2)
        for format in ("huggingface", "native"):
            folder = tmp_path / f"{n}-{format}"
            save(model, folder, format=format)
            assert load(folder)[0].config == model.config


def test_heads_that_do_not_divide_the_width_go_to_our_own_format(tmp_path, make_model):
    """The transformers library refuses such a config, even where head_dim is given."""
    model = make_model(dim=30, head_dim=8)
    with pytest.raises(ValueError, match="dim=30 with n_heads=4"):
        save(model, tmp_path, format="huggingface")
    save(model, tmp_path)
    same_logits(load(tmp_path)[0], model)


def test_params_of_metas_latest_code_may_say_how_far_they_stretch():
    params = {"dim": 4096, "n_layers": 32, "n_heads": 32, "use_scaled_rope": True}
    params |= {"rope_scaling_factor": 16, "rope_high_freq_factor": 1.5}
    expected = RopeScaling(kind="llama3", factor=16, high_freq_factor=1.5)
    assert config_from_params(params, vocab_size=9).rope_scaling == expected
    params |= {"rope_scaling_factor": None, "rope_high_freq_factor": None}
    assert config_from_params(params, vocab_size=9).rope_scaling == RopeScaling(kind="llama3", factor=8)


def test_the_base_that_scaled_params_leave_out_is_llama_3s_and_any_other_is_written():
    params = PUBLISHED["llama3.1-70b"][0]
    without = {name: value for name, value in params.items() if name != "rope_theta"}
    assert config_from_params(without, vocab_size=128_256).rope_theta == 500_000.0
    for theta in (10_000.0, 123.0):
        config = config_from_params(params | {"rope_theta": theta}, vocab_size=64)
        assert config_to_params(config)["rope_theta"] == theta


def test_a_tensor_larger_than_a_file_gets_one_of_its_own(tmp_path, make_model):
    save(make_model(), tmp_path, max_shard_bytes=1)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == len(list(make_model().parameters()))
    assert all(len(load_file(file)) == 1 for file in files)
