"""All applications by one measure: the answer key is right, shuffled answers are not, and the splits stay apart."""

import math
import random

import pytest
from tiny_models import draw_model

from llama_minimal import load_tokenizer
from llama_minimal.applications import APPLICATIONS, Example, application
from llama_minimal.applications.base import by_kind, same, split_stories
from llama_minimal.checkpoint import COURSE
from llama_minimal.data.valley import ValleySettings, stories

NAMES = [name for name in APPLICATIONS if name != "code"]  # which has tests of its own
N = {"generation": 12}  # whose checker takes a while


def key(examples):
    return [one.completion for one in examples]


@pytest.fixture(scope="module", params=NAMES)
def app(request):
    return application(request.param)


@pytest.fixture(scope="module")
def train(app):
    return app.examples(N.get(app.name, 200))


@pytest.fixture(scope="module")
def test(app):
    return app.examples(N.get(app.name, 80), split="test")


def test_the_answer_key_has_100_and_shuffled_answers_have_less(app, test):
    right = app.score(key(test), test)
    assert next(iter(right)) == app.metric
    assert all(value == pytest.approx(100) for value in right.values()), right
    shuffled = random.Random(0).sample(key(test), len(test))
    assert app.score(shuffled, test)[app.metric] < 80
    assert app.score([""] * len(test), test)[app.metric] < 5


def test_scores_by_kind_add_up(app, test):
    """Half of the answers are right, whichever: the kinds, weighted by their size, give the whole (but for chrF)."""
    half = [one.completion if i % 2 else "" for i, one in enumerate(test)]
    scores = app.score(half, test)
    kinds = {one.kind for one in test}
    if app.name in ("generation", "translation"):
        assert 30 < scores[app.metric] < 80
        return
    sizes = {kind: sum(one.kind == kind for one in test) for kind in kinds}
    assert sum(scores[kind] * n for kind, n in sizes.items()) / len(test) == pytest.approx(scores[app.metric])


def test_baselines_score_between_chance_and_the_key(app, train, test):
    scores = {name: app.score(predict(test), test)[app.metric] for name, predict in app.baselines(train).items()}
    assert len(scores) >= 2
    assert all(0 <= value < 100 for value in scores.values())
    if app.name != "generation":
        shuffled = random.Random(0).sample(key(test), len(test))
        assert max(scores.values()) > app.score(shuffled, test)[app.metric]


def test_baselines_do_not_look_at_the_key(app, train, test):
    """They say the same of examples whose answers, kinds and references are gone."""
    bare = [Example(one.prompt, "", "", (), {k: v for k, v in one.extra.items() if k in ALLOWED}) for one in test]
    if app.name == "reports":  # the fields of a report's text stand in the prompt; other fields must not be needed
        bare = [one for one in bare if not one.prompt.endswith("Fields:\n")]
        test = [one for one in test if not one.prompt.endswith("Fields:\n")]
    for name, predict in app.baselines(train[:100]).items():
        assert predict(bare) == predict(test), name


ALLOWED = {"story", "question", "messages", "source", "fields"}


def test_reports_are_read_from_the_source_alone():
    app = application("reports")
    train, test = app.examples(60), app.examples(30, split="test")
    test = [one for one in test if one.prompt.endswith("Fields:\n")]
    bare = [Example(one.prompt, "", "", (), {"source": one.extra["source"]}) for one in test]
    for name, predict in app.baselines(train).items():
        assert predict(bare) == predict(test), name


def test_examples_are_the_same_each_time_and_splits_have_no_text_in_common(app, train, test):
    assert app.examples(10) == train[:10]
    assert app.examples(10, seed=1) != train[:10]
    validation = app.examples(N.get(app.name, 80), split="validation")
    texts = [{one.prompt + one.completion for one in part} for part in (train, validation, test)]
    if app.name == "translation":  # sentences are short: two stories may have one in common
        assert len(texts[0] & texts[2]) < 0.1 * len(texts[2])
        return
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


def test_prompts_end_where_a_word_begins(app, test):
    for one in test:
        assert one.prompt
        assert not one.prompt.endswith(" ")
        assert one.completion.startswith((" ", "\n")) or one.prompt.endswith("\n")
        assert one.completion.strip() in one.answers
        assert app.score([one.completion], [one])[app.metric] == pytest.approx(100)


def test_answers_fit_the_room_that_is_given(app, test):
    tokenizer = load_tokenizer(COURSE)
    assert all(len(tokenizer.encode(one.completion)) <= app.max_new_tokens for one in test)
    assert not any(stop in one.completion.strip() for one in test for stop in app.stop)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [{"n": 0}, {"n": -3}, {"n": 2.5}, {"n": True}, {"n": 3, "split": "tests"}])
