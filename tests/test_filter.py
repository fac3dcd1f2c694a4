"""The filter: whatever the pieces, nothing refused is shown, and what is allowed is whole; its classifier by others."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from llama_minimal import reference
from llama_minimal.config import preset
from llama_minimal.generation import generate, stream
from llama_minimal.model import build
from llama_minimal.responsible_ai import classifier as of
from llama_minimal.responsible_ai.filter import MARK, SentenceFilter, StringFilter, filtered
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import Tokenizer

LETTERS = 'abA. !?\n"”。é羊'
TEXTS = st.text(LETTERS, max_size=40)
REFUSED = st.lists(st.text("abA é羊", min_size=1, max_size=4), min_size=1, max_size=4)
CUTS = st.lists(st.integers(0, 40), max_size=12)
MARKS = st.sampled_from([MARK, "#", None])


def pieces(text, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in zip(places, places[1:], strict=False)]


def shown(text, cuts, *filters):
    return "".join(filtered(pieces(text, cuts), *filters))


def small(text):
    return "".join(letter.lower() for letter in text)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, refused=REFUSED, cuts=CUTS, mark=MARKS)
def test_no_refused_string_is_ever_shown_and_the_cuts_make_no_difference(text, refused, cuts, mark):
    out = shown(text, cuts, StringFilter(refused, mark=mark))
    assert not [one for one in refused if small(one) in small(out)]
    assert (
        out
        == shown(text, [], StringFilter(refused, mark=mark))
        == shown(text, range(40), StringFilter(refused, mark=mark))
    )
    if not [one for one in refused if small(one) in small(text)]:
        assert out == text  # allowed text is whole


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, refused=REFUSED, cuts=CUTS)
def test_what_is_cut_out_is_refused_and_the_rest_is_in_place(text, refused, cuts):
    parts = shown(text, cuts, StringFilter(refused, mark="#")).split("#")
    pattern = "(?:" + "|".join(map(re.escape, sorted(refused, key=len, reverse=True))) + ")"
    assert re.fullmatch(pattern.join(map(re.escape, parts)), text, re.IGNORECASE)
    first = shown(text, cuts, StringFilter(refused, mark=None))
    assert text.startswith(first)
    if first != text:
        assert re.match(pattern, text[len(first) :], re.IGNORECASE)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, refused=REFUSED, cuts=CUTS)
def test_at_each_moment_only_what_may_become_refused_is_held_back(text, refused, cuts):
    one, taken, out = StringFilter(refused, mark=None), "", ""
    for piece in pieces(text, cuts):
        taken, out = taken + piece, out + one.push(piece)
        assert text.startswith(out)
        if not one.stopped:
            held = small(taken[len(out) :])
            assert not held or any(small(bad).startswith(held) for bad in refused)


@pytest.mark.parametrize("refused", ["text", ["", "a"], [3]])
def test_what_is_no_list_of_strings_is_refused(refused):
    with pytest.raises(ValueError, match="list of strings"):
        StringFilter(refused)


@pytest.mark.parametrize(
    ("mark", "refused"), [("[…]", "] x"), ("[…]", "x ["), ("[…]", "a […] b"), ("[no]", "NO"), ("x", "axb")]
)
def test_a_mark_that_could_complete_a_refused_string_is_refused(mark, refused):
    with pytest.raises(ValueError, match="another mark"):
        StringFilter([refused], mark=mark)


def bad(before, sentence):
    return "b" in sentence


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, cuts=CUTS, longest=st.sampled_from([3, 7, 600]))
def test_sentences_are_judged_whole_once_and_in_order_whatever_the_cuts(text, cuts, longest):
    seen = []

    def judge(before, sentence):
        seen.append((before, sentence))
        return "b" in sentence

    out = shown(text, cuts, SentenceFilter(judge, mark="#", longest=longest))
    assert out == shown(text, [], SentenceFilter(bad, mark="#", longest=longest))
    assert "b" not in out
    assert "".join(sentence for _, sentence in seen) == text.strip() or text.strip() in "".join(s for _, s in seen)
    for before, sentence in seen:
        assert text.startswith(before + sentence)
        assert sentence.strip()
        assert len(sentence) <= longest
    allowed = shown(text, cuts, SentenceFilter(lambda *_: False, longest=longest))
    assert allowed == text
    first = shown(text, cuts, SentenceFilter(bad, mark=None, longest=longest))
    assert text.startswith(first)
    assert "b" not in first


def test_sentences_end_where_a_reader_would_end_them():
    seen = []
    text = '"Go away!" cried Otto. It cost 3.5 coins... "Why?"\nHe left\n\n“走开！”他说。“好。”她走了。'
    shown(text, [], SentenceFilter(lambda _, one: seen.append(one.strip()) or False))
    assert seen == [
        '"Go away!"', "cried Otto.", "It cost 3.5 coins...", '"Why?"', "He left",
        "“走开！”", "他说。", "“好。”", "她走了。",
    ]  # fmt: skip


def test_a_sentence_is_shown_when_it_is_over_and_not_before():
    one = SentenceFilter(bad, mark=None)
    assert [one.push(piece) for piece in ("A cat", ".", " An", " ape. b", "ad. Good. ")] == [
        "",
        "",
        "A cat.",
        " An ape.",
        "",
    ]
    assert (one.stopped, one.finish(), one.push("more"), one.n_refused) == (True, "", "", 1)
    with pytest.raises(ValueError, match="longest"):
        SentenceFilter(bad, longest=0)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, refused=REFUSED, cuts=CUTS, ends=st.booleans())
def test_two_filters_one_after_the_other(text, refused, cuts, ends):
    def both():
        return SentenceFilter(bad, mark=None if ends else "#"), StringFilter(refused, mark="#")

    out = shown(text, cuts, *both())
    assert out == shown(text, [], *both())
    assert not [one for one in refused if small(one) in small(out)]
    if not any(small(one) in small(text) for one in (*refused, "b")):
        assert out == text


@pytest.fixture(scope="module")
def writer():
    text = ["the cat ate the hat. the bat sat! a 漢字 hat? é", " hat the cat"]
    tokenizer = Tokenizer.train(text * 5, vocab_size=290)
    return build(preset("tiny", vocab_size=tokenizer.vocab_size, n_layers=1, max_seq_len=128), seed=1).eval(), tokenizer


@pytest.mark.parametrize("stop", [(), ("t",), ("he c", "a")])
@pytest.mark.parametrize("seed", range(4))
def test_it_filters_what_a_model_streams_with_and_without_stop_strings(writer, stop, seed):
    options = {"max_new_tokens": 60, "sampling": Sampling(temperature=1.5), "stop": stop, "seed": seed}
    (whole,) = generate(*writer, ["the cat"], **options)
    refused = [whole.text[3:5] or "th", "at", "�"]
    out = "".join(filtered(stream(*writer, "the cat", **options), StringFilter(refused)))
    assert out == shown(whole.text, [], StringFilter(refused))
    assert "".join(filtered(stream(*writer, "the cat", **options), StringFilter(["no such text"]))) == whole.text


def test_a_text_that_is_ended_is_not_written_further():
    asked = []

    def writing():
        for piece in ("good ", "bad ", "worse"):
            asked.append(piece)
            yield piece

    assert "".join(filtered(writing(), StringFilter(["bad"], mark=None))) == "good "
    assert asked == ["good ", "bad "]


# The classifier


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    labels = (rng.random(120) < 0.3).astype(int)
    return rng.normal(size=(120, 5)) * [1, 5, 0.2, 1, 1] + labels[:, None] * [0.8, 2, 0.1, 0, 0] + 3, labels


@pytest.mark.parametrize("decay", [0.01, 1.0, 30.0])
def test_newton_finds_what_scikit_learn_finds(points, decay):
    x, labels = points
    found = of.fit_logistic(torch.from_numpy(x), torch.from_numpy(labels), decay=decay)
    mean, scale = x.mean(0), x.std(0)
    theirs = LogisticRegression(C=1 / decay, tol=1e-10, max_iter=10_000).fit((x - mean) / scale, labels)
    expected = theirs.decision_function((x - mean) / scale)
    np.testing.assert_allclose(found.score(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


def test_the_gradient_of_the_loss_is_zero_at_the_bottom(points):
    x, labels = points
    scaled = (x - x.mean(0)) / x.std(0)
    found = of.fit_logistic(torch.from_numpy(scaled), torch.from_numpy(labels), decay=2.0)
    _, backward = reference.logistic_loss_vjp(scaled, labels, found.weight.numpy(), found.bias.numpy(), 2.0)
    _, d_weight, d_bias = backward(1.0)
    np.testing.assert_allclose(np.append(d_weight, d_bias), 0, atol=1e-7)
    ours = of.logistic_loss(torch.from_numpy(scaled), torch.from_numpy(labels), found.weight, found.bias, 2.0)
    assert ours.item() == pytest.approx(
        reference.logistic_loss(scaled, labels, found.weight.numpy(), found.bias.numpy(), 2.0), rel=1e-12
    )


def test_separable_examples_have_finite_weights():
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]).repeat(5, 1)
    found = of.fit_logistic(x * 1e3, (x[:, 0] > 0).long(), decay=0.1)
    assert torch.isfinite(found.weight).all()
    assert ((found.score(x * 1e3) > 0) == (x[:, 0] > 0)).all()


@pytest.mark.parametrize(
    ("x", "labels", "decay", "match"),
    [
        (torch.ones(3), [0, 1, 1], 1.0, "features"),
        (torch.ones(3, 2), [0, 1], 1.0, "features"),
        (torch.ones(3, 2), [1, 1, 1], 1.0, "both must occur"),
        (torch.ones(3, 2), [0, 1, 2], 1.0, "labels must be 0 and 1"),
        (torch.ones(3, 2), [0, 1, 1], 0.0, "decay"),
    ],
)
def test_a_classifier_refuses_what_it_cannot_learn_from(x, labels, decay, match):
    with pytest.raises(ValueError, match=match):
        of.fit_logistic(x, torch.tensor(labels), decay=decay)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=30))
def test_the_curve_is_scikit_learns(rows):
    scores, labels = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    if not labels.any():
        with pytest.raises(ValueError, match="label must be 1"):
            of.precision_recall(torch.from_numpy(scores), torch.from_numpy(labels))
        return
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    for ours in (
        [part.numpy() for part in of.precision_recall(torch.from_numpy(scores), torch.from_numpy(labels))],
        reference.precision_recall(scores, labels),
    ):
        np.testing.assert_allclose(ours[0], precision[:-1][::-1])
        np.testing.assert_allclose(ours[1], recall[:-1][::-1])
        np.testing.assert_allclose(ours[2], thresholds[::-1])
    for wanted in (0.3, 1.0):
        threshold = of.threshold_for(torch.from_numpy(scores), torch.from_numpy(labels), recall=wanted)
        assert labels[scores >= threshold].sum() >= wanted * labels.sum() - 1e-9
        higher = scores[scores > threshold]
        assert not len(higher) or labels[scores >= higher.min()].sum() < wanted * labels.sum()


def test_a_text_is_read_after_what_was_before_it(writer):
    model, tokenizer = writer
    befores, texts = ["the cat ate", "", "the"], [" the hat.", "the bat sat!", " 漢字"]
    states = of.text_states(model, tokenizer, befores, texts)
    for row, before, text in zip(states, befores, texts, strict=True):
        ids, n = tokenizer.encode_prompt(before + text), len(tokenizer.encode_prompt(before))
        with torch.no_grad():
            hidden = model.hidden_states(torch.tensor([ids]))[0]
        torch.testing.assert_close(row, hidden[n:].mean(0))
    long = of.text_states(model, tokenizer, ["the cat ate " * 80], [" the hat."])
    assert torch.isfinite(long).all()
    with pytest.raises(ValueError, match="no tokens"):
        of.text_states(model, tokenizer, ["a"], [""])
    with pytest.raises(ValueError, match="one for each"):
        of.text_states(model, tokenizer, ["a"], [])


def test_a_judge_refuses_from_its_threshold_on_and_filters_a_stream(writer):
    model, tokenizer = writer
    texts = ["the cat.", "the hat.", "a 漢字!", "é 漢字 漢字!"] * 3
    states = of.text_states(model, tokenizer, [""] * len(texts), texts)
    learned = of.fit_logistic(states, torch.tensor(["漢" in text for text in texts]).long(), decay=0.01)
    judge = of.HiddenStateJudge(model=model, tokenizer=tokenizer, classifier=learned)
    assert [judge("", text) for text in texts[:4]] == [False, False, True, True]
    strict = of.HiddenStateJudge(
        model=model, tokenizer=tokenizer, classifier=learned, threshold=judge.score("", texts[0])
    )
    assert strict("", texts[0])
    out = shown("the cat. a 漢字! the hat.", [3, 9, 12], SentenceFilter(judge))
    assert "漢" not in out
    assert out.startswith("the cat.")


def test_a_word_list_knows_words_and_not_their_parts():
    words = of.WordList(("liar", "silly goose", "笨"))
    assert [words("", text) for text in ("You LIAR!", "How familiar.", "A silly goose", "silly geese", "你真笨！")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert words.score("", "liar, liar") == 2
    for wrong in ("liar", (), ("",)):
        with pytest.raises(ValueError, match="list of words"):
            of.WordList(wrong)
