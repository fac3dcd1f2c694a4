"""GGUF files: against the gguf library's own reader and quantizer, and what transformers makes of them."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_tokenizers import KNOWN, MUCH, all_kinds, smollm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoModelForCausalLM, AutoTokenizer
from wild_tokenizers import byte_fallback, byte_level, docs, put, sentencepiece_model

import llama_minimal as lm
from llama_minimal.cli import main
from llama_minimal.config import RopeScaling
from llama_minimal.course.gguf_readers import leave_out, read_by_transformers
from llama_minimal.data import documents
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.positions import rope_table
from llama_minimal.quantization import quantize
from llama_minimal.reference import gguf as reference
from llama_minimal.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer

ROOT = Path(__file__).parents[1]
OURS = Tokenizer.train([docs()], vocab_size=300)
CHAT = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course model in float32, its tokenizer, and the folder of its file."""
    model, tokenizer = lm.load("course", dtype="float32")
    folder = tmp_path_factory.mktemp("course")
    lm.save_gguf(model, folder / "model.gguf", tokenizer)
    return model, tokenizer, folder


def read(path):
    """Return the values and the tensors of a file, by name."""
    reader = gguf.GGUFReader(path)
    return {k: f.contents() for k, f in reader.fields.items()}, {t.name: t for t in reader.tensors}


def numbers(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


# -------------------------------------------------------------------- blocks of 32

floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
rows = arrays(np.float32, st.tuples(st.integers(1, 3), st.sampled_from([32, 64, 96])), elements=floats)


@given(rows | rows.map(lambda x: np.round(x) / 2) | rows.map(np.zeros_like))
@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_blocks_are_those_of_the_library_to_the_last_bit(kind, x):
    """Halves, ties between the farthest, and zeros among them."""
    to, back, pack = (getattr(reference, f"{verb}_{kind}") for verb in ("to", "from", "pack"))
    theirs = gguf.GGMLQuantizationType[kind.upper()]
    step, codes = to(x)
    packed = pack(step, codes)
    np.testing.assert_array_equal(packed, gguf.quants.quantize(x, theirs))
    np.testing.assert_array_equal(back(step, codes), gguf.quants.dequantize(packed, theirs))


def test_a_block_by_hand():
    x = np.zeros(32, np.float32)
    x[:5] = 6.35, -3.2, 0.025, -0.025, 0.12
    step, codes = reference.to_q8_0(x)
    assert codes[0, :5].tolist() == [127, -64, 1, -1, 2]  # step 0.05: -64; halves away from zero
    assert step == np.float16(0.05)
    x[:5] = -4.0, 4.0, 1.0, -1.2, 0.3
    step, codes = reference.to_q4_0(x)
    assert (step, codes[0, :6].tolist()) == (0.5, [0, 15, 10, 6, 9, 8])  # 4.0 has no place: 3.5
    assert reference.from_q4_0(step, codes)[:5].tolist() == [-4.0, 3.5, 1.0, -1.0, 0.5]
    step, codes = reference.to_q4_0(-x)
    assert (step, codes[0, :2].tolist()) == (-0.5, [0, 15])  # the sign of the step turns the grid


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_what_no_block_can_hold_is_refused(kind):
    to = getattr(reference, f"to_{kind}")
    with pytest.raises(ValueError, match="no multiple of 32"):
        to(np.ones((2, 33), np.float32))
    with pytest.raises(ValueError, match="more than float16 holds"):
        to(np.full(32, 1e8, np.float32))


# ------------------------------------------------------------------- what a file says


def test_a_model_of_ours_says_all_that_llama_cpp_takes_for_granted(tmp_path, make_model):
    """Each of these keys, left out, has a default that is another model, and no program says a word."""
    sizes = {"dim": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 12, "hidden_dim": 96, "vocab_size": 310}
    model = make_model(**sizes, rope_theta=5e5, norm_eps=1e-3, max_seq_len=77)
    lm.save_gguf(model, tmp_path / "m.gguf", OURS)
    values, _ = read(tmp_path / "m.gguf")
    expected = {
        "general.architecture": "llama",
        "llama.vocab_size": 310,
        "llama.context_length": 77,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 12,
        "llama.attention.value_length": 12,
        "llama.rope.dimension_count": 12,
        "llama.rope.freq_base": 5e5,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-3),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "trillion",
        "tokenizer.ggml.bos_token_id": 297,
        "tokenizer.ggml.eos_token_id": 298,
        "tokenizer.ggml.padding_token_id": 299,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {key: values.get(key) for key in expected} == expected
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == len(kinds) == 310  # one for each embedding
    assert kinds == [1] * 297 + [3] * 3 + [5] * 10  # normal, control, unused
    assert tokens[297:300] == ["<|bos|>", "<|eos|>", "<|pad|>"]
    assert values["tokenizer.ggml.merges"][0] == " ".join(tokens[i] for i in OURS.merges[0])
    assert len(values["tokenizer.ggml.merges"]) == 297 - 256


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (RopeScaling(kind="linear", factor=4.0), {"type": "linear", "factor": 4.0}),
        (
            RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32),
            {"type": "yarn", "factor": 4.0, "original_context_length": 32, "attn_factor": 1.0},
        ),
        (
            RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32, attention_factor=1.5),
            {"type": "yarn", "attn_factor": pytest.approx(1.5 / (1 + 0.1 * np.log(4)))},
        ),
        (None, {"type": None, "factor": None}),
    ],
    ids=str,
)
def test_rotary_scaling_stands_in_keys(tmp_path, make_model, scaling, expected):
    lm.save_gguf(make_model(rope_scaling=scaling), tmp_path / "m.gguf")
    values, tensors = read(tmp_path / "m.gguf")
    assert {key: values.get(f"llama.rope.scaling.{key}") for key in expected} == expected
    assert "rope_freqs.weight" not in tensors


