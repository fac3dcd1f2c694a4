"""What ends a text, and what an export says to transformers: the same text in, the same ids, the same greedy text."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from wild_tokenizers import SPECIAL, byte_fallback, byte_level, put, sentencepiece_model

from llama_minimal.beams import beam_search
from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.config import read_json
from llama_minimal.generation import generate, stream
from llama_minimal.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer

CHATTY = byte_level(start=("<s>",))
N, MANY = CHATTY.get_vocab_size(), 424
CHAT = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
PROMPTS = ("hello world", " the  cat\n\nsat", "漢字 🦙", "the 2 cats")


@pytest.fixture
def folder(tmp_path, make_model):
    """A model with a chat tokenizer, which knows three tokens that could end a text."""
    save(make_model(vocab_size=N), tmp_path / "model", format="huggingface")
    return put(tmp_path / "model", tokenizer_json=CHATTY, tokenizer_config_json=CHAT)


def greedy(model, tokenizer, **options):
    return generate(model, tokenizer, [[5, 7, 11]], max_new_tokens=12, **options)[0]


def free_ids(folder):
    """Return what the model writes if nothing ends it."""
    model, _ = load(folder)
    return greedy(model, None, stop_ids=[]).tokens


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps((read_json(path) if path.exists() else {}) | values))


def theirs(folder):
    """Return what transformers writes, without the end token."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    written = model.generate(torch.tensor([[5, 7, 11]]), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, 3:]
    ends = model.generation_config.eos_token_id
    return [i for i in written.tolist() if i not in (ends if isinstance(ends, list) else [ends])]


# --- what ends a text ---


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("shape", ["number", "list", "list of one"])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_text_ends_where_the_checkpoint_says(folder, file, shape, with_tokenizer):
    fifth = free_ids(folder)[4]
    value = {"number": fifth, "list": [1, fifth], "list of one": [fifth]}[shape]
    change(folder, file, eos_token_id=value)
    if not with_tokenizer:
        (folder / "tokenizer.json").unlink()
    model, tokenizer = load(folder)
    completion = greedy(model, tokenizer)
    assert (completion.tokens, completion.finish_reason) == (theirs(folder), "stop")
    assert model.eos_ids == (tuple(value) if isinstance(value, list) else (value,))
    together = generate(model, tokenizer, [[5, 7, 11], [9]], max_new_tokens=12)
    assert together[0] == completion
    if tokenizer:
        assert "".join(stream(model, tokenizer, [5, 7, 11], max_new_tokens=12)) == completion.text
        assert tokenizer.eos_id == 1  # what stands behind a training text is still the tokenizer's own


def test_generation_config_goes_before_config_and_both_before_the_tokenizer(folder):
    free = free_ids(folder)
    assert greedy(*load(folder)).tokens == free  # </s> does not come
    change(folder, "config.json", eos_token_id=free[6])
    assert greedy(*load(folder)).tokens == free[: free.index(free[6])]
    change(folder, "generation_config.json", eos_token_id=free[3])
    assert greedy(*load(folder)).tokens == free[: free.index(free[3])]
    change(folder, "generation_config.json", eos_token_id=None)  # says nothing
    assert greedy(*load(folder)).tokens == free[: free.index(free[6])]


def test_the_tokenizers_end_counts_if_no_config_names_one(folder):
    free = free_ids(folder)
    change(folder, "tokenizer_config.json", eos_token=CHATTY.id_to_token(free[3]))
    assert greedy(*load(folder)).tokens == free[: free.index(free[3])]


@pytest.mark.parametrize("value", [[N, 7], [-1, 7], ["</s>", 7], [True, 7], N, 10**30, "2"])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_that_are_no_tokens_are_left_out_with_a_warning(folder, file, value):
    change(folder, file, eos_token_id=value)
    with pytest.warns(UserWarning, match=rf"{file} has eos_token_id .*ends no text"):
        model, tokenizer = load(folder)
    assert model.eos_ids == ((7,) if isinstance(value, list) else None)
    assert tokenizer.eos_ids == ((7,) if isinstance(value, list) else (1,))


