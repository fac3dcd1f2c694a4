"""Checkpoints in and out: against the transformers library, against folders written by hand as Meta's code would."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers import LlamaConfig as HuggingFaceConfig

from llama_minimal.checkpoint import load, save
from llama_minimal.checkpoint.huggingface_config import config_from_huggingface, config_to_huggingface
from llama_minimal.checkpoint.meta import config_from_params
from llama_minimal.config import RopeScaling, read_json
from llama_minimal.generation import generate
from llama_minimal.optim import make_adamw
from llama_minimal.snapshot import save_snapshot
from llama_minimal.tokenizer import HuggingFaceTokenizer, Tokenizer

TOKENS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(0))
TEXTS = [
    "the cat sat on the mat",
    " the  cat\n\n\tsat 1234 ",
    "naïve 北京 🙂 can't",
    "<|bos|>the<|eos|> cat<|pad|>",
    "",
]
# With heads of 8 features and 128 trained positions, one pair is kept, one is blended and two are stretched.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OURS = {
    "multi-head": {},
    "grouped": {"n_kv_heads": 2},
    "multi-query": {"n_kv_heads": 1},
    "theta": {"rope_theta": 100.0, "norm_eps": 0.1, "n_kv_heads": 2},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "ntk": {"rope_scaling": RopeScaling(kind="ntk", factor=4.0)},
    "llama3": {"rope_scaling": RopeScaling(kind="llama3", **LLAMA3, original_max_seq_len=128)},
    "tied": {"tie_embeddings": True},
    "bias": {"bias": True, "n_kv_heads": 2},
    "bias-of-attention": {"bias": "attention", "n_kv_heads": 2},
    "bias-of-feed-forward": {"bias": "feed_forward"},
    "wide-heads": {"head_dim": 12, "n_kv_heads": 2, "bias": True},
    "narrow-heads": {"head_dim": 2},
    "dynamic": {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=32)},
    "yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=2.0, original_max_seq_len=16, beta_fast=2.0)},
    "yarn-louder": {
        "rope_scaling": RopeScaling(
            kind="yarn", factor=8.0, original_max_seq_len=100, attention_factor=1.5, truncate=False
        )
    },
}
THEIRS = {
    "multi-head": {},
    "grouped": {"num_key_value_heads": 2},
    "multi-query": {"num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rms_norm_eps": 0.1},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
    "llama3": {
        "rope_parameters": {
            **{"rope_type": "llama3", "rope_theta": 5000.0, "original_max_position_embeddings": 128},
            **LLAMA3,
        }
    },
    "tied": {"tie_word_embeddings": True},
    "bias": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "bias-of-attention": {"attention_bias": True, "num_key_value_heads": 2},
    "bias-of-feed-forward": {"mlp_bias": True},
    "wide-heads": {"head_dim": 12, "num_key_value_heads": 2, "attention_bias": True},
    "narrow-heads": {"head_dim": 2},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0}},
    "yarn": {
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 5000.0, "original_max_position_embeddings": 64, "factor": 4.0},
            **{"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 2.0, "mscale_all_dim": 0.5},
        }
    },
}
every_variant_of_ours = pytest.mark.parametrize("changes", OURS.values(), ids=OURS)
every_variant_of_theirs = pytest.mark.parametrize("changes", THEIRS.values(), ids=THEIRS)


def make_theirs(**changes) -> LlamaForCausalLM:
    """Build transformers' model with weights so large that every one of them matters."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(HuggingFaceConfig(**sizes, vocab_size=60, max_position_embeddings=256, **changes))
    for name, parameter in model.named_parameters():
        parameter.data.normal_(std=0.2).add_("norm" in name)
    return model.eval()


@torch.no_grad()
def logits_of(model, tokens=TOKENS):
    out = model(tokens)
    return getattr(out, "logits", out)


def load_theirs(folder, **options) -> LlamaForCausalLM:
    """Let transformers read a folder; it must miss nothing and find nothing that it does not know."""
    model, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def assert_same_logits(model, reference):
    expected = logits_of(reference)
    assert expected.std() > 0.3  # nearly equal logits would make every comparison pass
    torch.testing.assert_close(logits_of(model), expected, atol=1e-5, rtol=1e-5)


def assert_same_model(model, reference):
    assert model.config == reference.config
    weights, expected = dict(model.named_parameters()), dict(reference.named_parameters())
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert torch.equal(logits_of(model), logits_of(reference))