@pytest.mark.parametrize("changes", [c for c in KNOWN if "rope_scaling" in c], ids=str)
def test_the_angles_that_a_file_asks_for_are_the_models(tmp_path, make_model, changes):
    """Computed from the file alone, as llama.cpp computes them: base, divisors, factor, YaRN's ramp and growth."""
    model = make_model(max_seq_len=MUCH, **changes)
    lm.save_gguf(model, tmp_path / "m.gguf")
    values, tensors = read(tmp_path / "m.gguf")
    said = {key.removeprefix("llama.rope."): value for key, value in values.items()}
    width, factor = said["dimension_count"], said.get("scaling.factor", 1.0)
    pairs = np.arange(width // 2)
    plain = said["freq_base"] ** (-2.0 * pairs / width)
    divisors = tensors["rope_freqs.weight"].data if "rope_freqs.weight" in tensors else np.ones(width // 2)
    angles, growth = plain / divisors / factor, 1.0
    if said.get("scaling.type") == "yarn":
        borders = [
            width
            * np.log(said["scaling.original_context_length"] / (turns * 2 * np.pi))
            / (2 * np.log(said["freq_base"]))
            for turns in (32, 1)
        ]
        low, high = max(0, np.floor(borders[0])), min(width - 1, np.ceil(borders[1]))
        keep = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
        angles = angles * (1 - keep) + plain * keep
        growth = (1 + 0.1 * np.log(factor)) * said["scaling.attn_factor"]
    where = np.outer(np.arange(MUCH), angles)
    cos, sin = rope_table(width, MUCH, model.config.rope_theta, model.config.rope_scaling)
    np.testing.assert_allclose(growth * np.cos(where), cos, atol=1e-4)
    np.testing.assert_allclose(growth * np.sin(where), sin, atol=1e-4)


@pytest.mark.parametrize("changes", KNOWN, ids=str)
def test_every_tensor_is_there_under_its_name_and_no_other(tmp_path, make_model, changes):
    model = make_model(**changes)
    lm.save_gguf(model, tmp_path / "m.gguf")
    _, tensors = read(tmp_path / "m.gguf")
    tensors.pop("rope_freqs.weight", None)
    expected = {
        "token_embd.weight": model.tok_embeddings.weight,
        "output_norm.weight": model.norm.weight,
        "output.weight": model.output.weight,
    }
    if changes.get("tie_embeddings"):
        del expected["output.weight"]
    for i, layer in model.layers.items():
        parts = dict(layer.named_parameters())
        for theirs, ours in {
            "attn_q": "attention.wq",
            "attn_k": "attention.wk",
            "attn_v": "attention.wv",
            "attn_output": "attention.wo",
            "ffn_gate": "feed_forward.w1",
            "ffn_up": "feed_forward.w3",
            "ffn_down": "feed_forward.w2",
            "attn_norm": "attention_norm",
            "ffn_norm": "ffn_norm",
        }.items():
            for part in ("weight", "bias"):
                if f"{ours}.{part}" in parts:
                    expected[f"blk.{i}.{theirs}.{part}"] = parts[f"{ours}.{part}"]
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        np.testing.assert_array_equal(tensor.data, expected[name].detach().numpy(), err_msg=name)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_matrices_get_the_type_that_is_asked_for_and_vectors_stay_whole(tmp_path, make_model, kind, dtype):
    model = make_model(dim=64, hidden_dim=48, bias=True).to(dtype)
    lm.save_gguf(model, tmp_path / "m.gguf", number_type=kind)
    values, tensors = read(tmp_path / "m.gguf")
    assert values["general.quantization_version"] == 2
    assert gguf.LlamaFileType(values["general.file_type"]).name.lower().endswith(kind)
    asked = gguf.GGMLQuantizationType[kind.upper()]
    weight = model.layers["0"].attention.wq.weight.detach().float().numpy()
    if kind == "bf16":
        expected = torch.from_numpy(weight).bfloat16().float().numpy()
    else:
        expected = gguf.quants.dequantize(gguf.quants.quantize(weight, asked), asked)
    np.testing.assert_array_equal(numbers(tensors["blk.0.attn_q.weight"]), expected)
    kinds = {name: tensor.tensor_type.name.lower() for name, tensor in tensors.items()}
    assert {kinds[name] for name in kinds if name.endswith(("norm.weight", ".bias"))} == {"f32"}
    assert kinds["token_embd.weight"] == kind
    # Rows of 48 numbers are no blocks of 32.
    assert kinds["blk.0.ffn_down.weight"] == ("f16" if kind.startswith("q") else kind)


def test_left_out_the_type_is_the_models_own(tmp_path, make_model):
    for dtype, kind in {
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.float64: "F32",
    }.items():
        lm.save_gguf(make_model().to(dtype), tmp_path / "m.gguf")
        assert read(tmp_path / "m.gguf")[1]["token_embd.weight"].tensor_type.name == kind


# --------------------------------------------------- the course model, by transformers


def test_transformers_reads_the_course_model_with_difference_0(course, as_transformers):
    """None to what it reads from its own files; ours computes in another order."""
    model, tokenizer, folder = course
    own = as_transformers(model)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompts = [tokenizer.encode_prompt(f"Once upon a time {name}") for name in ("there was", "a llama", "", "in May")]
    with torch.no_grad():
        for ids in prompts:
            logits = theirs(torch.tensor([ids])).logits
            assert (logits - own(torch.tensor([ids])).logits).abs().max() == 0.0
            torch.testing.assert_close(logits, model(torch.tensor([ids])), atol=1e-4, rtol=0)
            ours = lm.generate(model, tokenizer, [ids], max_new_tokens=40)[0].tokens
            text = theirs.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids) :].tolist()
            assert text == ours
    assert theirs.config.eos_token_id == tokenizer.eos_id  # so that a text ends


