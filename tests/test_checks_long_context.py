"""Chapter 19: the right answers of its exercises by other ways, and the parts of its experiments."""

import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import RopeScaling, preset
from llama_minimal.course import needles
from llama_minimal.course.exercises import find, judge
from llama_minimal.course.experiments import long_stories, stretched
from llama_minimal.evaluation import sliding_batches
from llama_minimal.long_context import Window, WindowedKVCache, neighbor_distribution
from llama_minimal.model import build


def right(name):
    return find(f"long_context.{name}").right


@pytest.mark.parametrize(("n_slots", "n_sinks"), [(6, 2), (7, 4), (5, 0)])
def test_the_places_of_slots_are_the_caches(n_slots, n_sinks):
    window = Window(size=n_slots, n_sinks=n_sinks)
    cache = WindowedKVCache(preset("tiny"), batch_size=1, max_seq_len=10**6, window=window)
    for position in range(n_slots - 1, 40):  # before, slots are empty
        expected = cache._places_of_slots(torch.tensor([[position]]))[0].tolist()
        assert right("slot_places")(position, n_slots, n_sinks).tolist() == expected
    assert right("slot_places")(1, n_slots, n_sinks).tolist() == [0, 1] + [-1] * (n_slots - 2)


def test_the_cache_with_the_bug_is_that_of_the_chapter():
    def slot(position, n_slots, n_sinks):
        return position if position < n_slots else n_sinks + position % (n_slots - n_sinks)

    held = {}
    for position in range(30):
        held[slot(position, 7, 3)] = position
        assert right("kept_by_mistake")(position, 7, 3).tolist() == sorted(held.values())
    assert right("kept_by_mistake")(6, 6, 2).tolist() == [0, 1, 2, 3, 5, 6]  # and not 0, 1, 3, 4, 5, 6


def test_yarns_frequencies_are_the_packages_without_rounded_borders():
    scaling = RopeScaling(
        kind="yarn", factor=4.0, original_max_seq_len=2048, beta_fast=16.0, beta_slow=1.0, truncate=False
    )
    expected = reference.rope_frequencies(64, 10_000.0, scaling)
    np.testing.assert_allclose(right("yarn")(64, 10_000.0, 4.0, 2048, 16.0, 1.0), expected, rtol=1e-12)


def test_the_sliding_mean_is_that_of_the_packages_windows():
    rng = np.random.default_rng(0)
    tokens, loss = np.arange(24), rng.random(24)
    total, losses = 0.0, []
    for _, targets, weights in sliding_batches(tokens, size=7, stride=3):
        total += (loss[targets] * weights).sum()
        losses.append(np.where(targets > 0, loss[targets], np.nan))
    mean = right("sliding_mean")(np.concatenate(losses), 3)
    assert mean == pytest.approx(total / 23) == pytest.approx(loss[1:].mean())


def test_merged_is_one_softmax():
    rng = np.random.default_rng(1)
    near, far = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    values = rng.normal(size=(9, 2))

    def part(scores, values):
        e = np.exp(scores)
        return e @ values / e.sum(-1, keepdims=True), np.log(e.sum(-1))

    expected = part(np.concatenate((near, far), -1), values)[0]
    np.testing.assert_allclose(right("merge")(*part(near, values[:5]), *part(far, values[5:])), expected)


def test_the_neighbors_loss_is_the_packages_mixture():
    rng = np.random.default_rng(2)
    p, distances, tokens = rng.dirichlet(np.ones(7)), rng.random(5), rng.integers(7, size=5)
    found = neighbor_distribution(torch.from_numpy(distances)[None], torch.from_numpy(tokens)[None], 7, 0.7)[0]
    for target in range(7):
        expected = -math.log(0.4 * found[target] + 0.6 * p[target])
        assert right("neighbor_loss")(p, distances, tokens, 0.4, 0.7, target) == pytest.approx(expected)


def softmax_of_distances(p, distances, tokens, share, temperature, target):
    weights = np.exp(-(distances**2) / temperature)
    return -np.log(share * weights[tokens == target].sum() / weights.sum() + (1 - share) * p[target])


READERS = [  # exercise, answer, what is said
    ("slot_places", lambda position, n_slots, n_sinks: list(range(n_slots)), "slot's number|should give"),
    ("kept_by_mistake", lambda position, n_slots, n_sinks: [], "should"),
    ("yarn", lambda head_dim, *rest: np.ones(head_dim // 2), "should give|everywhere"),
    ("sliding_mean", lambda losses, stride: np.nanmean(losses[:, -stride:]), "first window counts whole"),
    ("merge", lambda a, s, b, t: (a * s[:, None] + b * t[:, None]) / (s + t)[:, None], "totals are logarithms"),
    ("neighbor_loss", softmax_of_distances, "should give"),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_what_a_reader_would_answer_gets_its_diagnosis(name, answer, said):
    verdict = judge(find(f"long_context.{name}"), answer, strict=True)
    assert any(part in verdict.text for part in said.split("|")), verdict.text


# The experiments


def test_rows_ask_only_for_what_was_stated_and_learn_only_answers():
    data = needles.rows(20, 64, seed=0)
    for ids, targets in zip(data.inputs, data.targets, strict=True):
        assert ids[0] == 0
        facts = {}
        for t, (token, target) in enumerate(zip(ids, targets, strict=True)):
            if needles.FACT <= token < needles.ASK:
                facts.setdefault((token - 1) // needles.N, ((token - 1) % needles.N, t))
            if target >= 0:
                thing, place = facts[token - needles.ASK]
                assert target == needles.THING + thing
                assert place < t
        assert len(facts) == needles.N_FACTS
        assert (targets >= 0).sum() >= 5


@pytest.mark.parametrize("distance", [16, 56, 248])
def test_a_needle_lies_as_far_away_as_it_says(distance):
    asked = needles.needles(5, distance)
    for ids, answer in zip(asked.tokens.tolist(), asked.answers.tolist(), strict=True):
        fact = ids[needles.BEFORE] - needles.FACT
        assert len(ids) == needles.BEFORE + distance + 1
        assert (fact // needles.N, fact % needles.N) == (ids[-1] - needles.ASK, answer - needles.THING)
        assert sum(needles.FACT <= one < needles.ASK for one in ids) == 6
    assert f"{needles.show(asked.tokens[0]).split()[-1]}".endswith("?")


def test_read_at_once_or_token_by_token_the_answers_are_the_same():
    model, asked = build(needles.small_config(), seed=0).eval(), needles.needles(40, 40)
    assert needles.recall(model, asked) == needles.recall(model, asked, Window(size=64))
    copy = needles.stretched(model, 256, "linear")
    assert (copy.config.rope_scaling.factor, copy.config.max_seq_len) == (4.0, 256)
    copy.norm.weight.data.zero_()
    assert model.norm.weight.data.ne(0).all()


def test_a_story_is_consistent_up_to_its_first_problem():
    text = stretched.held_out(1)[0].text()
    n = len(long_stories.sentences(text))
    assert long_stories.consistent_until(text) == n
    middle = long_stories.sentences(text)[n // 2]
    broken = text.replace(middle + ".", middle + ". The moon ate Otto.")
    assert broken != text
    assert abs(long_stories.consistent_until(broken) - n // 2) <= 2
    assert len(long_stories.sentences(broken)) == n + 1
