"""The config: what it refuses, what it counts, and that it survives JSON."""

import dataclasses
import itertools
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.config import PRESETS, LlamaConfig, RopeScaling, ffn_width, preset, read_json
from llama_minimal.cost import parameters
from llama_minimal.model import build

SIZES = {"dim": 64, "n_layers": 4, "n_heads": 4, "vocab_size": 100}
NAN = float("nan")


def refuse(*says, **changes):
    """Check that the config is refused, with all of ``says`` in the message."""
    with pytest.raises(ValueError) as error:
        LlamaConfig(**(SIZES | changes))
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_heads": 3}, ["dim=64", "n_heads=3", "use n_heads 1, 2 or 4"]),
        ({"n_heads": 128}, ["dim=64", "n_heads=128", "use n_heads 16, 32 or 64"]),
        ({"n_kv_heads": 3}, ["n_heads=4", "n_kv_heads=3", "use n_kv_heads 1, 2 or 4"]),
        ({"n_kv_heads": 8}, ["n_heads=4", "n_kv_heads=8"]),
        ({"share_layers": 3}, ["n_layers=4", "share_layers=3"]),
        ({"dim": 12}, ["'rope'", "dim=12", "n_heads=4", "odd width of 3"]),
        ({"head_dim": 5}, ["'rope'", "head_dim=5", "odd width of 5"]),
        ({"dim": 7, "n_heads": 1, "position": "sinusoidal"}, ["'sinusoidal'", "odd width of 7"]),
        ({"norm": "batch"}, ["norm='batch'", "'rms', 'layer'"]),
        ({"norm_placement": "sandwich"}, ["norm_placement='sandwich'", "'pre', 'post'"]),
        ({"ffn": "geglu"}, ["ffn='geglu'", "'swiglu', 'gelu', 'relu'"]),
        ({"position": "alibi"}, ["position='alibi'", "'rope', 'sinusoidal', 'none'"]),
        ({"bias": "yes"}, ["bias='yes'", "True, False, 'attention', 'feed_forward'"]),
        ({"tie_embeddings": None}, ["tie_embeddings=None", "True, False"]),
        ({"rope_theta": NAN}, ["rope_theta=nan", "at least 1"]),
        ({"rope_theta": 0.5}, ["rope_theta=0.5", "at least 1"]),
        ({"rope_theta": float("inf")}, ["rope_theta=inf", "finite"]),
        ({"norm_eps": NAN}, ["norm_eps=nan", "at least 0"]),
        ({"norm_eps": -1e-5}, ["norm_eps=-1e-05", "at least 0"]),
        ({"norm_eps": "1e-5"}, ["norm_eps='1e-5'", "number"]),
        ({"dim": 8, "rope_scaling": RopeScaling(kind="ntk", factor=2.0)}, ["'ntk'", "4 or more, not 2"]),
        ({"head_dim": 2, "rope_scaling": RopeScaling(kind="dynamic", factor=2.0)}, ["'dynamic'", "4 or more, not 2"]),
        ({"rope_theta": 1, "rope_scaling": RopeScaling(kind="yarn", factor=2.0)}, ["'yarn'", "more than 1, not 1"]),
    ],
)
def test_a_config_that_cannot_be_names_the_value_and_what_is_allowed(changes, says):
    refuse(*says, **changes)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "8", NAN])
