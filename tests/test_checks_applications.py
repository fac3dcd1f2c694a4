"""The exercises of chapter 13 as readers answer them, their keys against other computations, and the picture."""

import math
from collections import Counter

import numpy as np
import pytest
from matplotlib import pyplot as plt

from llama_minimal.course.application_diagram import draw_application
from llama_minimal.course.checks.application_answers import MEDIANS
from llama_minimal.course.exercises import exercises, judge
from llama_minimal.retrieval import Index
from llama_minimal.scores import bleu

EXERCISES = exercises("applications")


def kgrams(text, k):
    return Counter(text[i : i + k] for i in range(len(text) - k + 1))


def chrf_of_words(hypotheses, references, order, beta):
    return EXERCISES["chrf"].right(
        [" ".join(text) for text in hypotheses], [" ".join(text) for text in references], 1, beta
    )


def chrf_that_divides_by_zero(hypotheses, references, order, beta):
    precisions, recalls = [], []
    for k in range(1, order + 1):
        pairs = [("".join(a.split()), "".join(b.split())) for a, b in zip(hypotheses, references, strict=True)]
        ours, theirs = (
            sum((kgrams(a, k) for a, _ in pairs), Counter()),
            sum((kgrams(b, k) for _, b in pairs), Counter()),
        )
        both = sum((kgrams(a, k) & kgrams(b, k)).total() for a, b in pairs)
        if ours and theirs:
            precisions.append(both / ours.total())
            recalls.append(both / theirs.total())
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * p * r / (beta**2 * p + r)


def one_pot_of_sentences(hypotheses, references, order, beta):
    return EXERCISES["chrf"].right(["".join(hypotheses)], ["".join(references)], order, beta)


def one_wrong_of_four(n, i):
    shares = [(n - k + 1 - k) / (n - k + 1) for k in range(1, 5)]
    return 100 * math.exp(sum(map(math.log, shares)) / 4)


def repeats_by_trial(idf, score, mean_length, k1, b):
    for f in range(1, 10_000):
        if idf * f / (f + k1 * (1 - b + b * f / mean_length)) > score:
            return f
    return 0


def repeats_of_a_long_page(idf, score, mean_length, k1, b):
    return repeats_by_trial(idf, score, math.inf, k1, b)


def sorted_test(function):
    return function([3, 1, 2]) == 2 and function([1, 2, 3, 4]) == 2.5


def one_line_test(function):
    return function([1, 2, 3]) == 2


def changed_counts_as_right(function):
    lists = ([5, 1, 4], [4, 1, 3, 2], [-9, 2, 1], [1, 1, 1, 5, 9])
    return all(function(list(one)) == np.median(one) for one in lists)


def only_pairs(price, sales, total, spent, balance):
    return sum(pieces * price != paid for pieces, paid in sales)


def all_from_the_sales(price, sales, total, spent, balance):
    true = sum(pieces * price for pieces, _ in sales)
    return sum(pieces * price != paid for pieces, paid in sales) + (true != total) + (true - spent != balance)


def z_of_two_samples(a, b):
    pooled = (a.mean() + b.mean()) / 2
    return (a.mean() - b.mean()) / math.sqrt(2 * pooled * (1 - pooled) / len(a)) if 0 < pooled < 1 else 0.0


def z_without_zero(a, b):
    only_a, only_b = (a & ~b).sum(), (b & ~a).sum()
    with np.errstate(invalid="ignore"):
        return (only_a - only_b) / np.sqrt(only_a + only_b)