def test_what_cannot_be_asked_for_is_refused(name, bad):
    with pytest.raises(ValueError, match=r"give a whole number|is not one of train, validation, test"):
        application(name).examples(**bad)


def test_scores_need_a_prediction_for_each_example(app, test):
    for wrong in ([], ["a"] * (len(test) + 1)):
        with pytest.raises(ValueError, match="predictions for"):
            app.score(wrong, test)
    with pytest.raises(ValueError, match="0 predictions for 0 examples"):
        app.score([], [])


def test_there_is_no_other_application():
    with pytest.raises(ValueError, match="generation, dialogue, sentiment"):
        application("cooking")


def test_test_stories_are_those_of_seed_1000_and_the_splits_share_no_cast():
    tales = stories(20, ValleySettings(seed=1000), split="test")
    found = split_stories("test", 0)
    assert all(next(found).text() == story.text() for story in tales)

    def casts(split):
        source = split_stories(split, 0)
        return {(one.characters, tuple(one.things), one.places) for one in (next(source) for _ in range(300))}

    assert not casts("train") & casts("validation")
    assert not casts("train") & casts("test")


def test_a_space_at_the_end_of_a_prompt_is_moved():
    one = Example("Answer:  ", "yes", "kind")
    assert (one.prompt, one.completion, one.answers) == ("Answer:", "  yes", ("yes",))
    assert Example("Fields:\n", "a: b", "kind").prompt == "Fields:\n"
    assert one.as_dict() == {"prompt": "Answer:", "completion": "  yes"}


def test_by_kind_counts_each_kind_for_itself():
    examples = [Example("", "a", "x"), Example("", "b", "x", ("b", "B")), Example("", "c", "y")]
    scores = by_kind("right", same, [" a", "B ", "d"], examples, also_right=same)
    assert list(scores) == ["right", "also right", "x", "y"]
    assert scores == {"right": pytest.approx(200 / 3), "also right": pytest.approx(200 / 3), "x": 100, "y": 0}


def test_a_model_answers_each_prompt_as_if_alone_and_in_order():
    tokenizer = load_tokenizer(COURSE)
    model = draw_model(vocab_size=tokenizer.vocab_size, max_seq_len=64)
    app = application("sentiment")
    texts = ["one", "one two three four five", "one two", " ".join(["long"] * 200), "x"]  # random text has no labels
    examples = [Example(text, " y", "kind") for text in texts]
    together = app.predict(model, tokenizer, examples, batch_size=2)
    assert together == [app.predict(model, tokenizer, [one])[0] for one in examples]
    seen = []
    app.predict(model, tokenizer, examples, batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]
    result = app.evaluate(model, tokenizer, examples)
    assert result.predictions == together
    assert result.scores == {"accuracy": 0, "macro F1": 0, "kind": 0}


def test_a_prompt_that_is_too_long_keeps_its_end():
    tokenizer = load_tokenizer(COURSE)
    model = draw_model(vocab_size=tokenizer.vocab_size, max_seq_len=48)
    app = application("sentiment")
    end = "so it was a good day for all of them, and the sun was shining. " * 3
    assert len(tokenizer.encode(end)) > 42  # tokens that fit beside an answer
    long = [Example(f"{word * n}{end}", "", "kind") for word, n in (("word ", 100), ("another ", 150))]
    assert len(set(app.predict(model, tokenizer, long))) == 1
    with pytest.raises(ValueError, match="batch_size=0"):
        app.predict(model, tokenizer, long, batch_size=0)


def test_bits_per_byte_are_those_of_a_uniform_guess_for_a_model_of_zeros():
    from llama_minimal.applications.generation import bits_per_byte

    tokenizer = load_tokenizer(COURSE)
    model = draw_model(vocab_size=tokenizer.vocab_size, max_seq_len=512)
    for parameter in model.parameters():
        parameter.data.zero_()
    examples = application("generation").examples(3, split="test")
    n_tokens = sum(
        len(tokenizer.encode(one.prompt + one.completion)) - len(tokenizer.encode(one.prompt)) for one in examples
    )
    n_bytes = sum(len(one.completion.encode()) for one in examples)
    expected = math.log2(tokenizer.vocab_size) * n_tokens / n_bytes
    assert bits_per_byte(model, tokenizer, examples) == pytest.approx(expected, rel=1e-6)
