"""A hub id to a chat, the whole path, for each published LLaMA: its files as they are built, with small random weights.

The configs and tokenizer files have the keys of those on the hub, smaller sizes, and vocabularies that the tests train.
Published: huggyllama/llama-7b, meta-llama/Llama-2-7b-chat-hf, Meta-Llama-3-8B-Instruct, Llama-3.1-8B-Instruct,
Llama-3.2-1B-Instruct, TinyLlama/TinyLlama-1.1B-Chat-v1.0, HuggingFaceTB/SmolLM2-135M-Instruct.
"""

import json
import shutil
import warnings
from pathlib import Path

import gguf
import pytest
import torch
from gguf_tokenizers import llama3_json, llama3_ranks, smollm
from tiny_models import draw_model
from tokenizers import Tokenizer as Library
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from wild_tokenizers import byte_fallback, docs, put, sentencepiece_model, spaced_model

import llama_minimal as lm
from llama_minimal.chat import chat_template
from llama_minimal.checkpoint import read_config
from llama_minimal.cli import main
from llama_minimal.config import RopeScaling
from llama_minimal.tokenizer import load_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "llama",
    "use_cache": True,
    **SIZES,
}
LLAMA2 = {"num_key_value_heads": 4, "pretraining_tp": 1, "rope_scaling": None, "rms_norm_eps": 1e-5}
LLAMA3 = {"attention_bias": False, "attention_dropout": 0.0, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
LLAMA3 |= {"pretraining_tp": 1, "rope_theta": 500_000.0, "torch_dtype": "bfloat16", "mlp_bias": False}
SCALED = {"high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}
SCALED |= {"rope_type": "llama3"}


def added(content, **flags):
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags
    return {"content": content, **flags}


def added_decoder(names):
    return {str(i): added(name, special=True) for name, i in names.items()}


INST = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
HEADERS = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def sentencepiece_json(start=("<s>",)):
    """The tokenizer.json beside a tokenizer.model: no tokens but the model's own."""
    content = json.loads(byte_fallback(start=start).to_str())
    names = {token["content"] for token in content["added_tokens"]} - {"<unk>", "<s>", "</s>"}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in names]
    return content


def llama1(folder, config):
    """Written before chat templates and added_tokens_decoder; AddedToken with its type; weights in two files."""
    token = {name: {"__type": "AddedToken"} | added(text, normalized=True) for name, text in NAMES.items()}
    put(
        folder,
        tokenizer_model=sentencepiece_model(),
        tokenizer_json=sentencepiece_json(),
        tokenizer_config_json={"add_bos_token": True, "add_eos_token": False, **token, "sp_model_kwargs": {}}
        | {"tokenizer_class": "LlamaTokenizer", "pad_token": None, "model_max_length": 2048},
        special_tokens_map_json={name: added(text, normalized=True) for name, text in NAMES.items()},
        generation_config_json={"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    return config | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_sequence_length": 256}


NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def llama2(folder, config, template=INST, **more):
    names = {"<unk>": 0, "<s>": 1, "</s>": 2}
    put(
        folder,
        tokenizer_model=sentencepiece_model(),
        tokenizer_json=sentencepiece_json(),
        tokenizer_config_json={
            "add_bos_token": True,
            "add_eos_token": False,
            "chat_template": template,
            "legacy": False,
        }
        | {"added_tokens_decoder": added_decoder(names), "clean_up_tokenization_spaces": False}
        | {"tokenizer_class": "LlamaTokenizer", "model_max_length": 10**30, "padding_side": "right", "pad_token": None}
        | NAMES
        | more,
        special_tokens_map_json={name: added(text) for name, text in NAMES.items()},
        generation_config_json={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True}
        | {"temperature": 0.6, "max_length": 4096, "top_p": 0.9},
    )
    return config | {"bos_token_id": 1, "eos_token_id": 2}


def tinyllama(folder, config):
    return llama2(folder, config, ZEPHYR, pad_token="</s>", sp_model_kwargs={}, use_default_system_prompt=False)


def llama3(folder, config, ends=("<|end_of_text|>", "<|eot_id|>"), in_config=False):
    content = llama3_json(folder / "original")  # Meta's own files are in this folder of the repository
    put(folder / "original", params_json={"dim": 4096, "n_layers": 32, "n_heads": 32}, consolidated_pth=b"")
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    eos = [ids[name] for name in ends]
    put(
        folder,
        tokenizer_json=content,
        tokenizer_config_json={"added_tokens_decoder": added_decoder(ids), "bos_token": "<|begin_of_text|>"}
        | {"chat_template": HEADERS, "clean_up_tokenization_spaces": True, "eos_token": "<|eot_id|>"}
        | {"model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131_072}
        | {"tokenizer_class": "PreTrainedTokenizerFast"},
        special_tokens_map_json={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        generation_config_json={"bos_token_id": ids["<|begin_of_text|>"], "do_sample": True, "eos_token_id": eos}
        | {"temperature": 0.6, "top_p": 0.9},
    )
    begin = ids["<|begin_of_text|>"]
    return config | {"bos_token_id": begin, "eos_token_id": eos if in_config else ids["<|end_of_text|>"]}


def llama31(folder, config):
    return llama3(folder, config, ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), in_config=True)


def smollm2(folder, config):
    made = smollm()
    put(folder, tokenizer_json=made)
    made.model.save(str(folder))  # vocab.json, merges.txt
    names = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    put(
        folder,
        tokenizer_config_json={"add_prefix_space": False, "added_tokens_decoder": added_decoder(names)}
        | {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": "<|im_start|>"}
        | {"chat_template": CHATML, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>"}
        | {"model_max_length": 8192, "pad_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer"}
        | {"unk_token": "<|endoftext|>", "vocab_size": 600},
        special_tokens_map_json={"bos_token": added("<|im_start|>"), "eos_token": added("<|im_end|>")},
        generation_config_json={"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    )
    return config | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "is_llama_config": True}


# name -> (its files, config.json, vocabulary, what we make of it)
SHAPES = {
    "llama-1": (
        llama1,
        {"max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "float16"},
        {"max_seq_len": 256, "norm_eps": 1e-6},
    ),
    "llama-2": (llama2, LLAMA2 | {"max_position_embeddings": 256, "torch_dtype": "float16"}, {"max_seq_len": 256}),
    "tinyllama": (
        tinyllama,
        LLAMA2
        | {"num_key_value_heads": 1, "attention_bias": False, "rope_theta": 10_000.0, "torch_dtype": "bfloat16"}
        | {"max_position_embeddings": 256},
        {"n_kv_heads": 1},
    ),
    "llama-3": (
        llama3,
        LLAMA3 | {"max_position_embeddings": 512, "rope_scaling": None},
        {"n_kv_heads": 2, "rope_theta": 5e5, "rope_scaling": None},
    ),
    "llama-3.1": (
        llama31,
        LLAMA3 | {"max_position_embeddings": 512, "rope_scaling": SCALED | {"factor": 8.0}},
        {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=64), "tie_embeddings": False},
    ),
    "llama-3.2": (
        llama31,
        LLAMA3
        | {"max_position_embeddings": 512, "rope_scaling": SCALED | {"factor": 32.0}}
        | {"tie_word_embeddings": True, "head_dim": 8},
        {"rope_scaling": RopeScaling(kind="llama3", factor=32.0, original_max_seq_len=64), "tie_embeddings": True},
    ),
    "smollm2": (
        smollm2,
        {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 24, "rms_norm_eps": 1e-5, "rope_theta": 1e5}
        | {"max_position_embeddings": 512, "rope_interleaved": False, "rope_scaling": None, "tie_word_embeddings": True}
        | {"torch_dtype": "bfloat16", "initializer_range": 0.0417},
        {"n_heads": 3, "n_kv_heads": 1, "rope_theta": 1e5, "tie_embeddings": True},
    ),
}
IDS = [f"org/{name}" for name in SHAPES]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub: models--org--name/snapshots/REVISION, and refs that name the revision."""
    cache = tmp_path_factory.mktemp("hub")
    for name, (write, config, _) in SHAPES.items():
        root = cache / f"models--org--{name}"
        folder = root / "snapshots" / "0123abcd"
        values = write(folder, COMMON | config)
        content = json.loads((folder / "tokenizer.json").read_text())
        ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
        put(folder, config_json=values | {"vocab_size": 1 + max(ids)})
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("0123abcd")
        write_weights(folder, n_files=2 if name in ("llama-1", "llama-3") else 1)
    return cache


@torch.no_grad()
def write_weights(folder: Path, *, n_files: int) -> None:
    """Draw weights, in transformers' own files and the dtype that the config names."""
    torch.manual_seed(0)
    config = json.loads((folder / "config.json").read_text())
    model = LlamaForCausalLM(LlamaConfig(**config)).to(getattr(torch, config["torch_dtype"]))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, 1.5 * parameter.size(1) ** -0.5)
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    model.save_pretrained(folder, max_shard_size="40KB" if n_files > 1 else "5GB")
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert len(list(folder.glob("*.safetensors"))) >= n_files


@pytest.fixture(autouse=True)
def offline(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def snapshot(hub, name):
    return hub / f"models--org--{name}" / "snapshots" / "0123abcd"


TEXTS = ["the quick brown fox", "The  cat's 2024\n\nmat, é 漢字!", "hello world"]
TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the cat"}]
TALK += [{"role": "user", "content": "how are you today"}]


@pytest.mark.parametrize("name", SHAPES)
def test_an_id_gives_the_model_that_transformers_makes_of_the_same_files(hub, name):
    model, tokenizer = lm.load(f"org/{name}")
    _, config, expected = SHAPES[name]
    assert {key: getattr(model.config, key) for key in expected} == expected
    assert next(model.parameters()).dtype == getattr(torch, config["torch_dtype"])
    assert read_config(f"org/{name}") == model.config
    folder = snapshot(hub, name)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.encode_prompt(TEXTS[0])
    with torch.no_grad():
        logits, expected = model.float()(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    assert model.eos_ids == tokenizer.eos_ids


@pytest.mark.parametrize("name", SHAPES)
def test_its_tokenizer_begins_ends_and_talks_as_transformers_does(hub, name):
    _, tokenizer = lm.load(f"org/{name}")
    # As tokenizer.json says; the class that is named in LLaMA-2's config puts no space after a special token now.
    theirs = PreTrainedTokenizerFast.from_pretrained(snapshot(hub, name))
    for text in TEXTS:
        assert tokenizer.encode_prompt(text) == theirs(text).input_ids or name == "smollm2"
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False).input_ids
    if name == "llama-1":  # was published before there were templates
        return
    template = chat_template(tokenizer)
    expected = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert template.encode(TALK, reply=True) == expected
    assert template.turn_end() in {"</s>", "<|eot_id|>", "<|im_end|>"}


@pytest.mark.parametrize("name", SHAPES)
def test_it_writes_chats_and_is_measured_from_the_command_line(tmp_path, capsys, monkeypatch, name):
    main(["generate", f"org/{name}", "-p", "the quick", "--max-new-tokens", "4", "--device", "cpu"])
    assert capsys.readouterr().out.startswith("the quick")
    typed = iter(["hello", "how are you", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    main(["chat", f"org/{name}", "--max-new-tokens", "4", "--device", "cpu"])
    assert capsys.readouterr().out
    (tmp_path / "text.txt").write_text(docs()[:2000])
    flags = ["--corpus", str(tmp_path / "text.txt"), "--seq-len", "64", "--device", "cpu"]
    main(["evaluate", f"org/{name}", *flags])
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["huggingface", "native", "meta", "gguf"])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_written_in_every_format(hub, tmp_path, name, format):
    scaled = name in ("llama-3.1", "llama-3.2")
    flags = ["--format", format]
    if format == "meta" and scaled:
        with pytest.raises(SystemExit):  # params.json knows the scaling of the published sizes alone
            main(["convert", f"org/{name}", str(tmp_path / "out"), *flags])
        return
    main(["convert", f"org/{name}", str(tmp_path / "out"), *flags])
    model, tokenizer = lm.load(f"org/{name}")
    ids = torch.tensor([tokenizer.encode_prompt(TEXTS[0])])
    if format == "gguf":
        reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        assert len(tokens) == model.config.vocab_size
        assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_ids[0]
        assert ("rope_freqs.weight" in {t.name for t in reader.tensors}) == scaled
        assert ("tokenizer.chat_template" in reader.fields) == (name != "llama-1")
        if not scaled:  # transformers passes over the divisors
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = AutoModelForCausalLM.from_pretrained(
                    tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
                )
            with torch.no_grad():
                torch.testing.assert_close(theirs(ids).logits, model.float()(ids), atol=2e-5, rtol=1e-5)
        return
    again, read = lm.load(tmp_path / "out")
    assert again.config == model.config
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    assert [read.encode_prompt(text) for text in TEXTS] == [tokenizer.encode_prompt(text) for text in TEXTS]
    assert (read.eos_ids, again.eos_ids) == (tokenizer.eos_ids, model.eos_ids)


def test_the_runs_of_spaces_in_llamas_own_model_have_one_score_and_any_order_will_do(tmp_path):
    """15 pieces with a score of -1e9: the leftmost are joined first there, and by rank in a tokenizer.json."""
    tokenizer = load_tokenizer(put(tmp_path, tokenizer_model=spaced_model()))
    library = Library.from_str(tokenizer.as_tokenizer_json().decode())
    for n in range(70):
        text = f"the{' ' * n}cat{' ' * (n // 3)}" + "\n" * (n % 2) + " " * (n // 2)
        assert library.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    lm.save(draw_model(vocab_size=tokenizer.vocab_size), tmp_path / "out", tokenizer)  # without a warning
    assert (tmp_path / "out" / "tokenizer.json").exists()


@pytest.mark.parametrize("changes", [{"runs": (2, 3)}, {"score": -3.0}, {"extra": ("qz", "zq")}], ids=str)
def test_pieces_with_one_score_whose_order_matters_are_refused(tmp_path, changes):
    """Four spaces are 2 + 2 by rank, 3 + 1 from the left; others are not joined last, or not of spaces alone."""
    tokenizer = load_tokenizer(put(tmp_path, tokenizer_model=spaced_model(**changes)))
    with pytest.raises(ValueError, match="two of its pieces have the same score"):
        tokenizer.as_tokenizer_json()


@pytest.mark.parametrize("generation", ["llama-1", "llama-2", "llama-3"])
def test_metas_own_folder_chats_too(hub, tmp_path, capsys, monkeypatch, generation):
    """params.json and consolidated.00.pth in the folder of a size, LLaMA-1's tokenizer in the folder above."""
    model, _ = lm.load(f"org/{generation}")
    if generation != "llama-3":  # the runs of spaces are pieces more than in the hub's folder here
        model = draw_model(vocab_size=load_tokenizer(put(tmp_path / "t", tokenizer_model=spaced_model())).vocab_size)
    lm.save(model, tmp_path / "7B", format="meta")
    source = {"tokenizer_model": llama3_ranks() if generation == "llama-3" else spaced_model()}
    put(tmp_path if generation == "llama-1" else tmp_path / "7B", **source)
    params = json.loads((tmp_path / "7B" / "params.json").read_text())
    (tmp_path / "7B" / "params.json").write_text(json.dumps(params | {"vocab_size": -1}))
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    typed = iter(["hello", ""])
    main(["chat", str(tmp_path / "7B"), "--max-new-tokens", "4", "--device", "cpu"])
    assert capsys.readouterr().out
    main(["convert", str(tmp_path / "7B"), str(tmp_path / "m.gguf"), "--format", "gguf"])
    assert (tmp_path / "m.gguf").stat().st_size > 10_000


def test_only_what_is_needed_is_asked_of_the_hub(hub, monkeypatch):
    """Of a repository that holds Meta's original files and pickled weights as well."""
    asked = []

    def download(hub_id, *, allow_patterns):
        asked.append(allow_patterns)
        return snapshot(hub, hub_id.split("/")[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    lm.load("org/llama-3.1")
    (patterns,) = asked
    assert not any(pattern.endswith((".pth", ".bin")) for pattern in patterns)


def test_an_id_that_is_not_there_is_told(hub):
    with pytest.raises(FileNotFoundError, match="there is no folder org/nobody, and the hub did not give it"):
        lm.load("org/nobody")


def test_a_repository_with_an_incomplete_download_is_told(hub, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    shutil.copytree(hub / "models--org--llama-1", cache / "models--org--llama-1")
    next((cache / "models--org--llama-1" / "snapshots" / "0123abcd").glob("model-00001*")).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    with pytest.raises((ValueError, FileNotFoundError), match="model-00001"):
        lm.load("org/llama-1")