@pytest.mark.parametrize(
    "name",
    ["dim", "n_layers", "n_heads", "vocab_size", "max_seq_len", "share_layers", "n_kv_heads", "hidden_dim", "head_dim"],
)
def test_a_size_is_a_whole_number_of_at_least_one(name, value):
    refuse(f"{name}={value!r}", "whole number of at least 1", **{name: value})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "longrope"}, ["rope_scaling.kind='longrope'", "'linear', 'ntk', 'llama3', 'yarn', 'dynamic'"]),
        ({"attention_factor": 0.0}, ["rope_scaling.attention_factor=0.0", "more than 0"]),
        ({"beta_fast": -1}, ["rope_scaling.beta_fast=-1", "more than 0"]),
        ({"beta_slow": NAN}, ["rope_scaling.beta_slow=nan", "more than 0"]),
        ({"truncate": "no"}, ["rope_scaling.truncate='no'", "True, False"]),
        ({"factor": 0.5}, ["rope_scaling.factor=0.5", "at least 1"]),
        ({"factor": NAN}, ["rope_scaling.factor=nan", "at least 1"]),
        ({"original_max_seq_len": 0}, ["rope_scaling.original_max_seq_len=0", "at least 1"]),
        ({"low_freq_factor": 4.0}, ["low_freq_factor=4.0", "0 < low < high"]),
        ({"low_freq_factor": 0.0}, ["low_freq_factor=0.0", "0 < low < high"]),
        ({"high_freq_factor": NAN}, ["high_freq_factor=nan", "0 < low < high"]),
    ],
)
def test_a_rope_scaling_that_cannot_be_names_the_value_and_what_is_allowed(values, says):
    with pytest.raises(ValueError) as error:
        RopeScaling(**({"kind": "llama3", "factor": 8.0} | values))
    for part in says:
        assert part in str(error.value)


@given(st.integers(1, 300), st.integers(1, 300))
def test_every_number_of_heads_that_the_message_suggests_divides_the_width(dim, n_heads):
    try:
        LlamaConfig(**(SIZES | {"dim": dim, "n_heads": n_heads, "position": "none"}))
    except ValueError as error:
        suggested = re.findall(r"\d+", str(error).split("; use n_heads ")[1])
        assert suggested
        assert all(dim % int(n) == 0 for n in suggested)
    else:
        assert dim % n_heads == 0


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'llama-8b'") as error:
        preset("llama-8b")
    assert all(name in str(error.value) for name in PRESETS)


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(ValueError, match=r"\['heads', 'width'\].*'n_heads'"):
        LlamaConfig.from_dict(SIZES | {"width": 3, "heads": 4})
    with pytest.raises(ValueError, match=r"lacks \['dim', 'n_heads'\]"):
        LlamaConfig.from_dict({"n_layers": 1, "vocab_size": 3})


@pytest.mark.parametrize(
    "rope_scaling", [{"kind": "linear", "factor": 2.0, "base": 1}, {"kind": "linear"}, "linear", ["linear", 2.0]]
)
def test_a_rope_scaling_of_the_wrong_shape_is_a_value_error(rope_scaling):
    """A checkpoint's config.json is what a user can pass."""
    refuse("rope_scaling", rope_scaling=rope_scaling)


@pytest.mark.parametrize("content", ["[1, 2]", "{", "\ufeff{}", b"\xff\xfe"])
def test_json_that_holds_no_object_names_the_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"config\.json"):
        read_json(path)


