"""Retrieval against its formulas written another way, other libraries' numbers, and the stories' own answers."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.data.valley import examples, stories
from llama_minimal.retrieval import Index, terms
from llama_minimal.scores import answer_words

METHODS = ["bm25", "tfidf"]


def brute_bm25(query, sentences, k1=1.2, b=0.75):
    """One sum for each sentence, over the words of the query as they come."""
    split = [sentence.split() for sentence in sentences]
    average = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for term in query.split():
            n, f = sum(term in other for other in split), words.count(term)
            if f:
                idf = math.log((len(split) + 1) / (n + 0.5))  # = 1 + (N − n + ½) / (n + ½)
                score += idf / (1 + k1 / f * (1 - b + b * len(words) / average))
        scores.append(score)
    return scores


def brute_tfidf(query, sentences):
    """Cosines of whole vectors, over all words that there are."""
    split = [sentence.split() for sentence in sentences]
    words = sorted({word for each in split for word in each})
    idf = [1 + math.log((1 + len(split)) / (1 + sum(word in each for each in split))) for word in words]

    def vector(each):
        return [each.count(word) * weight for word, weight in zip(words, idf, strict=True)]

    def cosine(u, v):
        norm = math.hypot(*u) * math.hypot(*v)
        return sum(x * y for x, y in zip(u, v, strict=True)) / norm if norm else 0.0

    return [cosine(vector(query.split()), vector(each)) for each in split]


BRUTE = {"bm25": brute_bm25, "tfidf": brute_tfidf}
SENTENCES = st.lists(st.sampled_from("a b c d e f g".split()), max_size=7).map(" ".join)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=200)
@given(sentences=st.lists(SENTENCES, min_size=1, max_size=8), query=SENTENCES)
def test_scores_are_the_formulas(method, sentences, query):
    expected = [0.0] * len(sentences) if not any(sentences) else BRUTE[method](query, sentences)
    found = Index(sentences, method=method).search(query, k=100)
    scores = dict.fromkeys(range(len(sentences)), 0.0) | {match.index: match.score for match in found}
    assert list(scores.values()) == pytest.approx(expected)
    # Exactly the sentences that share a word are found, the best first.
    assert {match.index for match in found} == {i for i, s in enumerate(sentences) if {*s.split()} & {*query.split()}}
    assert all(match.text == sentences[match.index] for match in found)
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)


COLLECTION = [
    "the cat sat on the mat",
    "the dog sat on the log by the cat",
    "a bird flew over the old house and the old tree",
    "cat",
    "the",
]


@pytest.mark.parametrize(
    ("method", "query", "expected"),
    [  # scikit-learn 1.9.1, TfidfVectorizer(token_pattern=r"\S+"); bm25s 0.3.16, method="lucene", k1=1.2
        ("tfidf", "the cat", [0.617382, 0.580302, 0.207077, 0.765241, 0.643744]),
        ("tfidf", "old cat cat", [0.267657, 0.194573, 0.341584, 0.80131, 0.0]),
        ("bm25", "the cat", [0.414303, 0.378084, 0.141442, 0.368995, 0.196946]),
        ("bm25", "old cat cat", [0.476085, 0.392507, 0.681585, 0.73799, 0.0]),
        ("bm25", "mat log tree house", [0.612244, 0.504763, 0.903754, 0.0, 0.0]),
    ],
)
def test_scores_are_those_of_other_libraries(method, query, expected):
    found = {match.index: match.score for match in Index(COLLECTION, method=method).search(query, 9)}
    assert [found.get(i, 0.0) for i in range(5)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_sentence_that_matches_comes_before_one_that_does_not(method):
    """Also where most sentences match: rank-bm25 gives negative weights there, or 0, and returns the wrong one."""
    assert [match.index for match in Index(["the cat", "the cat", "sat"], method=method).search("the cat")] == [0, 1]
    assert [match.index for match in Index(["the cat sat", "the dog ran"], method=method).search("cat", 1)] == [0]
    assert [match.index for match in Index(["the"] * 3, method=method).search("the")] == [0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=50)
@given(st.permutations("a b c d e".split()), st.permutations("a b c d e".split()))
def test_equal_sentences_come_in_their_order(method, words, query):
    """Rounding decides nothing: the same words in another order have the same score to the last bit."""
    same = ["e d c b a", " ".join(words), "x", " ".join(words[::-1])]
    found = Index(same, method=method).search(" ".join(query))
    assert [match.index for match in found] == [0, 1, 3]
    assert len({match.score for match in found}) == 1


@pytest.mark.parametrize("method", METHODS)
def test_where_there_is_nothing_nothing_is_found(method):
    for sentences, query in (
        ([], "cat"),
        (["", " ", "。"], "cat"),
        (["the cat"], ""),
        (["the cat"], "?!"),
        (["a"], "b"),
    ):
        assert Index(sentences, method=method).search(query) == []


def test_bounds_of_the_parameters():
    """k1 = 0: a term is there or not; b = 0: length does not matter; b = 1: a sentence told twice is the same."""
    once, twice = "cat dog", "cat dog cat dog"
    for sentences, options in (([once, twice, "x"], {"k1": 0}), ([once, twice, "x y z"], {"b": 1})):
        first, second = Index(sentences, **options).search("cat")
        assert first.score == pytest.approx(second.score)
    first, second = Index(["cat", "cat and many other words"], b=0).search("cat")
    assert first.score == second.score


def test_terms():
    assert terms("Bo's 2 Hats, x_y!") == ["bo", "s", "2", "hats", "x", "y"]
    assert terms("小羊驼Llama，２只") == ["小", "羊", "驼", "小羊", "羊驼", "llama", "2", "只"]
    assert terms("ＨＡＴ Straße") == ["hat", "strasse"]
    assert terms("") == []


@pytest.mark.parametrize("method", METHODS)
def test_chinese(method):
    index = Index(["羊驼在山谷里唱歌。", "狐狸在山上睡觉。", "山谷里下雨了。"], method=method)
    assert [match.index for match in index.search("谁在山谷里？")] == [0, 2, 1]
    assert index.search("狐")[0].index == 1
    assert index.search("ｌｌａｍａ") == []


def test_another_split_may_be_given():
    index = Index(["abc", "bcd"], split=list)
    assert [match.index for match in index.search("dx")] == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Index("one text"),
        lambda: Index(["a", None]),
        lambda: Index(["a"], method="bm26"),
        lambda: Index(["a"], k1=-1),
        lambda: Index(["a"], b=1.5),
        lambda: Index(["a"], b=float("nan")),
        lambda: Index(["a"]).search("a", 0),
        lambda: Index(["a"]).search(["a"]),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match=r"give|must|not one of|are texts"):
        make()


# ---- on the Llama Valley


def asked(story):
    """Return (question, answer) of what a story tells."""
    for example in examples(story, "qa"):
        if example.kind not in ("yes", "no", "unknown"):
            yield example.prompt.rpartition("Question: ")[2].removesuffix("\nAnswer: "), example.answer


def share(hits):
    return sum(hits) / len(hits)


@pytest.mark.parametrize("method", METHODS)
def test_the_story_of_a_question_is_found_among_sixty(method):
    told = list(stories(60, split="test"))
    index = Index([story.text() for story in told], method=method)
    ranks = []
    for i, story in enumerate(told):
        found = ([match.index for match in index.search(question, 60)] for question, _ in asked(story))
        ranks += [places.index(i) if i in places else 60 for places in found]
    first, among_five = share([rank == 0 for rank in ranks]), share([rank < 5 for rank in ranks])
    print(f"{method}: {len(ranks)} questions, story first {first:.0%}, in the first five {among_five:.0%}")
    assert first > 0.45  # by chance 2 %
    assert among_five > 0.8  # by chance 8 %


@pytest.mark.parametrize("method", METHODS)
def test_within_a_story_the_sentence_of_the_answer_is_found_more_often_than_by_chance(method):
    """And not much more often: most sentences say "he" and "it", which share no word with a question that names."""
    small = {"in", "at", "to", "on", "with", "of", "for", "it", "was", "because", "by", "from"}
    first, among_three, chance, chance_of_three = [], [], [], []
    for story in stories(60, split="test"):
        sentences = [told.text for told in story.tell()]
        index = Index(sentences, method=method)
        for question, answer in asked(story):
            wanted = {*answer_words(answer)} - small
            holds = [bool(wanted) and wanted <= {*answer_words(sentence)} for sentence in sentences]
            if not any(holds):
                continue
            found = [holds[match.index] for match in index.search(question, 3)]
            first.append(any(found[:1]))
            among_three.append(any(found))
            chance.append(share(holds))
            others = len(holds) - sum(holds)
            chance_of_three.append(1 - math.comb(others, 3) / math.comb(len(holds), 3))
    print(
        f"{method}, {len(first)} questions: first {share(first):.0%} (chance {share(chance):.0%}), "
        f"in the first three {share(among_three):.0%} (chance {share(chance_of_three):.0%})"
    )
    assert share(first) > share(chance) + 0.04
    assert share(among_three) > share(chance_of_three) + 0.04


def test_a_part_of_a_chinese_sentence_finds_it():
    sentences = [told.text for story in stories(30, split="test") for told in story.tell("chinese")]
    index, rng = Index(sentences), random.Random(0)
    hits = []
    for sentence in rng.sample(sentences, 100):
        part = sentence[len(sentence) // 3 : 2 * len(sentence) // 3 + 1]
        hits.append(any(match.text == sentence for match in index.search(part, 1)))
    print(f"found by its middle third: {share(hits):.0%} of {len(sentences)} sentences")
    assert share(hits) > 0.8
