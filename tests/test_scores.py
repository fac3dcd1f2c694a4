"""Scores against sacrebleu, which others report, and against SQuAD's rules written another way."""

import re
import string

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.scores import answer_words, bleu, chrf, exact_match, sentence_bleu, token_f1

TOKENIZERS = ["13a", "zh"]
# Everything that a rule speaks of, and what lies beside it: digits and points, full-width letters, curly quotes and
# arrows, kana, radicals, rare characters beyond U+FFFF, entities, line ends, unusual spaces.
PIECES = st.sampled_from(
    (
        "the cat sat a 12 3.5 , . - -- 5-6 ' \" ! $ _ ` ~ {} [x] don't & &amp; &quot; &lt; &amp;lt; <skipped> "
        "小 羊驼 在 山谷 里 。 ， ！ Ｌ ｌｍ １２ “ ” … — → ∞ ⾁ 々 か カ ｶ 한 é 𠀀 🦙 ㈱ ㍿ ☀ ✂ ⼀ ⿰ ︐ ︰"
    ).split()
    + ["\ufa2e", "\u9fbc", "\u3000", "\u2003", "\xa0", "\n", "-\n", "\t", " "]
)
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=14).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda space: space.join(parts))
)


def near(text):
    """A text, or one that is like it."""
    words = text.split(" ")
    return (
        st.lists(st.sampled_from([*words, "the", "小"]), max_size=len(words) + 2).map(" ".join) | TEXTS | st.just(text)
    )


PAIRS = TEXTS.flatmap(lambda text: st.tuples(st.just(text), st.lists(near(text), min_size=1, max_size=3)))


def for_sacrebleu(references):
    """One list for each translator; None where a sentence has fewer references."""
    most = max(map(len, references))
    return [[several[i] if i < len(several) else None for several in references] for i in range(most)]


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@settings(max_examples=150)
@given(pairs=st.lists(PAIRS, min_size=1, max_size=4))
def test_bleu_of_a_corpus_is_sacrebleus(tokenize, pairs):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    expected = sacrebleu.corpus_bleu(hypotheses, for_sacrebleu(references), tokenize=tokenize).score
    assert bleu(hypotheses, references, tokenize=tokenize) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@settings(max_examples=150)
@given(pair=PAIRS)
def test_bleu_of_a_sentence_is_sacrebleus(tokenize, pair):
    expected = sacrebleu.sentence_bleu(*pair, tokenize=tokenize).score
    assert sentence_bleu(*pair, tokenize=tokenize) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=150)
@given(
    pairs=st.lists(PAIRS, min_size=1, max_size=4), order=st.sampled_from([6, 6, 1, 2]), beta=st.sampled_from([2, 1, 3])
)
def test_chrf_is_sacrebleus(pairs, order, beta):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    expected = sacrebleu.CHRF(char_order=order, beta=beta).corpus_score(hypotheses, for_sacrebleu(references)).score
    assert chrf(hypotheses, references, order=order, beta=beta) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_every_character_is_split_as_sacrebleu_does(tokenize):
    """All of the first two planes, ten thousand a sentence, each between letters."""
    for start in range(1, 0x20000, 10_000):
        characters = [chr(i) for i in range(start, start + 10_000) if not 0xD800 <= i < 0xE000]
        text = " ".join(f"x{c}y" for c in characters)
        reference = " ".join(f"x {c} y" for c in characters)
        expected = sacrebleu.corpus_bleu([text], [[reference]], tokenize=tokenize).score
        assert bleu([text], [reference], tokenize=tokenize) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "of_corpus", "of_sentence"),
    [
        ("the cat", "the cat", 0.0, 100.0),  # no n-gram of three words
        ("the cat sat down", "the cat sat down", 100.0, 100.0),
        ("", "the cat", 0.0, 0.0),
        ("the cat", "", 0.0, 0.0),
        ("", "", 0.0, 0.0),
        ("dog", "the cat", 0.0, 0.0),
    ],
)
def test_what_surprises_in_bleu(hypothesis, reference, of_corpus, of_sentence):
    assert bleu([hypothesis], [reference]) == pytest.approx(of_corpus)
    assert sentence_bleu(hypothesis, reference) == pytest.approx(of_sentence)