def train_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, vocab_size=280)


# ---------------------------------------------------------------- Hugging Face


@every_variant_of_theirs
@pytest.mark.parametrize("max_shard_size", ["1GB", "12KB"], ids=["one-file", "sharded"])
def test_a_model_that_transformers_saved_gives_its_logits(tmp_path, changes, max_shard_size):
    theirs = make_theirs(**changes)
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (max_shard_size == "12KB")
    ours, tokenizer = load(tmp_path)
    assert tokenizer is None
    assert ours.config.n_kv_heads == theirs.config.num_key_value_heads
    assert_same_logits(ours, theirs)


@every_variant_of_ours
@pytest.mark.parametrize("max_shard_bytes", [10**9, 12_000], ids=["one-file", "sharded"])
def test_transformers_reads_what_we_saved_and_gives_our_logits(tmp_path, make_model, changes, max_shard_bytes):
    ours = make_model(**changes)
    save(ours, tmp_path, format="huggingface", max_shard_bytes=max_shard_bytes)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 2) == (max_shard_bytes == 12_000)
    assert all(file.stat().st_size < max_shard_bytes + 2000 for file in files)  # the header comes on top
    theirs = load_theirs(tmp_path)
    assert theirs.config.num_key_value_heads == ours.config.n_kv_heads
    assert_same_logits(theirs, ours)


@every_variant_of_ours
def test_a_model_comes_back_from_the_huggingface_format_to_the_bit(tmp_path, make_model, changes):
    model = make_model(**changes)
    save(model, tmp_path, format="huggingface")
    loaded, _ = load(tmp_path)
    if "ntk" not in str(changes):
        return assert_same_model(loaded, model)
    assert loaded.config.rope_scaling is None  # exported as another base
    return assert_same_logits(loaded, model)


