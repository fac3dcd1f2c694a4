"""Chapter 18: the right answers of its exercises by other ways, and what its recorded runs compare."""

import itertools

import numpy as np
import pytest
import torch

from llama_minimal.adaptive_computation import expected_speedup, expected_tokens
from llama_minimal.adaptive_computation.verification import Proposal, verify
from llama_minimal.config import preset
from llama_minimal.course.exercises import diagnose, exercises, find
from llama_minimal.course.experiments import early_exit, speculative, speculative_times
from llama_minimal.model import build
from llama_minimal.sampling import Choice
from llama_minimal.settings import GREEDY


def right(name):
    return find(f"adaptive_computation.{name}").right


def test_many_darts_of_the_right_step_give_p():
    """Over a grid of darts, which is exact but for its cells."""
    p, q = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.125, 0.5, 0.125, 0.25])
    darts, found = (np.arange(60) + 0.5) / 60, np.zeros(4)
    for x, u, w in itertools.product(range(4), darts, darts):
        found[right("accept")(p, q, x, u, w)] += q[x] / 3600
    np.testing.assert_allclose(found, p, atol=0.01)


def test_expected_tokens_are_those_of_going_through_all_outcomes():
    chances = [0.9, 0.3, 0.6]
    total = 0.0
    for kept in itertools.product((True, False), repeat=3):
        probability = np.prod([c if k else 1 - c for c, k in zip(chances, kept, strict=True)])
        total += probability * (1 + (*kept, False).index(False))
    assert right("expected")(chances) == pytest.approx(total)
    assert right("expected")([0.7] * 4) == pytest.approx(expected_tokens(0.7, 4))


def test_the_best_number_of_candidates_is_that_of_the_packages_formula():
    for alpha, c, slope in itertools.product((0.2, 0.6, 0.9), (0.02, 0.3), (0.0, 0.15)):
        speeds = [expected_speedup(alpha, n, cost=c, pass_cost=1 + slope * n) for n in range(13)]
        assert right("best")(alpha, c, slope, 12) == speeds.index(max(speeds))


def test_what_is_written_is_what_the_package_writes():
    for candidates in itertools.product(range(3), repeat=3):
        choices = [1, 0, 2, 1]
        logits = torch.nn.functional.one_hot(torch.tensor([choices]), 3).float()
        choice = Choice([[0]], GREEDY, n_places=4, seed=0, vocab_size=3)
        tokens, (n,) = verify(logits, Proposal(torch.tensor([candidates]), [3]), choice, [0])
        assert right("written")(candidates, choices) == tokens[0, : n + 1].tolist()


def test_depths_of_a_batch_by_loops():
    confidence = np.random.default_rng(3).random((6, 4, 3))
    depths = [[next((e + 1 for e in range(3) if row[e] >= 0.7), 4) for row in step] for step in confidence]
    found = right("batch")(confidence, 0.7)
    assert found == pytest.approx((np.mean(depths), np.mean([max(step) for step in depths])))


WRONG = [  # as readers write them; what the check has to say
    ("accept", lambda p, q, x, u, w: x if u < p[x] / q[x] else int(p.argmax()), ""),
    ("accept", lambda p, q, x, u, w: x if u > p[x] / q[x] else 0, ""),
    ("accept", lambda p, q, x, u, w: x if u < min(1, p[x] / q[x]) else int((np.cumsum(p) > w).argmax()), "over q"),
    ("accept", lambda p, q, x, u, w: x if p[x] >= q[x] else right("accept")(p, q, x, 1.0, w), "p/q of them stay"),
    ("expected", lambda chances: sum(chances), ""),
    ("expected", lambda chances: 1 + sum(c ** (i + 1) for i, c in enumerate(chances)), ""),
    ("expected", lambda chances: 1 + sum(chances), "multiply the chances"),
    ("best", lambda alpha, c, slope, most: 4, ""),
    (
        "best",
        lambda alpha, c, slope, most: max(range(1, most + 1), key=lambda n: expected_speedup(alpha, n, cost=c)),
        "",
    ),
    ("written", lambda a, b: [x for x, y in zip(a, b, strict=False) if x == y], ""),
    ("written", lambda a, b: list(a), ""),
    ("written", lambda a, b: list(b), "another text"),
    ("batch", lambda confidence, threshold: (confidence >= threshold).argmax(-1), ""),
    ("batch", lambda confidence, threshold: (confidence >= threshold).mean(), ""),
]


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_wrong_answers_are_refused_with_a_reason(name, answer, says):
    verdict = diagnose(find(f"adaptive_computation.{name}"), answer)
    assert verdict
    assert says in verdict


@pytest.mark.parametrize("name", exercises("adaptive_computation"))
def test_a_stub_and_an_error_are_told_apart(name):
    def breaks(*case):
        raise KeyError("mine")

    exercise = find(f"adaptive_computation.{name}")
    assert diagnose(exercise, exercise.right) == ""
    assert "mine" in diagnose(exercise, breaks)
    assert len(exercise.mistakes) >= 6


def test_the_experiments_compare_what_they_say():
    rates = {}
    for point in early_exit.POINTS:
        rates.setdefault((point["arm"], point["lr"]), set()).add(point["seed"])
    trained = [arm for arm, lr in rates if lr > 0 and rates[arm, lr] == {0, 1, 2}]
    assert sorted(trained) == ["first 3", "matrices"]
    assert {point["seed"] for point in speculative.POINTS} == {0, 1, 2}
    model = build(preset("tiny", n_layers=3), seed=0).eval()
    own = speculative_times.a_draft(model, 2, None)
    assert own.layers["0"] is model.layers["0"]
    assert speculative_times.a_draft(model, 2, 32).config.vocab_size == model.config.vocab_size


def test_what_the_rule_says_of_a_text_is_what_each_threshold_leaves():
    model = build(preset("tiny", n_layers=3), seed=0).eval()
    texts = torch.randint(model.config.vocab_size, (2, 7), generator=torch.Generator().manual_seed(0))
    never = early_exit.by_rule(model, texts, [1, 2], 1.5)
    with torch.no_grad():
        expected = early_exit.losses(model(texts[:, :-1])[None], texts)[0, :, 1:].mean()
    assert float(never["loss"]) == pytest.approx(float(expected), abs=1e-5)
    assert (float(never["depth"]), float(never["differing"])) == (3.0, 0.0)
    always = early_exit.by_rule(model, texts, [1, 2], 0.0)
    assert float(always["depth"]) == 1.0


def test_acceptance_is_what_two_distributions_have_in_common():
    model = build(preset("tiny", n_layers=2), seed=0).eval()
    text = [list(range(70))]
    assert speculative.acceptance(model, model, text, speculative.SAMPLINGS["sampled"]) == pytest.approx(1)
    other = build(preset("tiny", n_layers=2), seed=1).eval()
    assert 0 < speculative.acceptance(model, other, text, speculative.SAMPLINGS["sampled"]) < 1
