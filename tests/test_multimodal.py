"""Features in the places of placeholders: against embeddings put together by hand, with the cache, in the loop."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny_models import draw_model

from llama_minimal import multimodal, reference
from llama_minimal.checkpoint import load, save, save_gguf
from llama_minimal.loss import IGNORE, next_token_loss
from llama_minimal.multimodal import (
    Example,
    MixedExamples,
    Prompt,
    Vocabulary,
    add_inputs,
    given,
    next_token_given,
    place_features,
    stack_features,
)
from llama_minimal.quantization import quantize
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

TOKENIZER = Tokenizer.train(["which digit?"], vocab_size=260)
VOCABULARY = Vocabulary(n_text=TOKENIZER.vocab_size, codes={"ink": 5}, inputs={"image": 3, "sound": 2})
IMAGE, SOUND = VOCABULARY.placeholder("image"), VOCABULARY.placeholder("sound")


def features(n, width, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def make_model(seed=0, **changes):
    model = add_inputs(draw_model(vocab_size=VOCABULARY.size, max_seq_len=48, seed=seed, **changes), VOCABULARY)
    for layer in model.tok_embeddings.projections.values():
        torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(7))
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(8))
    return model.eval()


def mixed_prompts():
    """Rows of different lengths, with different numbers of features, in another order."""
    return [
        VOCABULARY.prompt(TOKENIZER, ("image", features(3, 3)), "what?"),
        VOCABULARY.prompt(TOKENIZER, "ab", ("sound", features(4, 2, 1)), "c", ("image", features(2, 3, 2)), "d"),
        VOCABULARY.prompt(TOKENIZER, "words alone"),
        VOCABULARY.prompt(TOKENIZER, ("image", features(1, 3, 3)), "x", ("image", features(2, 3, 4)), "yz"),
    ]


def embedded_by_hand(model, prompt):
    """One vector after the other, in a loop."""
    left = {name: list(rows) for name, rows in prompt.features.items()}
    table, projections = model.tok_embeddings.weight, model.tok_embeddings.projections
    vectors = []
    for token in prompt.ids:
        name = {IMAGE: "image", SOUND: "sound"}.get(token)
        if name is None:
            vectors.append(table[token])
        else:
            layer = projections[name]
            vectors.append(layer.weight @ torch.tensor(left[name].pop(0), dtype=table.dtype) + layer.bias)
    return torch.stack(vectors)


def test_each_feature_stands_in_its_place_in_a_padded_batch():
    model, prompts = make_model(), mixed_prompts()
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt.ids) for prompt in prompts], batch_first=True)
    with torch.no_grad(), given(model, stack_features([prompt.features for prompt in prompts])):
        x = model.tok_embeddings(tokens)
    for row, prompt in zip(x, prompts, strict=True):
        torch.testing.assert_close(row[: len(prompt.ids)], embedded_by_hand(model, prompt).detach())


def test_logits_are_those_of_a_model_that_reads_embeddings_instead_of_ids():
    model, prompt = make_model(), mixed_prompts()[1]
    bare = copy.deepcopy(model)
    bare.tok_embeddings = None  # as in a later stage of a pipeline
    with torch.no_grad(), given(model, stack_features([prompt.features])):
        torch.testing.assert_close(
            model(torch.tensor([prompt.ids])), bare(embedded_by_hand(model, prompt)[None].detach())
        )


@pytest.mark.parametrize("tie", [False, True])
def test_without_placeholders_nothing_changes(tie):
    plain = draw_model(vocab_size=VOCABULARY.size, max_seq_len=48, tie_embeddings=tie)
    tokens = torch.tensor([[1, 7, 9]])
    before, names = plain(tokens), set(plain.state_dict())
    model = add_inputs(plain, VOCABULARY)
    torch.testing.assert_close(model(tokens), before)
    assert set(model.state_dict()) - names == {
        f"tok_embeddings.projections.{name}.{part}" for name in ("image", "sound") for part in ("weight", "bias")
    }
    assert (model.output.weight is model.tok_embeddings.weight) == tie


def test_places_are_filled_as_in_numpy_and_surplus_features_are_not_read():
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 5, 4))
    where = rng.random((3, 6)) < 0.5
    placed = place_features(*map(torch.from_numpy, (x, where, rows)))
    np.testing.assert_array_equal(placed.numpy(), reference.place_features(x, where, rows))


def test_a_batch_writes_what_each_prompt_writes_alone_and_what_no_cache_writes():
    model, prompts = make_model(), mixed_prompts()
    together = multimodal.generate(model, None, prompts, max_new_tokens=6)
    for prompt, completion in zip(prompts, together, strict=True):
        assert multimodal.generate(model, None, [prompt], max_new_tokens=6)[0].tokens == completion.tokens
        ids = list(prompt.ids)
        with torch.no_grad(), given(model, stack_features([prompt.features])):
            for _ in range(6):
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert ids[len(prompt.ids) :] == completion.tokens


def test_what_is_written_depends_on_the_features_and_on_their_order():
    model = make_model()
    rows = features(3, 3)
    logits = []
    for order in ([0, 1, 2], [2, 1, 0]):
        prompt = VOCABULARY.prompt(TOKENIZER, ("image", rows[order]), "what?")
        with torch.no_grad(), given(model, stack_features([prompt.features])):
            logits.append(model(torch.tensor([prompt.ids]))[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 0.1


def test_only_the_answer_is_learned():
    prompt = mixed_prompts()[1]
    examples = MixedExamples.fill([Example(prompt, [5, 6]), Example(mixed_prompts()[2], [7])], VOCABULARY)
    inputs, targets, image, sound = examples.rows(slice(0, 2))
    n = len(prompt.ids)
    assert inputs[0, : n + 1].tolist() == [*prompt.ids, 5]
    assert [(t, int(targets[0, t])) for t in range(n + 1) if targets[0, t] != IGNORE] == [(n - 1, 5), (n, 6)]
    assert (examples.n_examples, examples.n_targets, len(examples)) == (2, 3, n + 1 + len(mixed_prompts()[2].ids))
    assert image.shape == (2, 2, 3)
    assert sound.shape == (2, 4, 2)
    assert not image[1].any()


def test_the_objective_is_the_loss_of_the_answers():
    model, prompts = make_model().double(), mixed_prompts()
    answers = [[5, 6], [7], [8, 9, 10], [261]]
    examples = MixedExamples.fill(list(map(Example, prompts, answers)), VOCABULARY)
    batch = tuple(torch.from_numpy(part) for part in examples.rows(slice(0, 4)))
    batch = tuple(part.double() if part.is_floating_point() else part for part in batch)
    total, count = next_token_given(model, batch)
    by_hand = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt.ids, *answer]])
        with given(model, {name: rows.double() for name, rows in stack_features([prompt.features]).items()}):
            logits = model(ids[:, :-1])
        by_hand += next_token_loss(logits[:, -len(answer) :], ids[:, -len(answer) :])[0]
    assert count == 7
    torch.testing.assert_close(total, by_hand)


def test_the_one_loop_learns_what_only_the_features_tell():
    rng = np.random.default_rng(0)
    examples = []
    for i in range(64):
        rows = np.zeros((2, 3), np.float32)
        rows[:, i % 3] = rng.uniform(0.5, 1.5, 2)
        examples.append(Example(VOCABULARY.prompt(TOKENIZER, ("image", rows), "?"), [100 + i % 3, TOKENIZER.eos_id]))
    model = add_inputs(draw_model(vocab_size=VOCABULARY.size, max_seq_len=48), VOCABULARY)
    packed = MixedExamples.fill(examples, VOCABULARY)
    recipe = TrainConfig(
        steps=40, batch_size=16, micro_batch_size=8, seq_len=packed.seq_len, lr=1e-2, warmup_steps=2, validate_every=40
    )
    trainer = Trainer(model, packed, recipe, validation=packed, objective=next_token_given)
    losses = [metrics["loss"] for metrics in trainer.run()]
    assert losses[0] > 2
    assert trainer.validation_loss < 0.1
    written = multimodal.generate(model, TOKENIZER, [example.prompt for example in examples[:3]], max_new_tokens=3)
    assert [one.tokens for one in written] == [[100], [101], [102]]


def test_given_ends_with_its_block_even_after_an_error():
    model = make_model()
    prompt = mixed_prompts()[0]
    with pytest.raises(RuntimeError), given(model, stack_features([prompt.features])):
        raise RuntimeError
    with pytest.raises(ValueError, match="3 places for 'image', but 0 features"):
        model(torch.tensor([prompt.ids]))


def test_the_row_of_ids_is_cut_without_gaps():
    vocabulary = Vocabulary(n_text=10, codes={"a": 3, "b": 2}, inputs={"x": 1, "y": 1})
    ids = [*range(10), *vocabulary.code_ids("a"), *vocabulary.code_ids("b"), *map(vocabulary.placeholder, "xy")]
    assert ids == list(range(vocabulary.size))
    assert vocabulary.n_written == 15


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: VOCABULARY.prompt(TOKENIZER, ("image", features(2, 5))), r"\(2, 5\); they must be \(N, 3\)"),
        (lambda: VOCABULARY.prompt(TOKENIZER, ("smell", features(2, 5))), "'smell' is none of 'ink', 'image', 'sound'"),
        (lambda: VOCABULARY.prompt(TOKENIZER, ("ink", [5])), "5 is none of the codes 0 to 4 of 'ink'"),
        (lambda: VOCABULARY.placeholder("ink"), "'ink' is none of 'image', 'sound'"),
        (lambda: Vocabulary(n_text=5, codes={"a": 1}, inputs={"a": 1}), "'a' names codes and inputs"),
        (lambda: Vocabulary(n_text=0), "n_text=0 must be a whole number"),
        (lambda: add_inputs(draw_model(), VOCABULARY), f"build it with vocab_size={VOCABULARY.size}"),
        (lambda: add_inputs(make_model(), VOCABULARY), "reads features already"),
        (lambda: given(draw_model(), {}).__enter__(), "reads tokens alone"),
        (lambda: given(make_model(), {"smell": torch.zeros(1, 1, 1)}).__enter__(), "image, sound, and not 'smell'"),
        (lambda: given(make_model(), {"image": torch.zeros(1, 1, 2)}).__enter__(), r"not \(B, N, 3\)"),
        (lambda: multimodal.generate(make_model(), None, [Prompt([1, IMAGE], {})]), "1 places for 'image' and 0"),
        (lambda: multimodal.generate(make_model(), None, []), "prompts is empty"),
        (lambda: quantize(make_model(), "int8"), r"reads features; leave it as it is, with skip=\('tok_embeddings',\)"),
        (lambda: quantize(make_model(tie_embeddings=True), "int8"), "tok_embeddings is no table alone"),
        (lambda: save_gguf(make_model(), "never.gguf"), "no place for what a model reads beside text: image, sound"),
        (lambda: MixedExamples.fill([], VOCABULARY), "there is no example"),
        (lambda: MixedExamples.fill([Example(mixed_prompts()[0], [])], VOCABULARY), "example 0 has no answer"),
        (lambda: MixedExamples.fill([Example(mixed_prompts()[0], [IMAGE])], VOCABULARY), "a model writes ids from 0"),
        (lambda: MixedExamples.fill([Example(mixed_prompts()[0], [1])], VOCABULARY, seq_len=3), "more than seq_len=3"),
    ],
)
def test_what_cannot_be_is_refused_in_words(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def written_by(model):
    return [one.tokens for one in multimodal.generate(model, TOKENIZER, mixed_prompts(), max_new_tokens=6)]


@pytest.mark.parametrize("tie", [False, True])
def test_a_saved_model_reads_features_again(tmp_path, tie):
    model = make_model(tie_embeddings=tie)
    save(model, tmp_path / "mixed", TOKENIZER)
    again, tokenizer = load(tmp_path / "mixed")
    assert again.tok_embeddings.vocabulary == VOCABULARY
    assert tokenizer.vocab_size == TOKENIZER.vocab_size
    assert written_by(again) == written_by(model)
    narrow, _ = load(tmp_path / "mixed", dtype="bfloat16")
    assert narrow(torch.tensor([mixed_prompts()[2].ids])).dtype == torch.bfloat16
    assert len(written_by(narrow)) == 4


def test_what_a_run_has_trained_loads_from_its_folder(tmp_path):
    model = make_model()
    examples = MixedExamples.fill([Example(prompt, [1, 2]) for prompt in mixed_prompts()], VOCABULARY)
    recipe = TrainConfig(steps=2, batch_size=4, seq_len=examples.seq_len, warmup_steps=0)
    trainer = Trainer(model, examples, recipe, objective=next_token_given, out=tmp_path / "run")
    list(trainer.run())
    again, _ = load(tmp_path / "run")
    assert written_by(again) == written_by(model.eval())


def test_with_a_float_table_the_rest_is_kept_in_few_bits(tmp_path):
    model = quantize(make_model(), "int8", skip=("tok_embeddings",))
    save(model, tmp_path / "few")
    assert written_by(load(tmp_path / "few")[0]) == written_by(model)


@pytest.mark.parametrize("format", ["huggingface", "meta"])
def test_other_formats_are_refused_before_anything_is_written(tmp_path, format):
    with pytest.raises(ValueError, match="beside text \\(image, sound\\); save it as 'native'"):
        save(make_model(), tmp_path / "new", format=format)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [{"n_text": 0}, {"names": 1}, "text"])
def test_a_damaged_vocabulary_is_named(tmp_path, value):
    save(make_model(), tmp_path / "mixed")
    path = tmp_path / "mixed" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocabulary": value}))
    with pytest.raises(ValueError, match=r"config\.json"):
        load(tmp_path / "mixed")


@pytest.mark.parametrize("n_rows", [1, 3])
def test_features_of_other_rows_are_refused(n_rows):
    model = make_model()
    tokens = torch.tensor([[1, IMAGE], [1, IMAGE]])
    with given(model, {"image": torch.zeros(n_rows, 1, 3)}), pytest.raises(ValueError, match="and the tokens of 2"):
        model(tokens)


def test_more_places_than_features_are_refused():
    model = make_model()
    with given(model, {"image": torch.zeros(1, 1, 3)}), pytest.raises(ValueError, match="2 places for 'image', but 1"):
        model(torch.tensor([[1, IMAGE, IMAGE]]))