def test_transformers_gives_the_ids_of_the_course_tokenizer(course):
    _, tokenizer, folder = course
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (2045, 2046, 2047)
    lines = [line for d in documents("valley:60") for line in d.text.splitlines()] + docs().splitlines()[:300]
    assert len(lines) > 500
    for line in lines:
        assert theirs(line, add_special_tokens=False).input_ids == tokenizer.encode(line), line
    marked = "Hi!<|eos|> There"
    assert theirs(marked, add_special_tokens=False).input_ids == tokenizer.encode(marked, allow_special=True)
    assert theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)  # it came along


@pytest.mark.parametrize("changes", [c for c in KNOWN if not {"rope_scaling", "bias"} & c.keys()], ids=str)
def test_transformers_reads_every_shape_that_it_knows(tmp_path, make_model, changes):
    """It passes over biases and scalings, without a word (findings/gguf_in_transformers.sh)."""
    model = make_model(**changes)
    lm.save_gguf(model, tmp_path / "m.gguf", None)
    values, _ = read(tmp_path / "m.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=1e-5)
    assert values["tokenizer.ggml.model"] == "none"


# ------------------------------------------------------------ what a missing key means


@pytest.fixture(scope="module")
def odd(tmp_path_factory, make_model):
    """A model whose every key says something else than its default, and its file."""
    sizes = {"n_kv_heads": 2, "head_dim": 12, "rope_theta": 500.0, "norm_eps": 0.3, "vocab_size": 300}
    model = make_model(**sizes)
    path = tmp_path_factory.mktemp("odd") / "whole.gguf"
    lm.save_gguf(model, path, Tokenizer.train([docs()], vocab_size=300, special_tokens=(*SPECIAL_TOKENS, "<|turn|>")))
    return model, path


@pytest.mark.parametrize(
    ("key", "seen"),
    [
        ("llama.rope.freq_base", "logits"),
        ("llama.attention.layer_norm_rms_epsilon", "logits"),
        ("llama.attention.head_count_kv", "refused"),
        ("llama.rope.dimension_count", "refused"),
        ("llama.context_length", "context"),
        ("tokenizer.ggml.token_type", "special"),
        ("tokenizer.ggml.bos_token_id", "bos"),
        ("tokenizer.ggml.eos_token_id", "eos"),
        ("tokenizer.ggml.merges", "refused"),
    ],
)
def test_a_key_that_is_left_out_is_missed(tmp_path, odd, key, seen):
    """By transformers, whose defaults are others than llama.cpp's; for those see benchmarks/gguf_check.py."""
    model, path = odd
    found = [read_as(model, path)]
    leave_out(path, key, tmp_path / "spoiled.gguf")
    try:
        found.append(read_as(model, tmp_path / "spoiled.gguf"))
    except (RuntimeError, ValueError, KeyError):
        found.append({"refused": True})
    whole, spoiled = found
    assert whole["logits"] < 1e-4
    if seen == "logits":
        assert spoiled["logits"] > 0.1
    else:
        assert spoiled.get(seen, True) != whole.get(seen, False)


@torch.no_grad()
def read_as(model, path):
    theirs, tokenizer = read_by_transformers(path)
    tokens = torch.arange(20)[None]
    return {
        "logits": (theirs(tokens).logits - model(tokens)).abs().max().item(),
        "context": theirs.config.max_position_embeddings,
        "special": tokenizer("<|turn|>", add_special_tokens=False).input_ids,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
    }


def test_every_key_can_be_left_out_to_see_what_becomes_of_it(tmp_path, odd):
    _, path = odd
    values, _ = read(path)
    for key in [key for key in values if key.startswith(("llama.", "tokenizer."))]:
        leave_out(path, key, tmp_path / "spoiled.gguf")
        assert key not in read(tmp_path / "spoiled.gguf")[0]
    with pytest.raises(ValueError, match=r"has no key 'llama\.nothing'"):
        leave_out(path, "llama.nothing", tmp_path / "spoiled.gguf")


# ------------------------------------------------------------------------ tokenizers


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return dict(all_kinds(tmp_path_factory.mktemp("kinds")))


CUTS = {
    "ours-llama": ("gpt2", "trillion"),
    "ours-gpt2": ("gpt2", "trillion"),
    "ours-llama3": ("gpt2", "llama-bpe"),
    "gpt2-json": ("gpt2", "trillion"),
    "smollm-json": ("gpt2", "smollm"),
    "llama3-ranks": ("gpt2", "llama-bpe"),
    "llama3-json": ("gpt2", "llama-bpe"),
    "llama2-json": ("llama", None),
    "llama2-model": ("llama", None),
    "llama2-spaces": ("llama", None),
    "no-space-in-front": ("llama", None),
}


@pytest.mark.parametrize("name", CUTS)
def test_each_kind_of_tokenizer_has_its_name_and_roles(tmp_path, make_model, kinds, name):
    tokenizer = kinds[name]
    lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size + 2), tmp_path / "m.gguf", tokenizer)
    values, _ = read(tmp_path / "m.gguf")
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in values.items()}
    assert (said["model"], said.get("pre")) == CUTS[name]
    assert said["eos_token_id"] == tokenizer.eos_ids[0]
    assert said["bos_token_id"] == (tokenizer.eos_ids[0] if tokenizer.bos_id is None else tokenizer.bos_id)
    assert said["add_bos_token"] is bool(tokenizer.start_ids)
    assert [said[f"{n}_token_id"] for n in ("eot", "eom")[: len(tokenizer.eos_ids) - 1]] == [*tokenizer.eos_ids[1:]]
    for special, i in tokenizer.special_tokens.items():
        assert said["tokens"][i] == special
        assert said["token_type"][i] == (2 if special == "<unk>" else 3)
    if said["model"] == "llama":
        assert said["add_space_prefix"] is (name != "no-space-in-front")
        assert said["unknown_token_id"] == 0
        assert said["token_type"][3:259] == [6] * 256  # bytes