@pytest.mark.parametrize("format", ["huggingface", "native", "meta"])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_ends_are_kept_on_save(folder, tmp_path, format, with_tokenizer):
    change(folder, "config.json", eos_token_id=[1, 7])
    model, tokenizer = load(folder)
    save(model, tmp_path / "copy", tokenizer if with_tokenizer else None, format=format)
    assert load(tmp_path / "copy")[0].eos_ids == (1, 7)
    assert read_json(tmp_path / "copy" / "generation_config.json")["eos_token_id"] == [1, 7]
    if format == "huggingface":
        assert read_json(tmp_path / "copy" / "config.json")["eos_token_id"] == [1, 7]
        assert GenerationConfig.from_pretrained(tmp_path / "copy").eos_token_id == [1, 7]


def test_what_generation_config_says_otherwise_is_kept(folder, tmp_path):
    said = {"eos_token_id": [7], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
    change(folder, "generation_config.json", **said)
    save(load(folder)[0], tmp_path / "copy", load(folder)[1])
    assert read_json(tmp_path / "copy" / "generation_config.json").items() >= said.items()


def test_a_former_models_ends_do_not_outlive_it(folder, make_model):
    change(folder, "generation_config.json", eos_token_id=7)
    ours = Tokenizer.train(["the cat"], vocab_size=260)
    save(make_model(vocab_size=N), folder, ours)
    assert load(folder)[1].eos_ids == (ours.eos_id,)
    save(make_model(vocab_size=N), folder)
    assert load(folder)[0].eos_ids is None


def test_beam_search_ends_there_too(folder):
    first = beam_search(load(folder)[0], [5, 7, 11], max_new_tokens=4)[0].tokens[1]
    change(folder, "generation_config.json", eos_token_id=[1, first])
    model, _ = load(folder)
    unasked = beam_search(model, [5, 7, 11], max_new_tokens=4)
    assert unasked == beam_search(model, [5, 7, 11], max_new_tokens=4, stop_ids=[1, first])
    assert "stop" in {beam.finish_reason for beam in unasked}
    free = beam_search(model, [5, 7, 11], max_new_tokens=4, stop_ids=[])
    assert {beam.finish_reason for beam in free} == {"length"}


@pytest.mark.parametrize("stop", ["<|im_end|>", " <|im_end|>\n"])
def test_a_stop_string_that_names_a_special_token_stops_at_its_id(folder, stop):
    model, tokenizer = load(folder)
    free = free_ids(folder)
    end = tokenizer.special_tokens["<|im_end|>"]
    assert end not in free
    rows = model.output.weight.data
    rows[[free[4], end]] = rows[[end, free[4]]]
    prompts = [[5, 7, 11], [9]]
    for completion in (greedy(model, tokenizer, stop=[stop]), *generate(model, tokenizer, prompts, stop=[stop])[:1]):
        assert completion.tokens == free[:4]
        assert completion.finish_reason == "stop"
        assert completion.text == tokenizer.decode(free[:4])
    assert "".join(stream(model, tokenizer, [5, 7, 11], stop=[stop])) == tokenizer.decode(free[:4])
    assert end in greedy(model, tokenizer).tokens
    assert greedy(model, tokenizer, stop=[stop], stop_ids=[]).tokens == free[:4]


def test_the_name_spelled_out_in_letters_stops_as_any_stop_string_does():
    from test_generation import TOKENIZER as OURS
    from test_generation import Script

    ids = OURS.encode("a<|eos|>b")
    (completion,) = generate(Script(ids), OURS, [[32]], max_new_tokens=len(ids), stop=["<|eos|>"])
    assert (completion.text, completion.finish_reason) == ("a", "stop")


# --- what an export says ---


def assert_same_elsewhere(folder, model, tokenizer):
    """Text in, the same ids, the same greedy text, with transformers' defaults; the context starts as it does here."""
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        encoded = their_tokenizer(prompt, return_tensors="pt")
        ids = encoded.input_ids[0].tolist()
        assert ids == tokenizer.encode_prompt(prompt)
        (completion,) = generate(model, tokenizer, [prompt], max_new_tokens=8)
        written = theirs.generate(**encoded, max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
        assert written[: len(completion.tokens)] == completion.tokens
        assert set(written[len(completion.tokens) :]) <= {*tokenizer.eos_ids, tokenizer.pad_id}
        text = their_tokenizer.decode(completion.tokens, skip_special_tokens=True)
        if "\ufffd" not in completion.text + text:  # a lone first token loses its space there
            assert text.lstrip() == completion.text.lstrip()


def test_our_own_tokenizer_elsewhere(tmp_path, make_model):
    tokenizer = Tokenizer.train([" ".join(PROMPTS)] * 5, vocab_size=280)
    model = make_model(vocab_size=280)
    save(model, tmp_path, tokenizer)
    assert_same_elsewhere(tmp_path, model, tokenizer)
    assert_same_elsewhere(tmp_path, *load(tmp_path))
    assert read_json(tmp_path / "generation_config.json") == {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


SIDE = {
    "alone": {},
    "without beginning": {"tokenizer_config_json": {"add_bos_token": False, "tokenizer_class": "LlamaTokenizer"}},
    "with added tokens": {
        "added_tokens_json": dict(zip(SPECIAL, (420, 421), strict=True)),
        "tokenizer_config_json": {
            "tokenizer_class": "LlamaTokenizer",
            "eos_token": "<|im_end|>",
            "legacy": True,
            "chat_template": "{{ messages[0].content }}",
            "added_tokens_decoder": {"420": {"content": "<|im_start|>", "special": True}},
        },
    },
    "with tokens that take spaces along": {
        "tokenizer_config_json": {
            "added_tokens_decoder": {
                "2": {"content": "</s>", "special": True, "rstrip": True, "normalized": True},
                "420": {"content": "<|im_start|>", "special": True, "rstrip": True},
                "421": {"content": "<|im_end|>", "special": False, "lstrip": True, "normalized": True},
            },
        },
    },
}


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize("changes", [{}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": True}], ids=str)
def test_a_sentencepiece_model_elsewhere(tmp_path, make_model, side, changes):
    put(tmp_path / "meta", tokenizer_model=sentencepiece_model(**changes), **SIDE[side])
    model = make_model(vocab_size=load_tokenizer(tmp_path / "meta").vocab_size)
    save(model, tmp_path / "meta", format="meta")
    main(["convert", str(tmp_path / "meta"), str(tmp_path / "out")])
    _, before = load(tmp_path / "meta")
    assert isinstance(before, SentencePieceTokenizer)
    assert_same_elsewhere(tmp_path / "out", model, before)
    _, after = load(tmp_path / "out")
    assert_same_elsewhere(tmp_path / "out", model, after)
    assert after.fingerprint == before.fingerprint  # so that encoded text stays usable
    assert (after.bos_id, after.eos_id, after.eos_ids) == (before.bos_id, before.eos_id, before.eos_ids)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == sentencepiece_model(**changes)
    for text in ("<|im_start|>the<|im_end|> cat", "</s>a", " the \n <|im_end|>  <|im_start|>  a </s> ", "a<|im_end|>"):
        ids = before.encode(text, allow_special=True)
        assert after.encode(text, allow_special=True) == ids
        assert AutoTokenizer.from_pretrained(tmp_path / "out")(text, add_special_tokens=False).input_ids == ids


def test_llama_3s_ranks_elsewhere(tmp_path, make_model):
    from test_tokenizers_in_the_wild import made_ranks, write_ranks

    ranks = made_ranks(2)
    model = make_model(vocab_size=len(ranks) + 256)
    save(model, tmp_path / "meta", format="meta")
    write_ranks(tmp_path / "meta", ranks)
    main(["convert", str(tmp_path / "meta"), str(tmp_path / "out")])
    _, tokenizer = load(tmp_path / "meta")
    assert_same_elsewhere(tmp_path / "out", model, tokenizer)
    again = load(tmp_path / "out")[1]
    assert (again.fingerprint, again.eos_ids) == (tokenizer.fingerprint, tokenizer.eos_ids)


def test_a_model_that_no_tokenizer_json_can_express_is_saved_alone_with_a_warning(tmp_path, make_model):
    put(tmp_path / "from", tokenizer_model=sentencepiece_model(model_type="unigram"))
    tokenizer = load_tokenizer(tmp_path / "from")
    with pytest.warns(UserWarning, match="no byte-pair encoding"):
        save(make_model(vocab_size=MANY), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert load(tmp_path / "out")[1].fingerprint == tokenizer.fingerprint


def test_special_roles_without_an_embedding_are_not_written(tmp_path, make_model):
    tokenizer = Tokenizer.train(["the cat"], vocab_size=262)
    save(make_model(vocab_size=tokenizer.eos_id), tmp_path, tokenizer)
    config = read_json(tmp_path / "config.json")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (tokenizer.bos_id, None, None)
    AutoModelForCausalLM.from_pretrained(tmp_path)  # a pad id beyond the embeddings would end this


# --- converting keeps what stands beside ---

BESIDE = {
    "generation_config.json": {"eos_token_id": [1, 7], "temperature": 0.6},
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"},
    "tokenizer_config.json": CHAT | {"chat_template": "{{ messages[0].content }}", "note": "kept"},
}
TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.mark.parametrize("kind", ["ours", "tokenizer.json", "tokenizer.model", "none"])
@pytest.mark.parametrize("format", ["huggingface", "native", "meta"])
def test_converting_keeps_the_files_beside_a_tokenizer(folder, make_model, tmp_path, kind, format):
    save(make_model(vocab_size=MANY), folder)
    if kind != "tokenizer.json":
        (folder / "tokenizer.json").unlink()
    if kind == "ours":
        Tokenizer.train(["the cat"], vocab_size=262).save(folder)
    elif kind == "tokenizer.model":
        put(folder, tokenizer_model=sentencepiece_model())
    for name, content in BESIDE.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    main(["convert", str(folder), str(tmp_path / "out"), "--format", format])
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    for name, content in BESIDE.items():
        kept = read_json(tmp_path / "out" / name)
        changed = {"bos_token", "eos_token"} if kind == "ours" else set()  # its own names
        assert {key: kept.get(key) for key in content if key not in changed} == {
            key: value for key, value in content.items() if key not in changed
        }
    if kind != "none" and format == "huggingface":
        chat = [{"role": "user", "content": "hi"}]
        assert AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(chat, tokenize=False) == "[hi]"


def test_a_folder_without_tokenizer_is_converted(folder, tmp_path, capsys):
    (folder / "tokenizer.json").unlink()
    main(["convert", str(folder), str(tmp_path / "out"), "--dtype", "bfloat16"])
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer is None
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_another_tokenizer_takes_the_place_of_the_former_one(folder, make_model, tmp_path):
    sentencepiece = load_tokenizer(put(tmp_path / "from", tokenizer_model=sentencepiece_model(model_type="unigram")))
    with pytest.warns(UserWarning, match="no byte-pair"):
        save(make_model(vocab_size=MANY), folder, sentencepiece)
    assert load(folder)[1].fingerprint == sentencepiece.fingerprint
    ours = Tokenizer.train(["the cat"], vocab_size=262)
    save(make_model(vocab_size=N), folder, ours)
    assert load(folder)[1].fingerprint == ours.fingerprint
    assert not (folder / "tokenizer.model").exists()


def test_a_sentencepiece_model_beside_a_tokenizer_json_is_kept(make_model, tmp_path):
    """LLaMA-2's folders have both; other programs read the second."""
    tokenizer = load_tokenizer(put(tmp_path, tokenizer_json=byte_fallback(), tokenizer_model=sentencepiece_model()))
    save(make_model(vocab_size=MANY), tmp_path / "copy", tokenizer)
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == sentencepiece_model()
    assert load(tmp_path / "copy")[1].fingerprint == tokenizer.fingerprint
