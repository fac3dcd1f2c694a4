"""Baselines that only count, and scores of labels: against their formulas, written another way."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.finetuning.baselines import Majority, NaiveBayes, NearestPrompt
from llama_minimal.finetuning.labels import accuracy, confusion, macro_f1
from llama_minimal.retrieval import Index, terms

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30)
TEXTS = st.lists(st.sampled_from("red hat cat mat sun".split()), max_size=6).map(" ".join)


def test_the_majority():
    assert Majority(["a", "b", "b"]).predict(["x", "y"]) == ["b", "b"]
    assert Majority(["b", "a"]).predict(["x"]) == ["b"]
    with pytest.raises(ValueError, match="no labels"):
        Majority([])


def probability(text, label, texts, labels, alpha):
    """Multiply the probability of the label by that of each word, one factor after the other."""
    known = {word for other in texts for word in other.split()}
    mine = [word for other, its in zip(texts, labels, strict=True) if its == label for word in other.split()]
    p = labels.count(label) / len(labels)
    for word in text.split():
        if word in known:
            p *= (mine.count(word) + alpha) / (len(mine) + alpha * len(known))
    return p


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from("xyz")), min_size=1, max_size=12), TEXTS, st.sampled_from([0.1, 1, 3]))
def test_naive_bayes_is_its_formula(rows, text, alpha):
    texts, labels = map(list, zip(*rows, strict=True))
    model = NaiveBayes(texts, labels, smoothing=alpha)
    scores = model.scores(f"{text} unknown")
    assert set(scores) == set(labels)
    for label, score in scores.items():
        assert score == pytest.approx(math.log(probability(text, label, texts, labels, alpha)), abs=1e-9)
    assert model.predict([text]) == [max(scores, key=scores.get)]


def test_naive_bayes_of_the_textbook():
    """Four documents about China and Japan, and the fifth that is to be told, with 3 × Chinese, Tokyo and Japan."""
    texts = ["Chinese Beijing Chinese", "Chinese Chinese Shanghai", "Chinese Macao", "Tokyo Japan Chinese"]
    scores = NaiveBayes(texts, ["yes", "yes", "yes", "no"]).scores("Chinese Chinese Chinese Tokyo Japan")
    assert scores["yes"] == pytest.approx(math.log(3 / 4 * (3 / 7) ** 3 * 1 / 14 * 1 / 14))
    assert scores["no"] == pytest.approx(math.log(1 / 4 * (2 / 9) ** 3 * 2 / 9 * 2 / 9))


def test_naive_bayes_learns_chinese_and_refuses_nonsense():
    model = NaiveBayes(["小羊驼很开心", "小山羊很难过", "开心的一天"], ["good", "bad", "good"])
    assert model.predict(["她开心", "他难过"]) == ["good", "bad"]
    for texts, labels in (([], []), (["a"], []), ("ab", ["x", "y"])):
        with pytest.raises(ValueError, match="two lists of the same length"):
            NaiveBayes(texts, labels)
    for smoothing in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be above 0"):
            NaiveBayes(["a"], ["x"], smoothing=smoothing)


def test_the_nearest_prompt():
    prompts = ["Where is the red hat?", "Who has a cat?", "Where is the cat?"]
    model = NearestPrompt(prompts, ["mill", "Bo", "barn"])
    assert model.predict(["Where is the hat?", "cat who", "1234"]) == ["mill", "Bo", "mill"]
    dice = random.Random(0)
    for text in (" ".join(dice.choices(terms(" ".join(prompts)), k=3)) for _ in range(20)):
        best = Index(prompts).search(text, k=3)[0]
        assert model.predict([text]) == [dict(zip(prompts, ["mill", "Bo", "barn"], strict=True))[best.text]]
    with pytest.raises(ValueError, match="1 answers for 2 texts"):
        NearestPrompt(["a", "b"], ["c"])


@settings(max_examples=80, deadline=None)
@given(LABELS)
def test_scores_of_labels_are_their_definitions(pairs):
    predictions, labels = map(list, zip(*pairs, strict=True))
    table = confusion(predictions, labels)
    names = sorted({*predictions, *labels})
    assert table.labels == tuple(names)
    for i, there in enumerate(names):
        for j, said in enumerate(names):
            assert table.counts[i][j] == sum(pair == (said, there) for pair in pairs)
    assert accuracy(predictions, labels) == pytest.approx(
        100 * sum(table.counts[i][i] for i in range(len(names))) / len(pairs)
    )
    f1 = []
    for k in range(len(names)):
        right, said, there = table.counts[k][k], sum(row[k] for row in table.counts), sum(table.counts[k])
        precision, recall = right / said if said else 0, right / there if there else 0
        f1.append(2 * precision * recall / (precision + recall) if right else 0)
    assert macro_f1(predictions, labels) == pytest.approx(100 * sum(f1) / len(f1))


def test_scores_that_are_known_and_refused():
    assert macro_f1(["a", "a"], ["a", "b"]) == pytest.approx(100 / 3)
    assert macro_f1(["a", "b"], ["a", "b"]) == accuracy(["x"], ["x"]) == 100
    for function in (accuracy, macro_f1, confusion):
        for arguments in ((["a"], []), ([], []), ("a", ["a"])):
            with pytest.raises(ValueError, match="give as many, and at least one"):
                function(*arguments)
