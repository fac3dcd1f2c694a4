"""Exact and near-duplicates: against brute force over all pairs, on English and Chinese, tiny and empty texts."""

import itertools
import random
import re
import tracemalloc

import numpy as np
import pytest

from llama_minimal.data import Document, LongDocument
from llama_minimal.data.duplicates import Duplicates, deduplicate
from llama_minimal.data.valley import stories

STORIES = [story.text() for story in stories(60)]
CHINESE = [story.text(language="chinese") for story in stories(40)]


def jaccard(a, b, words=5):
    """Compute the similarity of two texts from their sets of shingles, written anew and by other means."""

    def shingles(text):
        # Space out Chinese characters; then words are what is between spaces and marks.
        spaced = "".join(f" {c} " if "\u3040" <= c <= "\u9fff" else c for c in text.lower())
        found = re.sub(r"[^\w]", " ", spaced).split()
        return {tuple(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}

    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def altered(text, n, dice):
    """Replace so many words, or Chinese characters, by others."""
    joint, words = ("", list(text)) if re.search("[\u4e00-\u9fff]", text) else (" ", text.split(" "))
    for place in dice.sample(range(len(words)), n):
        words[place] = f"x{dice.randrange(1000)}" if joint else chr(dice.randrange(0x4E00, 0x9000))
    return joint.join(words)


def kept(texts, **options):
    return [int(d.name) for d in deduplicate((Document(str(n), t) for n, t in enumerate(texts)), **options)]


@pytest.mark.parametrize("base", [STORIES, CHINESE], ids=["english", "chinese"])
def test_the_estimate_is_the_similarity_of_all_shingles_within_its_error(base):
    dice, seen = random.Random(0), Duplicates()
    pairs = [(text, altered(text, n, dice)) for text in base[:30] for n in (1, 3, 8)]
    exact = np.array([jaccard(*pair) for pair in pairs])
    estimates = np.array([(seen.signature(a) == seen.signature(b)).mean() for a, b in pairs])
    errors = (estimates - exact) / np.sqrt(exact * (1 - exact) / 120 + 1e-9)
    assert 0.2 < exact.min() < 0.6
    assert exact.max() > 0.85
    assert abs(errors.mean()) < 0.4  # no bias
    assert 0.75 < errors.std() < 1.3
    assert abs(errors).max() < 4


@pytest.mark.parametrize("base", [STORIES, CHINESE], ids=["english", "chinese"])
def test_near_duplicates_are_those_of_brute_force(base):
    """Recall and precision: all pairs of 0.9 and more are found, none below 0.65; between, most on the right side."""
    dice = random.Random(1)
    tried = [(a, altered(a, n, dice)) for a in base for n in (1, 2, 3, 4, 6) if len(a) > 60]
    right, found = [], []
    for original, copy in tried:
        similarity, is_found = jaccard(original, copy), kept([original, copy]) == [0]
        assert is_found or similarity < 0.9
        assert not is_found or similarity > 0.65
        right.append(similarity >= 0.8)
        found.append(is_found)
    right, found = np.array(right), np.array(found)
    assert 20 < right.sum() < len(tried) - 20
    assert (found & right).sum() / right.sum() > 0.9  # recall
    assert (found & right).sum() / found.sum() > 0.9  # precision


def test_of_each_group_the_first_is_kept_in_order():
    dice = random.Random(2)
    texts = STORIES[:20] + [altered(text, 1, dice) for text in STORIES[:10]] + STORIES[5:15] + STORIES[20:30]
    alone = [i for i in range(30) if all(jaccard(STORIES[i], STORIES[j]) < 0.6 for j in range(i))]
    assert alone == list(range(30))  # the stories themselves do not resemble each other
    expected = [*range(20), *range(40, 50)]
    long_enough = [n for n in range(20, 30) if jaccard(texts[n], texts[n - 20]) < 0.9]
    assert set(expected) <= set(kept(texts)) <= set(expected) | set(long_enough)
    assert kept(texts) == sorted(kept(texts)) == kept(texts)
    seen = Duplicates()
    assert [seen.kind(Document("", text)) for text in (texts[0], texts[0], texts[20])] == [None, "exact", "near"]


def test_a_text_that_resembles_only_what_was_left_out_is_kept():
    """Whatever is left out resembles something that was kept, also along a chain of small changes."""
    dice = random.Random(3)
    chain = [STORIES[0]]
    for _ in range(40):
        chain.append(altered(chain[-1], 1, dice))
    places = kept(chain)
    assert 1 < len(places) < 20
    for n, text in enumerate(chain):
        assert n in places or max(jaccard(text, chain[k]) for k in places if k < n) > 0.65


def test_the_result_depends_on_nothing_but_texts_and_seed():
    texts = [altered(text, 3, random.Random(n)) for text in STORIES[:20] for n in range(3)]
    assert kept(texts) == kept(texts)
    assert any(kept(texts, seed=seed) != kept(texts) for seed in range(1, 6))
    assert kept([f"  {text}\r\n" for text in texts]) == kept(texts)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a b c", "a  b\n c ", "a b d", "A b c"], [0, 2]),  # with fewer than five words, all of them count
        (["", " \n", "x"], [0, 2]),
        (["!!!", "???", "!!!"], [0, 1]),  # without words, only equal ones
        (["好", "好", "坏"], [0, 2]),
        (["你好世界", "你好，世界。", "你好世"], [0, 2]),
        (["e\u0301 a", "\u00e9 a"], [0]),  # one letter, written in two ways
        ([], []),
    ],
)
def test_tiny_empty_and_odd_texts(texts, expected):
    assert kept(texts) == expected


def test_a_long_document_is_read_in_parts_and_compared_as_a_whole():
    text = " ".join(STORIES)  # of more shingles than are hashed at a time
    chunks = [text[i : i + 97] for i in range(0, len(text), 97)]
    seen = Duplicates()
    assert seen.kind(LongDocument("long", lambda: iter(chunks))) is None
    assert seen.kind(Document("short", text)) == "exact"
    assert seen.kind(Document("other", altered(text, 3, random.Random(0)))) == "near"
    for part in (
        text[: len(text) // 2],
        text[len(text) // 2 :],
    ):  # the lowest of all are no higher than those of a part
        assert (seen.signature(text) <= seen.signature(part.partition(" ")[2])).all()


def test_memory_grows_by_a_few_kilobytes_a_document_however_long():
    texts = [" ".join(f"w{random.Random(n).randrange(10**9)}{k}" for k in range(800)) for n in range(200)]
    seen = Duplicates()
    seen.kind(Document("", "a first one"))
    tracemalloc.start()
    for text in texts:
        assert seen.kind(Document("", text)) is None
    taken = tracemalloc.get_traced_memory()[0] / len(texts)
    tracemalloc.stop()
    assert taken < 8_000


def test_documents_are_read_one_at_a_time():
    read = []
    source = (read.append(n) or Document(str(n), text) for n, text in enumerate(STORIES))
    found = deduplicate(source)
    assert [d.name for d in itertools.islice(found, 3)] == ["0", "1", "2"]
    assert read == [0, 1, 2]


def test_arguments_out_of_range_are_refused():
    for options, words in (
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": 1.1}, "1.1"),
        ({"shingle": 0}, "shingle=0"),
    ):
        with pytest.raises(ValueError, match=words):
            deduplicate([], **options)