def test_a_config_cannot_be_changed_and_a_changed_copy_is_checked_again():
    config = preset("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3
    assert config.replace(n_kv_heads=1).n_kv_heads == 1
    assert config.n_kv_heads == 2
    with pytest.raises(ValueError, match="n_kv_heads=3"):
        config.replace(n_kv_heads=3)
    with pytest.raises(ValueError, match="n_kv_heads=3"):
        preset("tiny", n_kv_heads=3)


def test_the_width_of_a_head_follows_the_others_unless_it_is_given():
    config = preset("tiny")
    assert (config.head_dim, config.replace(dim=128).head_dim, config.replace(n_heads=2).head_dim) == (16, 32, 32)
    own = config.replace(head_dim=24)
    assert (own.head_dim, own.replace(dim=128).head_dim, own.replace(head_dim=None).head_dim) == (24, 24, 16)
    assert own.replace(dim=63, n_heads=2).head_dim == 24  # heads of their own width need not divide the model's


def test_a_config_shows_the_width_of_a_head_only_where_it_is_its_own():
    """The text is the call that makes the config again."""
    for config in (preset("tiny"), preset("tiny", head_dim=24), preset("llama3.2-1b")):
        shown = repr(config)
        assert ("head_dim" in shown) == (config.head_dim == 24)
        assert eval(shown, {"LlamaConfig": LlamaConfig, "RopeScaling": RopeScaling}) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    assert LlamaConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


@st.composite
def configs(draw):
    n_kv_heads, share_layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 4))
    scaling = st.builds(
        RopeScaling,
        kind=st.sampled_from(["linear", "ntk", "llama3", "yarn", "dynamic"]),
        factor=st.floats(1, 64),
        low_freq_factor=st.floats(0.1, 1),
        high_freq_factor=st.floats(1.5, 8),
        original_max_seq_len=st.integers(1, 8192),
        attention_factor=st.none() | st.floats(0.1, 4),
        truncate=st.booleans(),
    )
    return LlamaConfig(
        dim=n_heads * draw(st.sampled_from([4, 6, 64])),
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([None, n_kv_heads])),
        n_layers=share_layers * draw(st.integers(1, 4)),
        share_layers=share_layers,
        vocab_size=draw(st.integers(1, 1000)),
        hidden_dim=draw(st.none() | st.integers(1, 1000)),
        norm_eps=draw(st.floats(0, 1)),
        head_dim=draw(st.sampled_from([None, 4, 10])),
        rope_theta=draw(st.floats(1, 1e7, exclude_min=True)),
        rope_scaling=draw(st.none() | scaling),
        norm=draw(st.sampled_from(["rms", "layer"])),
        ffn=draw(st.sampled_from(["swiglu", "gelu", "relu"])),
        position=draw(st.sampled_from(["rope", "sinusoidal", "none"])),
        bias=draw(st.sampled_from([False, True, "attention", "feed_forward"])),
        tie_embeddings=draw(st.booleans()),
    )


@given(configs())
def test_every_config_survives_json(config):
    assert LlamaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# Sizes of the published checkpoints, counted in their files.
@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-30b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("stories-15m", 15_191_712),
    ],
)
def test_the_presets_have_the_published_sizes(name, n_parameters):
    assert sum(p.numel() for p in build(PRESETS[name], device="meta").parameters()) == n_parameters


# dim, multiple_of and ffn_dim_multiplier of each params.json, and the width in the release's weights.
@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "width"),
    [
        (4096, 256, 1.0, 11008),
        (5120, 256, 1.0, 13824),
        (6656, 256, 1.0, 17920),
        (8192, 256, 1.0, 22016),
        (8192, 4096, 1.3, 28672),
        (4096, 1024, 1.3, 14336),
        (2048, 256, 1.5, 8192),
        (3072, 256, 1.0, 8192),
    ],
)
def test_the_feed_forward_has_the_published_widths(dim, multiple_of, multiplier, width):
    assert ffn_width(dim, multiple_of=multiple_of, multiplier=multiplier) == width


def component(name):
    """Return which of cost's components a parameter belongs to."""
    kinds = ("attention.", "feed_forward.", "norm", "tok_embeddings", "output")
    labels = ("attention", "feed-forward", "norms", "embeddings", "output")
    return next(label for kind, label in zip(kinds, labels, strict=True) if kind in name)


def count(config):
    built = Counter(dict.fromkeys(parameters(config), 0))
    for name, parameter in build(config, device="meta").named_parameters():
        built[component(name)] += parameter.numel()
    return dict(built)


@pytest.mark.parametrize("name", PRESETS)
def test_the_counted_parameters_of_a_preset_are_those_of_the_model(name):
    assert parameters(PRESETS[name]) == count(PRESETS[name])


def test_the_counted_parameters_are_those_of_the_model_for_every_combination_of_switches():
    options = {
        "norm": ["rms", "layer"],
        "norm_placement": ["pre", "post"],
        "ffn": ["swiglu", "gelu", "relu"],
        "position": ["rope", "sinusoidal", "none"],
        "bias": [False, True, "attention", "feed_forward"],
        "head_dim": [None, 6],
        "tie_embeddings": [False, True],
        "share_layers": [1, 2],
        "n_kv_heads": [1, 4],
    }
    for values in itertools.product(*options.values()):
        config = LlamaConfig(
            dim=16, n_layers=2, n_heads=4, vocab_size=11, hidden_dim=24, **dict(zip(options, values, strict=True))
        )
        assert parameters(config) == count(config), config