def test_bleu_by_hand():
    """An example of Papineni et al.: "the" seven times, of which the reference has two."""
    text, reference = "the the the the the the the", "the cat is on the mat"
    # 2/7, then 1/2 of a match in 6, 1/4 in 5, 1/8 in 4; longer than the reference, so no penalty.
    assert bleu([text], [reference]) == pytest.approx(100 * (2 / 7 / 12 / 20 / 32) ** 0.25)


def test_chrf_by_hand():
    """Lengths 1 to 6, without the space: precision 1; of 9 … 4 n-grams the hypothesis has 6 … 1."""
    recall = sum(k / (k + 3) for k in range(1, 7)) / 6
    assert chrf(["the cat"], ["the cat sat"]) == pytest.approx(100 * 5 * recall / (4 + recall))
    assert f"{chrf(['the cat'], ['the cat sat']):.1f}" == "55.8"


@pytest.mark.parametrize(
    "references",
    [
        [],
        ["one"],
        ["one", "two", "three"],
        [["one", "two"]],  # sacrebleu's own form, a list per translator
        ["one", []],
        ["one", None],
        ["one", ["two", None]],
        ["one", [["two"]]],
        "ab",
    ],
)
@pytest.mark.parametrize("score", [bleu, chrf, exact_match, token_f1])
def test_references_that_do_not_fit_are_refused(score, references):
    """sacrebleu gives 100 to nonsense if there are fewer references, and reads a text as a list of letters."""
    with pytest.raises(ValueError, match="reference"):
        score(["one", "nonsense"], references)


@pytest.mark.parametrize("score", [bleu, chrf, exact_match, token_f1])
def test_hypotheses_that_are_none_are_refused(score):
    for hypotheses, references in (("ab", ["a", "b"]), ([], []), ([None], ["a"])):
        with pytest.raises(ValueError, match="hypothes"):
            score(hypotheses, references)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="13a, zh"):
        bleu(["a"], ["a"], tokenize="char")
    for odd in ({"order": 0}, {"beta": 0}, {"beta": float("nan")}):
        with pytest.raises(ValueError, match="at least 1"):
            chrf(["a"], ["a"], **odd)


# ---- answers


def squad_words(text):
    """SQuAD's rules in their order, on the whole text."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(text, reference):
    words, others = squad_words(text), squad_words(reference)
    if not words or not others:
        return words == others
    left, common = list(others), 0
    for word in words:
        if word in left:
            left.remove(word)
            common += 1
    precision, recall = common / len(words), common / len(others)
    return 2 * precision * recall / (precision + recall) if common else 0


ANSWERS = st.lists(
    st.sampled_from(
        ["The", "a", "an", "hat", "red", "Red", "hat.", "two-part", "a.", "Mia's", "$5", "", "x_y", "café"]
    ),
    max_size=6,
).map(" ".join)


@settings(max_examples=150)
@given(pairs=st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_answers_are_scored_as_in_squad(pairs):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    matches = [any(squad_words(text) == squad_words(one) for one in several) for text, several in pairs]
    assert exact_match(hypotheses, references) == pytest.approx(100 * sum(matches) / len(pairs))
    best = [max(squad_f1(text, one) for one in several) for text, several in pairs]
    assert token_f1(hypotheses, references) == pytest.approx(100 * sum(best) / len(pairs))


def test_chinese_answers_are_compared_by_characters():
    assert answer_words("《山谷》里的 Llama。") == ["山", "谷", "里", "的", "llama"]
    assert exact_match(["在山谷里。"], ["在山谷里"]) == 100
    assert token_f1(["在山谷"], ["在山谷里"]) == pytest.approx(100 * 6 / 7)


def test_all_characters_may_have_to_be_the_same():
    assert exact_match(["The hat.", "hat"], ["the hat", "hat"]) == 100
    assert exact_match(["The hat.", "hat"], ["the hat", "hat"], normalize=False) == 50


@pytest.mark.parametrize(("answer", "right"), [("35", "3.5"), ("5", "-5"), ("C", "C++"), ("the", "A"), ("", "A")])
def test_what_surprises_in_exact_match(answer, right):
    """As torchmetrics 1.9.0 has it, and SQuAD's own script: findings/squad_numbers.sh."""
    assert exact_match([answer], [right]) == token_f1([answer], [right]) == 100
    assert exact_match([answer], [right], normalize=False) == 0