TEXTS = ["the cat sat on the mat", "The  quick 2024 brown\nfox's é 漢字!", "a\tb\n\n  c", "hello world"]


@pytest.mark.parametrize("name", [name for name in CUTS if name not in ("smollm-json", "no-space-in-front")])
def test_transformers_gives_the_ids_of_each_kind(tmp_path, make_model, kinds, name):
    """It knows no name for SmolLM2's cuts, and always puts a space in front of a sentencepiece text."""
    tokenizer = kinds[name]
    lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size), tmp_path / "m.gguf", tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in [*TEXTS, *docs().splitlines()[:100]]:
        if not text.startswith(" "):  # its Metaspace adds none there
            assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text), text


@pytest.mark.parametrize("name", ["llama2-json", "llama2-model", "llama2-spaces", "no-space-in-front"])
def test_joining_by_scores_gives_the_ids_of_joining_by_merges(tmp_path, make_model, kinds, name):
    """The definition, from the file alone: of all neighbors that are a token together, the best first."""
    tokenizer = kinds[name]
    lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size), tmp_path / "m.gguf", tokenizer)
    values, _ = read(tmp_path / "m.gguf")
    tokens, scores = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"]
    ids = {token: i for i, token in enumerate(tokens)}

    def by_scores(text):
        parts = list((" " * values["tokenizer.ggml.add_space_prefix"] + text).replace(" ", "▁"))
        while True:
            known = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]
            if not known:
                break
            i = -max(known)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        bytes_of = [[ids[p]] if p in ids else [ids[f"<0x{b:02X}>"] for b in p.encode()] for p in parts]
        return [i for one in bytes_of for i in one]

    for text in filter(None, [*TEXTS, "  two  spaces ", "x" + " " * 21 + "y" + " " * 7, *docs().splitlines()[:60]]):
        assert by_scores(text) == tokenizer.encode(text), text


