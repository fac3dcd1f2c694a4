"""Chapter 20, bias and filter: right answers by other ways, and what the chapter asks the course model."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.course import responsible
from llama_minimal.course.exercises import check, find
from llama_minimal.course.experiments import debiasing
from llama_minimal.course.responsible_diagram import draw_responsible
from llama_minimal.data.valley.world import CHARACTERS
from llama_minimal.reference import group_shares


def right(name):
    return find(f"responsible_ai.{name}").right


@pytest.mark.parametrize(("share", "wanted"), [(0.7, 0.9), (0.2, 0.45), (0.9, 0.6)])
def test_at_the_temperature_two_even_groups_have_the_wanted_share(share, wanted):
    logits = np.log(np.array([share / 4] * 4 + [(1 - share) / 4] * 4))
    shares = group_shares(logits, np.repeat([0, 1], 4), right("temperature")(share, wanted))
    assert shares[0] == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=7), miss=st.integers(1, 5))
def test_no_set_of_refused_scores_that_is_closed_upward_is_cheaper(rows, miss):
    scores, labels = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    costs = []
    for chosen in itertools.product([False, True], repeat=len(rows)):
        refused = np.array(chosen)
        if all(
            refused[j]
            for i, j in itertools.product(range(len(rows)), repeat=2)
            if refused[i] and scores[j] >= scores[i]
        ):
            costs.append(miss * (labels[~refused] == 1).sum() + 2 * (labels[refused] == 0).sum())
    assert right("lowest_cost")(scores, labels, float(miss), 2.0) == min(costs)


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab ", max_size=8), words=st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_need_not_wait_is_refused_by_no_continuation(text, words):
    """A word may still be refused from a place on if and only if some continuation makes it stand there alone."""
    alone = [re.compile(rf"(?<![a-z]){re.escape(word)}(?![a-z])") for word in words]
    waits = 0
    for tail in itertools.product("ab .", repeat=3):
        whole = text + "".join(tail) + "."
        for place in range(len(text)):
            matches = [one.match(whole, place) for one in alone]
            if any(m and m.end() >= len(text) for m in matches):
                waits = max(waits, len(text) - place)
    assert right("hold")(text, words) == waits


def odds(share):
    return share / (1 - share)


def without_infinity(scores, labels, miss, alarm):
    return min(miss * (labels[scores < t] == 1).sum() + alarm * (labels[scores >= t] == 0).sum() for t in scores)


def fewest_missed(scores, labels, miss, alarm):
    return float(min(((labels == 1) & (scores < t)).sum() for t in scores))


def finished_words(text, words):
    return max((len(word) for word in words if text.endswith(word)), default=0)


def as_in_the_chapter(text, words):
    return max((n for word in words for n in range(1, len(word)) if text.endswith(word[:n])), default=0)


WRONG = [
    ("temperature", lambda share, wanted: wanted / share, "responsible_ai.temperature"),
    ("temperature", lambda share, wanted: np.log(odds(wanted)) / np.log(odds(share)), "upside down"),
    ("temperature", lambda share, wanted: np.log2(share) / np.log2(wanted), "logarithms of the shares"),
    ("lowest_cost", without_infinity, "nothing"),
    ("lowest_cost", fewest_missed, "responsible_ai"),
    ("lowest_cost", lambda scores, labels, miss, alarm: (labels == 1).sum() * miss, "refusing nothing costs"),
    ("hold", finished_words, "responsible_ai"),
    ("hold", as_in_the_chapter, "chapter's"),
    ("hold", lambda text, words: len(text), "responsible_ai"),
]


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_wrong_answers_that_a_reader_would_give_are_told_so(name, answer, says, capsys):
    check(f"responsible_ai.{name}", answer)
    out = capsys.readouterr().out
    assert out.startswith("✗")
    assert says in out


def test_contexts_end_before_the_worker_is_named():
    for job in responsible.JOBS:
        found = responsible.contexts(job, 3)
        assert len(set(found)) == 3
        assert not any(text.endswith(" ") for text in found)
    tailors, smiths = responsible.contexts("tailor", 3), responsible.contexts("smith", 3)
    assert [text.replace("tailor", "smith") for text in tailors] == list(smiths)


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_a_mention_is_of_someone_whom_the_text_has_named(language):
    for place in responsible.mentions(language, 12):
        assert place.who in place.texts
        assert len(place.texts) > 1
        assert all(text.strip() in place.before for text in place.texts.values())


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_sentences_have_both_labels_and_stand_where_they_say(language):
    found = responsible.sentences(10, 30, seed=1, language=language)
    assert [one.insult is not None for one in found] == [True] * 10 + [False] * 30
    assert all(one.text.strip() for one in found)


def test_chinese_names_are_those_of_all_characters():
    names = responsible.chinese_names()
    assert len({*names["she"], *names["he"]}) == len(CHARACTERS)
    assert all(responsible.chinese_contexts(job) for job in ("vet", "judge"))


def test_the_experiments_texts_are_as_fair_as_they_say():
    found = {}
    for remedy in ("planted", "balanced", "mirrored"):
        pairs = [next(iter(story.jobs.items())) for story in debiasing.chosen(remedy, 0)]
        found[remedy] = [(job, CHARACTERS[name].pronoun) for name, job in pairs]
    for workers, job in itertools.product((found["balanced"], found["mirrored"]), responsible.JOBS):
        assert workers.count((job, "she")) == workers.count((job, "he")) > 0
    assert found["planted"].count(("smith", "he")) > 2 * found["planted"].count(("smith", "she"))


def test_the_diagram_lights_what_it_is_told():
    assert draw_responsible({"filter"}).axes
    with pytest.raises(ValueError, match="attention"):
        draw_responsible({"attention"})
