"""What a notebook passes: numbers of NumPy, tensors, names instead of objects; and what cannot be is said in words."""

import json

import numpy as np
import pytest
import torch

import llama_minimal as lm
from llama_minimal.course.processes import run_processes
from llama_minimal.data import Document
from llama_minimal.data.mixture import MixedBatches
from llama_minimal.finetuning import encode_examples, with_labels
from llama_minimal.reference import parallel

CONFIG = lm.LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=300, max_seq_len=32)
TOKENIZER = lm.Tokenizer.train(["low lower lowest slow"], vocab_size=262)
TOKENS = np.arange(400) % 7
RECIPE = {"steps": 2, "batch_size": 2, "seq_len": 8, "warmup_steps": 1}


@pytest.fixture(scope="module")
def model():
    return lm.build(CONFIG).eval()


def test_numbers_of_numpy_are_numbers(tmp_path):
    sizes = dict(zip(("dim", "n_layers", "n_heads", "vocab_size"), np.array([16, 1, 2, 300]), strict=True))
    config = lm.LlamaConfig(**sizes, norm_eps=np.float32(0.5), max_seq_len=np.uint16(32))
    assert json.loads(json.dumps(config.to_dict())) == CONFIG.replace(norm_eps=0.5).to_dict()
    recipe = {name: np.int64(value) for name, value in RECIPE.items()}
    train = lm.TrainConfig(**recipe, seed=np.int32(3), lr=np.float32(0.5), keep_best=np.bool_(True))
    assert train == lm.TrainConfig(**RECIPE, seed=3, lr=0.5)
    trainer = lm.Trainer(lm.build(config, seed=np.int64(3)), TOKENS, train, out=tmp_path)
    assert [metrics["step"] for metrics in trainer.run()] == [1, 2]  # what it saves is JSON
    assert lm.Sampling(top_k=np.int64(3), top_p=np.float32(0.5)) == lm.Sampling(top_k=3, top_p=0.5)
    assert lm.Tokenizer.train(["low lower"], vocab_size=np.int64(260)).vocab_size == 260


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", "1e-3"), ("lr", None), ("beta1", "x"), ("clip_norm", None), ("compile", "yes"), ("keep_best", None)],
)
def test_a_train_config_says_what_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        lm.TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "0.5"), ("temperature", None), ("top_p", "1"), ("top_k", True), ("repetition_penalty", [1])],
)
def test_sampling_says_what_is_no_number(name, value):
    with pytest.raises(ValueError, match=name):
        lm.Sampling(**{name: value})


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.int32)]
)
def test_a_prompt_of_ids_is_a_list_an_array_or_a_tensor(model, kind):
    (expected,) = lm.generate(model, TOKENIZER, [[5, 6, 7]], max_new_tokens=4, stop_ids=[])
    assert lm.generate(model, TOKENIZER, [kind([5, 6, 7])], max_new_tokens=4, stop_ids=kind([])) == [expected]
    assert "".join(lm.stream(model, TOKENIZER, kind([5, 6, 7]), max_new_tokens=4, stop_ids=[])) == expected.text
    beams = lm.beam_search(model, [5, 6, 7], max_new_tokens=4)
    assert lm.beam_search(model, kind([5, 6, 7]), max_new_tokens=4, beam_size=np.int64(4)) == beams


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_stop_ids_stop_whatever_holds_them(model, kind):
    """A set of tensors would never contain a number."""
    (written,) = lm.generate(model, None, [[5]], max_new_tokens=3, stop_ids=())
    (stopped,) = lm.generate(model, None, [[5]], max_new_tokens=3, stop_ids=kind(written.tokens[:1]))
    assert (stopped.tokens, stopped.finish_reason) == ([], "stop")
    assert lm.beam_search(model, [5], stop_ids=kind(written.tokens[:1])) == lm.beam_search(
        model, [5], stop_ids=written.tokens[:1]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": [1, 2, 3]}, r"such as \[1, 2, 3\], not 1"),
        ({"prompts": [None]}, "not None"),
        ({"prompts": None}, "prompts=None must be a list"),
        ({"prompts": [[1.0]]}, r"not \[1.0\]"),
        ({"prompts": [["a"]]}, "token ids"),
        ({"sampling": {"temperature": 0.5}}, "must be a Sampling"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": 1 << 70}, "18 digits"),
        ({"stop": None}, "stop=None"),
        ({"stop": [5]}, "stop_ids"),
        ({"stop_ids": 5}, "stop_ids must be a row"),
    ],
    ids=str,
)
def test_generate_says_what_an_argument_must_be(model, arguments, says):
    with pytest.raises(ValueError, match=says):
        lm.generate(model, TOKENIZER, **({"prompts": ["a"], "max_new_tokens": 1} | arguments))