READERS = [
    ("chrf", chrf_of_words, ""),
    ("chrf", chrf_that_divides_by_zero, "raised ZeroDivisionError"),
    ("chrf", one_pot_of_sentences, ""),
    ("chrf", lambda *case: EXERCISES["chrf"].right(*case) / 100, "fraction"),
    ("chrf", lambda hyp, ref, order, beta: EXERCISES["chrf"].right(hyp, ref, order, beta * beta), ""),
    ("chrf", lambda hyp, ref, order, beta: float(hyp == ref), ""),
    ("one_wrong_word", one_wrong_of_four, "at an end"),
    ("one_wrong_word", lambda n, i: 100 * (1 - 1 / n) ** 4, ""),
    ("one_wrong_word", lambda n, i: 100 * (n - 1) / n, "words alone"),
    ("stuffing", repeats_of_a_long_page, "the sentence grows"),
    ("stuffing", lambda idf, score, *_: math.ceil(score / idf), ""),
    ("stuffing", lambda idf, score, mean, k1, b: score * k1 * (1 - b) / (idf - score * (1 + k1 * b / mean)), ""),
    ("hidden_test", sorted_test, "it lets wrong functions pass"),
    ("hidden_test", one_line_test, ""),
    ("hidden_test", changed_counts_as_right, ""),
    ("hidden_test", lambda function: function([]) == 0, "raised"),
    ("ledger", only_pairs, "wrong sales alone"),
    ("ledger", all_from_the_sales, ""),
    ("ledger", lambda *case: [EXERCISES["ledger"].right(*case)], "list of its own"),
    ("paired", z_of_two_samples, ""),
    ("paired", z_without_zero, "return 0"),
    ("paired", lambda a, b: (a & ~b).sum() / max(1, (a != b).sum()), ""),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_a_readers_wrong_answer_is_refused_in_words(name, answer, said):
    verdict = judge(EXERCISES[name], answer, strict=True)
    assert verdict.text
    assert said in verdict.text, verdict.text


def test_trying_every_number_of_repetitions_is_right_too():
    assert judge(EXERCISES["stuffing"], repeats_by_trial, strict=True).text == ""


@pytest.mark.parametrize("seed", range(5))
def test_the_key_of_the_wrong_word_is_what_bleu_measures(seed):
    n, i = EXERCISES["one_wrong_word"].draw(np.random.default_rng(seed))
    words = [f"w{chr(97 + place)}" for place in range(n)]
    wrong = [*words[:i], "wrong", *words[i + 1 :]]
    assert EXERCISES["one_wrong_word"].right(n, i) == pytest.approx(bleu([" ".join(wrong)], [" ".join(words)]))


def test_the_key_of_the_repetitions_beats_a_page_of_an_index():
    pages = ["the bear ran to the mill", *(f"the owl sat by the {tree}" for tree in ("oak", "elm", "fir", "yew"))]
    target = Index(pages).search("bear", 1)[0]
    lengths = sum(len(page.split()) for page in pages) / len(pages)
    idf = math.log(1 + (5 - 1 + 0.5) / (1 + 0.5))
    assert target.score == pytest.approx(idf / (1 + 1.2 * (0.25 + 0.75 * 6 / lengths)))
    repeats = EXERCISES["stuffing"].right(idf, target.score, lengths, 1.2, 0.75)
    for f, better in ((repeats - 1, False), (repeats, True)):
        assert (idf * f / (f + 1.2 * (0.25 + 0.75 * f / lengths)) > target.score) == better


def test_the_hidden_test_tells_right_from_wrong_medians():
    rng = np.random.default_rng(0)
    lists = [rng.integers(-9, 9, size=rng.integers(1, 8)).tolist() for _ in range(300)]
    for function, right in MEDIANS.items():
        same = all(function(list(numbers)) == np.median(numbers) for numbers in lists)
        assert same == right or function.__name__ == "in_place"
        assert EXERCISES["hidden_test"].right(function) == right


def test_the_key_of_the_comparison_is_the_deviation_of_coin_tosses():
    rng = np.random.default_rng(0)
    a, b = EXERCISES["paired"].draw(rng)
    differ = int((a != b).sum())
    tosses = rng.choice([-1, 1], size=(20_000, differ)).sum(axis=1)
    assert EXERCISES["paired"].right(a, b) == pytest.approx((int(a.sum()) - int(b.sum())) / tosses.std(), rel=0.03)


def test_the_picture_names_every_part():
    figure = draw_application({"metric"})
    written = [text.get_text() for text in figure.axes[0].texts]
    assert {"examples", "baseline", "metric", "score", "the key"} <= set(written)
    plt.close(figure)
    with pytest.raises(ValueError, match="unknown parts"):
        draw_application({"nonsense"})