def test_the_chat_template_comes_along(tmp_path, make_model):
    folder = put(tmp_path / "t", tokenizer_json=byte_level(), tokenizer_config_json={"chat_template": CHAT})
    tokenizer = load_tokenizer(folder)
    lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size), tmp_path / "m.gguf", tokenizer)
    assert read(tmp_path / "m.gguf")[0]["tokenizer.chat_template"] == CHAT
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[hi]"


def edited(tokenizer, change):
    content = json.loads(tokenizer.to_str())
    change(content)
    return content


def as_unigram(content):
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}


BPE = {"tokenizer_config_json": {"bos_token": "<s>", "eos_token": "</s>"}}


@pytest.mark.parametrize(
    ("build", "change", "says"),
    [
        (byte_level, as_unigram, "is Unigram"),
        (byte_level, lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "cuts text in a way"),
        (byte_level, lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "cuts text in a way"),
        (byte_level, lambda c: c.update(normalizer={"type": "NFC"}), "changes characters"),
        (byte_level, lambda c: c["added_tokens"][0].update(lstrip=True), "lstrip=true"),
        (byte_level, lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (byte_level, lambda c: c["model"].update(ignore_merges=True, merges=c["model"]["merges"][:9]), "do not make"),
        (
            byte_fallback,
            lambda c: c["model"]["merges"].insert(0, c["model"]["merges"].pop()),
            "not those of a SentencePiece model",
        ),
        (byte_fallback, lambda c: c["model"]["merges"].pop(), "not those of a SentencePiece model"),
        (lambda: byte_fallback(metaspace=True), lambda c: None, "treats spaces in a way"),
        (lambda: byte_fallback(start=("<|im_start|>",)), lambda c: None, "begins texts with the tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_file_cannot_say_of_a_tokenizer_is_refused(tmp_path, make_model, build, change, says):
    tokenizer = load_tokenizer(put(tmp_path / "t", tokenizer_json=edited(build(), change), **BPE))
    with pytest.raises(ValueError, match=says):
        lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size), tmp_path / "m.gguf", tokenizer)
    assert not [path for path in tmp_path.iterdir() if path.suffix != "" or path.is_file()]


def test_a_sentencepiece_model_that_is_no_byte_pair_encoding_is_refused(tmp_path, make_model):
    tokenizer = load_tokenizer(put(tmp_path, tokenizer_model=sentencepiece_model(model_type="unigram")))
    with pytest.raises(ValueError, match="no byte-pair encoding"):
        lm.save_gguf(make_model(vocab_size=tokenizer.vocab_size), tmp_path / "m.gguf", tokenizer)


def test_ends_that_a_file_cannot_name_are_refused(tmp_path, make_model):
    endless = Tokenizer(special_tokens=())
    with pytest.raises(ValueError, match="no token of the tokenizer ends a text"):
        lm.save_gguf(make_model(vocab_size=256), tmp_path / "m.gguf", endless)
    many = load_tokenizer(
        put(tmp_path / "t", tokenizer_json=smollm(), generation_config_json={"eos_token_id": [0, 1, 2, 3]})
    )
    with pytest.raises(ValueError, match="4 tokens end a text"):
        lm.save_gguf(make_model(vocab_size=many.vocab_size), tmp_path / "m.gguf", many)
    with pytest.raises(ValueError, match="has 300 tokens and the model embeddings for 299"):
        lm.save_gguf(make_model(vocab_size=299), tmp_path / "m.gguf", OURS)


# -------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"norm": "layer"}, "norm='layer'"),
        ({"norm_placement": "post"}, "norm_placement='post'"),
        ({"ffn": "gelu"}, "ffn='gelu'"),
        ({"position": "sinusoidal"}, "position='sinusoidal'"),
        ({"position": "none"}, "position='none'"),
        ({"share_layers": 2}, "share_layers=2"),
        ({"labels": ("bad", "good")}, "labels="),
        ({"rope_scaling": RopeScaling(kind="yarn", factor=4.0, beta_fast=16.0)}, "yarn with beta_fast=16.0"),
        ({"rope_scaling": RopeScaling(kind="yarn", factor=4.0, truncate=False)}, "yarn with truncate=False"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_format_does_not_know_is_refused(tmp_path, make_model, changes, says):
    with pytest.raises(ValueError, match=f"GGUF files has no .*{says}"):
        lm.save_gguf(make_model(**changes), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused_and_leave_nothing(tmp_path, make_model, monkeypatch):
    path = tmp_path / "m.gguf"
    adapted = make_model()
    add_adapter(adapted, "a", LoRAConfig(rank=2))
    few = quantize(make_model(), "int8")
    large, broken = make_model(), make_model()
    large.output.weight.data[0, 0] = 1e6
    broken.norm.weight.data[0] = torch.nan
    for model, says, kind in (
        (adapted, "no place for adapters", "f32"),
        (few, "no place for weights in int8", "f32"),
        (large, "more than float16 holds", "f16"),
        (broken, "holds NaN", "f32"),
        (lm.build(make_model().config, device="meta"), "meta device", "f32"),
        (make_model(), "is not one of f32, f16, bf16, q8_0, q4_0", "q4_k"),
    ):
        with pytest.raises(ValueError, match=says):
            lm.save_gguf(model, path, number_type=kind)
    with pytest.raises(ValueError, match=r"is a folder; give a file, such as .*model\.gguf"):
        lm.save_gguf(make_model(), tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"llama_minimal\[gguf\]"):
        lm.save_gguf(make_model(), path)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- the command


def test_convert_writes_a_file_or_a_folder_and_takes_no_ones_place(tmp_path, capsys):
    main(["convert", "course", str(tmp_path / "a" / "my.gguf"), "--format", "gguf", "--gguf-type", "q8_0"])
    main(["convert", "course", str(tmp_path / "b"), "--format", "gguf", "--dtype", "float16"])
    assert str(tmp_path / "b" / "model.gguf") in capsys.readouterr().out
    kinds = [
        {t.tensor_type.name for t in read(path)[1].values()}
        for path in (tmp_path / "a/my.gguf", tmp_path / "b/model.gguf")
    ]
    assert kinds == [{"Q8_0", "F16", "F32"}, {"F16", "F32"}]
    before = (tmp_path / "a/my.gguf").read_bytes()
    for target in ("a/my.gguf", "b"):
        with pytest.raises(SystemExit):
            main(["convert", "course", str(tmp_path / target), "--format", "gguf"])
        assert "give a new folder" in capsys.readouterr().err
    assert (tmp_path / "a/my.gguf").read_bytes() == before
    for flags, says in (
        (["--gguf-type", "q8_0"], "add --format gguf"),
        (["--format", "gguf", "--quantize", "int8"], "say --gguf-type q8_0 or q4_0"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", "course", str(tmp_path / "c"), *flags])
        assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["my.gguf"]  # nothing half-written beside it


def test_a_former_file_stays_whole_until_the_new_one_is(tmp_path, make_model, monkeypatch):
    path = tmp_path / "m.gguf"
    lm.save_gguf(make_model(), path)
    before = path.read_bytes()
    broken = make_model()
    broken.output.weight.data[0, 0] = torch.inf
    for place in (path, tmp_path / "new" / "folder" / "m.gguf"):
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            lm.save_gguf(broken, place)
    assert path.read_bytes() == before
    lm.save_gguf(make_model(seed=1), path)
    assert path.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is not None, reason="llama.cpp's binding is installed here")
def test_a_pipe_is_refused_and_a_link_to_a_file_stays(tmp_path, make_model):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ValueError, match="is no regular file but a pipe, a socket or a device"):
        lm.save_gguf(make_model(), tmp_path / "pipe.gguf")
    assert (tmp_path / "pipe.gguf").is_fifo()
    (tmp_path / "file.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to("file.gguf")
    lm.save_gguf(make_model(), tmp_path / "link.gguf")
    assert (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "file.gguf").read_bytes().startswith(b"GGUF")


def test_the_check_against_llama_cpp_says_when_there_is_none():
    script = [sys.executable, str(ROOT / "benchmarks" / "gguf_check.py")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped: llama.cpp's Python binding" in done.stdout