def test_a_seed_may_be_negative_or_numpys(model):
    def write(seed):
        sampling = lm.Sampling(temperature=2.0)
        return lm.generate(model, None, [[1]] * 2, max_new_tokens=8, sampling=sampling, seed=seed)

    assert write(-1)[1] == write(np.int64(0))[0]


def test_stream_without_a_tokenizer_points_to_generate(model):
    with pytest.raises(ValueError, match="use generate"):
        next(lm.stream(model, None, [1, 2]))


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_has_a_name(dtype):
    assert lm.build(CONFIG, dtype=dtype).output.weight.dtype == torch.bfloat16
    assert lm.load("course", dtype=dtype)[0].output.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["auto", torch.int8, torch.complex64, torch.float8_e4m3fn, np.float32])
def test_weights_are_in_no_other_dtype(dtype):
    for make in (lambda: lm.build(CONFIG, dtype=dtype), lambda: lm.load("course", dtype=dtype)):
        with pytest.raises(ValueError, match="is not one of float32, bfloat16, float16, float64"):
            make()


@pytest.mark.parametrize("config", ["tiny", {"dim": 16}])
def test_a_model_is_built_from_a_config(config):
    with pytest.raises(ValueError, match="LlamaConfig"):
        lm.build(config)


def test_a_home_folder_is_a_folder(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lm.save(model, "~/saved")
    assert torch.equal(lm.load("~/saved")[0].output.weight, model.output.weight)
    for _ in lm.Trainer(lm.build(CONFIG), TOKENS, lm.TrainConfig(**RECIPE), out="~/run").run():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "saved"]