@every_variant_of_theirs
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_a_config_in_the_style_of_transformers_4_means_the_same(changes, key):
    new = make_theirs(**changes).config.to_dict()
    rope = dict(new["rope_parameters"])
    old = {name: value for name, value in new.items() if name != "rope_parameters"}
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    old["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    assert config_from_huggingface(old) == config_from_huggingface(new)
    assert config_from_huggingface(config_to_huggingface(config_from_huggingface(new))) == config_from_huggingface(new)


def test_fields_that_transformers_leaves_out_mean_its_defaults():
    sizes = {"hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 6}
    theirs = HuggingFaceConfig(**sizes, vocab_size=9)
    ours = config_from_huggingface({"model_type": "llama", "vocab_size": 9, **sizes})
    assert ours == config_from_huggingface(theirs.to_dict())
    assert (ours.norm_eps, ours.max_seq_len) == (theirs.rms_norm_eps, theirs.max_position_embeddings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_dtype_is_kept_unless_another_is_asked_for(tmp_path, make_model, dtype):
    model = make_model(n_kv_heads=2).to(dtype)
    save(model, tmp_path)
    loaded, _ = load(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert_same_model(loaded, model)
    assert load_theirs(tmp_path, dtype="auto").dtype == dtype
    wide, _ = load(tmp_path, dtype=torch.float64)
    assert all(torch.equal(p, q.double()) for p, q in zip(wide.parameters(), model.parameters(), strict=True))


def test_weights_that_transformers_does_not_use_are_ignored(tmp_path, make_model):
    """Old files hold a buffer per layer; a tied model may repeat its embeddings."""
    from safetensors.torch import load_file, save_file

    model = make_model(tie_embeddings=True)
    save(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    assert_same_model(load(tmp_path)[0], model)


def test_another_context_than_the_files_own(tmp_path, make_model):
    model = make_model()
    save(model, tmp_path)
    longer, _ = load(tmp_path, max_seq_len=50)
    assert longer.config == model.config.replace(max_seq_len=50)
    assert_same_logits(longer, model)


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_greedy_generation_is_that_of_transformers_and_ends_where_it_should(tmp_path, make_model, with_tokenizer):
    """At the tokenizer's end token; without a tokenizer nowhere, and not at token 2 either."""
    tokenizer = train_tokenizer() if with_tokenizer else None
    model = make_model(vocab_size=280, n_kv_heads=2, seed=3)
    prompt = [5, 7, 11]
    written = generate(model, None, [prompt], max_new_tokens=20)[0].tokens
    end = tokenizer.eos_id if tokenizer else 2
    fifth = written[4]
    assert len(set(written[:5])) > 1
    assert not {fifth, end} & set(written[:4])
    swapped = model.output.weight.data
    swapped[[fifth, end]] = swapped[[end, fifth]]  # now the fifth token is the one that may mean the end

    save(model, tmp_path, tokenizer)
    ours = generate(model, tokenizer, [prompt], max_new_tokens=20)[0]
    theirs = load_theirs(tmp_path).generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, 3:].tolist()
    assert ours.tokens[:4] == written[:4]
    assert theirs == (written[:4] + [end] if with_tokenizer else ours.tokens)
    assert len(ours.tokens) == (4 if with_tokenizer else 20)


def test_auto_tokenizer_reads_our_tokenizer(tmp_path, make_model):
    ours = train_tokenizer()
    save(make_model(vocab_size=280), tmp_path, ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = ours.encode(text, allow_special=True)  # transformers always reads the names of special tokens
        assert theirs(text).input_ids == [ours.bos_id, *ids]
        assert theirs.decode(ids) == ours.decode(ids, skip_special=False)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert theirs.model_max_length == 32


def test_the_tokenizer_comes_back(tmp_path, make_model):
    ours = train_tokenizer()
    for format in ("huggingface", "native", "meta"):
        save(make_model(vocab_size=280), tmp_path / format, ours, format=format)
        assert load(tmp_path / format)[1].fingerprint == ours.fingerprint


def test_a_tokenizers_own_settings_are_kept(tmp_path, make_model):
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|pad|>", "chat_template": "{{ x }}"}
    (tmp_path / "theirs").mkdir()
    train_tokenizer().save(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HuggingFaceTokenizer(tmp_path / "theirs")
    save(make_model(vocab_size=280), tmp_path / "ours", tokenizer)
    assert read_json(tmp_path / "ours" / "tokenizer_config.json") == settings
    assert read_json(tmp_path / "ours" / "config.json")["eos_token_id"] == 279


# ------------------------------------------------------------------------ Meta


def cut_as_meta(model, rank: int, n_ranks: int, *, embedding_axis: int) -> dict[str, torch.Tensor]:
    """Return what one rank of Meta's model-parallel code holds.

    ``ColumnParallelLinear`` keeps some of the outputs, ``RowParallelLinear`` some of the inputs. LLaMA-1 and -2 cut
    the width of the embedding, Llama 3 its vocabulary. Where kv heads are fewer than ranks, neighbors share one.
    """

    def part(size: int, rank: int, n_ranks: int) -> slice:
        return slice(rank * size // n_ranks, (rank + 1) * size // n_ranks)

    shard = {"rope.freqs": torch.ones(4)}
    for name, weight in model.state_dict().items():
        kind = name.split(".")[-2]
        if kind in ("wq", "w1", "w3", "output"):
            weight = weight[part(weight.shape[0], rank, n_ranks)]
        elif kind in ("wk", "wv"):
            n_parts = min(n_ranks, model.config.n_kv_heads)
            weight = weight[part(weight.shape[0], rank * n_parts // n_ranks, n_parts)]
        elif kind in ("wo", "w2"):
            weight = weight[:, part(weight.shape[1], rank, n_ranks)]
        elif kind == "tok_embeddings":
            cut = part(weight.shape[embedding_axis], rank, n_ranks)
            weight = weight[cut] if embedding_axis == 0 else weight[:, cut]
        shard[name] = weight.clone()
    return shard


def write_as_meta(model, folder: Path, n_ranks: int, *, embedding_axis: int = 1, **params) -> None:
    config = model.config
    for rank in range(n_ranks):
        torch.save(
            cut_as_meta(model, rank, n_ranks, embedding_axis=embedding_axis), folder / f"consolidated.{rank:02}.pth"
        )
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "norm_eps": config.norm_eps, "vocab_size": -1} | params
    if config.n_kv_heads != config.n_heads:
        params["n_kv_heads"] = config.n_kv_heads
    # 8/3 · 32 rounds down to 85; times 1.3 to 110; up to a multiple of 16 it is 112.
    (folder / "params.json").write_text(json.dumps(params | {"multiple_of": 16, "ffn_dim_multiplier": 1.3}))


@pytest.mark.parametrize("format", ["native", "huggingface"])
def test_a_file_copied_over_a_checkpoint_leaves_a_loaded_model_alone(tmp_path, make_model, format):
    """Weights that are the file, mapped into memory, would change with it."""
    save(make_model(), tmp_path, format=format)
    model = load(tmp_path)[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
@pytest.mark.parametrize("embedding_axis", [1, 0], ids=["llama-2", "llama-3"])
def test_a_folder_of_metas_gives_the_logits_of_the_model_in_it(
    tmp_path, make_model, n_kv_heads, n_ranks, embedding_axis
):
    model = make_model(n_kv_heads=n_kv_heads, hidden_dim=112, vocab_size=64, norm_eps=0.1, max_seq_len=2048)
    write_as_meta(model, tmp_path, n_ranks, embedding_axis=embedding_axis)
    loaded, _ = load(tmp_path)
    assert_same_model(loaded, model)


def test_scaled_rope_of_metas_is_the_llama3_scaling_of_transformers(tmp_path, make_model):
    scaling = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    sizes = {"hidden_dim": 112, "vocab_size": 64, "rope_theta": 500_000.0, "max_seq_len": 131_072}
    model = make_model(**sizes, rope_scaling=scaling)
    (tmp_path / "meta").mkdir()
    write_as_meta(model, tmp_path / "meta", 2, embedding_axis=0, rope_theta=500_000.0, use_scaled_rope=True)
    save(model, tmp_path / "huggingface")
    theirs = load_theirs(tmp_path / "huggingface")
    assert_same_logits(load(tmp_path / "meta")[0], theirs)
    difference = logits_of(make_model(**sizes)) - logits_of(theirs)
    assert difference.abs().max() > 1e-4  # the scaling shows within 30 tokens


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_the_shards_we_write_are_the_slices_that_metas_ranks_hold(tmp_path, make_model, n_shards):
    model = make_model(vocab_size=64)
    save(model, tmp_path, format="meta", n_shards=n_shards)
    for rank in range(n_shards):
        written = torch.load(tmp_path / f"consolidated.{rank:02}.pth", weights_only=True)
        expected = cut_as_meta(model, rank, n_shards, embedding_axis=1)
        assert written.keys() == expected.keys() - {"rope.freqs"}
        assert all(torch.equal(written[name], expected[name]) for name in written)
    # A slice must not bring along the storage of the whole.
    sizes = [file.stat().st_size for file in tmp_path.glob("*.pth")]
    assert max(sizes) < sum(p.nbytes for p in model.parameters()) / n_shards + 20_000


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 2}, {"hidden_dim": 256}, {"hidden_dim": 50}, {"max_seq_len": 2048}, {"rope_theta": 5e5}],
    ids=str,
)
@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_model_comes_back_from_metas_format_to_the_bit(tmp_path, make_model, changes, n_shards):
    model = make_model(vocab_size=64, **changes)
    save(model, tmp_path, format="meta", n_shards=n_shards)
    assert_same_model(load(tmp_path)[0], model)


def test_tied_embeddings_are_written_twice_for_metas_code(tmp_path, make_model):
    model = make_model(tie_embeddings=True)
    save(model, tmp_path, format="meta")
    assert_same_logits(load(tmp_path)[0], model)


def test_every_feed_forward_width_can_be_written_in_metas_terms(make_model):
    from llama_minimal.checkpoint.meta import config_to_params

    config = make_model().config
    for dim in (8, 32, 96, 4096):
        for hidden_dim in [*range(1, 70), 256, 1000, 11_008, 14_336]:
            wanted = config.replace(dim=dim, hidden_dim=hidden_dim)
            params = config_to_params(wanted)
            # The formula of Meta's FeedForward, in its own order of rounding.
            width = int(2 * 4 * dim / 3)
            if "ffn_dim_multiplier" in params:
                width = int(params["ffn_dim_multiplier"] * width)
            multiple_of = params["multiple_of"]
            assert multiple_of * ((width + multiple_of - 1) // multiple_of) == hidden_dim
            again = config_from_params(params, vocab_size=config.vocab_size)
            assert again.replace(max_seq_len=wanted.max_seq_len) == wanted


def test_the_published_shapes_are_written_with_metas_own_fields():
    """Meta's code passes the file's fields on beside its own ``max_seq_len``, so that one must not be among them."""
    from llama_minimal.checkpoint.meta import config_to_params
    from llama_minimal.config import preset

    known = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier"}
    known |= {"norm_eps", "rope_theta", "use_scaled_rope"}
    for name in ("llama-7b", "llama3-8b", "llama3.1-8b"):
        assert config_to_params(preset(name)).keys() <= known


# ------------------------------------------------------- the package's own format


def test_every_switch_comes_back_from_the_native_format_to_the_bit(tmp_path, make_model, switches):
    model = make_model(**switches)
    save(model, tmp_path, format="native")
    loaded, _ = load(tmp_path)
    assert_same_model(loaded, model)
    assert (loaded.output.weight is loaded.tok_embeddings.weight) == model.config.tie_embeddings


def test_left_to_itself_a_model_is_saved_for_transformers_wherever_that_is_possible(tmp_path, make_model, switches):
    model = make_model(**switches)
    save(model, tmp_path)
    assert_same_model(load(tmp_path)[0], model)
    possible = not switches.keys() & {"norm", "norm_placement", "ffn", "position", "share_layers"}
    assert read_json(tmp_path / "config.json")["model_type"] == ("llama" if possible else "llama_minimal")
    if possible:
        assert_same_logits(load_theirs(tmp_path), model)


@pytest.mark.parametrize("scaling", [OURS["ntk"], OURS["linear"], OURS["llama3"]], ids=["ntk", "linear", "llama3"])
def test_rotary_scaling_comes_back_from_the_native_format(tmp_path, make_model, scaling):
    save(make_model(**scaling), tmp_path, format="native")
    assert_same_model(load(tmp_path)[0], make_model(**scaling))


def test_a_snapshot_is_a_model_and_a_run_is_its_newest_snapshot(tmp_path, make_model):
    run = tmp_path / "run"
    tokenizer = train_tokenizer()
    tokenizer.save(run)
    models = {step: make_model(seed=step, vocab_size=280, ffn="gelu") for step in (9, 10, 100)}
    for step, model in models.items():
        scaler = torch.amp.GradScaler(enabled=False)
        save_snapshot(run / "snapshots", step, model, make_adamw(model, lr=1.0), scaler, run={}, keep=3)
    for step, model in models.items():
        loaded, found = load(run / "snapshots" / f"step-{step:08d}")
        assert_same_model(loaded, model)
        assert found.fingerprint == tokenizer.fingerprint
    assert_same_model(load(run)[0], models[100])
    assert load(run)[1].fingerprint == tokenizer.fingerprint
    save(models[9], run, tokenizer)  # the finished model comes before any snapshot
    assert_same_model(load(run)[0], models[9])


# ---------------------------------------------------------------------- memory

MEASURE = textwrap.dedent("""
    import ctypes, gc, os, sys, threading, time
    from pathlib import Path
    import torch
    from llama_minimal.checkpoint import load, save
    from llama_minimal.config import LlamaConfig
    from llama_minimal.model import build

    def anonymous() -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024

    def watch():
        while not done:
            peaks.append(anonymous())
            time.sleep(0.001)

    sys.setswitchinterval(0.0002)
    os.fsync = lambda descriptor: None
    out = Path(sys.argv[1])
    config = LlamaConfig(dim=512, n_layers=4, n_heads=8, n_kv_heads=4, vocab_size=8000, hidden_dim=1536, max_seq_len=8)
    model = build(config, seed=None)
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    save(model, out / "one")
    save(model, out / "sharded", max_shard_bytes=40_000_000)
    save(model, out / "meta", format="meta", n_shards=2)
    size = sum(p.nbytes for p in model.parameters()) / 2**20
    largest = max(p.nbytes for p in model.parameters()) / 2**20
    del model
    print(size, largest)
    for name in ("one", "sharded", "meta"):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        before, done, peaks = anonymous(), False, []
        thread = threading.Thread(target=watch)
        thread.start()
        model, _ = load(out / name)
        peaks.append(anonymous())
        done = True
        thread.join()
        print(max(peaks) - before, len(peaks))
        del model
""")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a process's memory")
def test_loading_takes_the_memory_of_the_model_and_one_tensor(tmp_path):
    result = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    (size, largest), *loads = [map(float, line.split()) for line in result.stdout.splitlines()]
    assert size > 60
    assert len(loads) == 3
    for peak, n_samples in loads:
        assert n_samples > 10
        assert 0.95 * size < peak < size + largest + 5