def test_an_empty_name_is_not_the_current_folder(model, tmp_path, monkeypatch):
    """It comes from a variable that is not set; the current folder is a dot."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for call in (lambda: lm.load(""), lambda: lm.save(model, ""), lambda: list(lm.documents(""))):
        with pytest.raises(ValueError, match=r"is empty; give one, or '\.'"):
            call()
    assert [document.text for document in lm.documents(".")] == ["mine"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_shard_bytes": "5GB"}, "max_shard_bytes='5GB'"),
        ({"n_shards": 1.5, "format": "meta"}, "n_shards=1.5"),
        ({"n_shards": 3, "format": "meta"}, "n_shards=3"),
    ],
)
def test_a_model_that_cannot_be_saved_leaves_no_folder(model, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        lm.save(model, tmp_path / "deep" / "saved", **options)
    with pytest.raises(ValueError, match="meta device"):
        lm.save(lm.build(CONFIG, device="meta"), tmp_path / "deep" / "saved")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder_to_save_in(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt is a file; give a folder"):
        lm.save(model, tmp_path / "notes.txt")


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array, lambda x: x.astype("uint16")])
def test_tokens_to_train_on_are_a_list_an_array_or_a_tensor(kind):
    def losses(tokens):
        trainer = lm.Trainer(lm.build(CONFIG), tokens, lm.TrainConfig(**RECIPE), validation=tokens)
        return [(metrics["loss"], metrics.get("validation_loss")) for metrics in trainer.run()]

    assert losses(kind(TOKENS)) == losses(TOKENS)


@pytest.mark.parametrize(
    "tokens",
    ["some text", TOKENS.astype(float), TOKENS.reshape(2, -1), TOKENS > 3, None],
    ids=lambda x: type(x).__name__,
)
def test_a_trainer_says_what_is_no_row_of_ids(tokens):
    with pytest.raises(ValueError, match="the training text must be one row of whole numbers"):
        lm.Trainer(lm.build(CONFIG), tokens, lm.TrainConfig(**RECIPE))
    if tokens is not None:
        with pytest.raises(ValueError, match="the validation text must be one row"):
            lm.Trainer(lm.build(CONFIG), TOKENS, lm.TrainConfig(**RECIPE), validation=tokens)


def test_a_trainer_refuses_what_it_cannot_train():
    config = lm.TrainConfig(**RECIPE)
    with pytest.raises(ValueError, match="meta device"):
        lm.Trainer(lm.build(CONFIG, device="meta"), TOKENS, config)
    with pytest.raises(ValueError, match="requires_grad"):
        lm.Trainer(lm.build(CONFIG).requires_grad_(False), TOKENS, config)
    with pytest.raises(ValueError, match="must be a TrainConfig"):
        lm.Trainer(lm.build(CONFIG), TOKENS, RECIPE)
    with pytest.raises(ValueError, match="0 tokens"):
        lm.Trainer(lm.build(CONFIG), TOKENS[:0], lm.TrainConfig(**RECIPE, align_documents=True))


def test_the_model_says_which_tensors_it_reads(model):
    with pytest.raises(ValueError, match=r"\(3,\) must be \(B, T\).*tokens\[None\]"):
        model(torch.tensor([1, 2, 3]))
    for dtype in (torch.uint8, torch.uint16, torch.float32, torch.bool):
        with pytest.raises(ValueError, match=r"give tokens\.long\(\)"):
            model(torch.ones(1, 3).to(dtype))


@pytest.mark.parametrize("text", [None, 5, ["a", "b"]])
def test_a_text_is_a_text(text):
    for call in (TOKENIZER.encode, TOKENIZER.encode_prompt, lambda text: TOKENIZER.encode_batch([text])):
        with pytest.raises(ValueError, match="str or bytes"):
            call(text)


def test_one_text_is_no_batch_of_letters():
    with pytest.raises(ValueError, match=r"\[text\]"):
        TOKENIZER.encode_batch("ab")


@pytest.mark.parametrize("ids", [5, [5.0], "5", torch.ones(2, 2, dtype=torch.int64), None])
def test_ids_to_decode_are_a_row_of_whole_numbers(ids):
    with pytest.raises(ValueError, match="row of token ids"):
        TOKENIZER.decode(ids)
    assert TOKENIZER.decode(torch.tensor([97, 98])) == TOKENIZER.decode(np.array([97, 98])) == "ab"


def test_texts_are_no_documents(tmp_path):
    with pytest.raises(ValueError, match="Document"):
        lm.encode_corpus(["one text", "another"], TOKENIZER, tmp_path)
    assert lm.encode_corpus([Document("a", "one text"), Document("b", "another")], TOKENIZER, tmp_path).train.documents


def test_documents_have_a_number_for_each_token(model):
    with pytest.raises(ValueError, match=r"documents of shape \(1, 5\) must be .* \(1, 4\)"):
        model(torch.ones(1, 4, dtype=torch.long), documents=torch.ones(1, 5))


TWO = {"a": TOKENS, "b": TOKENS}
ORDER = parallel.order("1f1b", 2, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MixedBatches({}, weights=(), batch_size=4, seq_len=8), "there is no source to draw from"),
        (lambda: MixedBatches(TWO, weights="ab", batch_size=4, seq_len=8), "weights='ab' must be numbers"),
        (lambda: MixedBatches(TWO, weights=("a", "b"), batch_size=4, seq_len=8), "must be positive numbers"),
        (lambda: parallel.zero_memory(1, 10, 0), "n_ranks=0 must be"),
        (lambda: parallel.zero_traffic(1, 0, 2), "n_params=0 must be"),
        (lambda: parallel.ZeroRanks(np.zeros(3), 0, 1), "n_ranks=0 must be"),
        (lambda: parallel.simulate(ORDER, -1, 2), r"forward costs \[-1, -1\]; each must be a number of at least 0"),
        (lambda: parallel.simulate(ORDER, 1, [2, np.nan]), r"backward costs \[2.0, nan\]"),
        (lambda: encode_examples(TOKENIZER, [("a", "b")]), r"tuple .* is no example; give Pair"),
        (lambda: encode_examples(TOKENIZER, [{"prompt": "a"}]), "dict .* is no example; .* read_examples"),
        (lambda: with_labels(lm.build(CONFIG), "ab"), "labels='ab' is one text"),
        (lambda: run_processes(print, 0), "n=0 must be a whole number of at least 1"),
        (lambda: run_processes(print, 1, timeout=-1), "timeout=-1 must be a finite number of more than 0"),
    ],
)
def test_what_cannot_be_is_said_in_words(call, says):
    with pytest.raises(ValueError, match=says):
        call()
