"""Chapter 22's exercises on planning: right answers by other ways, and what a reader would write."""

import numpy as np
import pytest

from llama_minimal.config import LlamaConfig, preset
from llama_minimal.cost import Layout, Work, flops_per_token, moments, parameters
from llama_minimal.course.checks.planner_answers import EXERCISES_PLANNER
from llama_minimal.course.exercises import judge

CONFIG = LlamaConfig(dim=64, n_layers=2, n_heads=4, vocab_size=96, hidden_dim=160, max_seq_len=32)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_states_are_those_that_the_planner_counts(shard, micro_batches):
    """At the loss there are no new gradients yet."""
    n = sum(parameters(CONFIG).values())
    work = Work(seq_len=8, sequences=3, micro_batch=3 // micro_batches, precision="fp32")
    alive = moments(CONFIG, work, Layout(data=4, shard=shard))["loss"]
    states = EXERCISES_PLANNER["held_states"].right(n, 4, shard, micro_batches)
    assert states == tuple(alive[name] for name in ("weights", "gradients", "optimizer"))


def test_the_utilization_is_that_of_counted_operations():
    """Six operations for each parameter and token are those of all matrices, without the attention's scores."""
    config = preset("llama-7b")
    n = sum(parameters(config).values()) - parameters(config)["embeddings"]
    counted = 3 * sum(flops_per_token(config, context=0).values())
    model, machine = EXERCISES_PLANNER["utilizations"].right(3000, n, 312e12, True)
    assert model == pytest.approx(3000 * counted / 312e12, rel=1e-3)
    assert machine == pytest.approx(3000 * 4 / 3 * counted / 312e12, rel=1e-3)


def loop_states(n, data, shard, micro_batches):
    weights = np.zeros(n // data if shard else n, np.float32)
    moments_ = np.zeros((2, *weights.shape), np.float32)
    gradients = None
    for _ in range(micro_batches - 1):
        gradients = np.zeros(n, np.float32) + (0 if gradients is None else gradients)
    return weights.nbytes, 0 if gradients is None else gradients.nbytes, moments_.nbytes


def plain_utilizations(rate, n, flops, again):
    return rate * n * 6 / flops, rate * n * (8 if again else 6) / flops


@pytest.mark.parametrize(("name", "answer"), [("held_states", loop_states), ("utilizations", plain_utilizations)])
def test_other_right_answers_pass(name, answer):
    assert judge(EXERCISES_PLANNER[name], answer, strict=True).text == ""


def states(n, data, shard, m, *, weights=4, gradients=4, moments=8, whole=(), when=None):
    part = n / data if shard else n
    return (
        weights * (n if "weights" in whole else part),
        gradients * (part if "gradients" in whole else n) * (m > 1 if when is None else when),
        moments * part,
    )


def shares(rate, n, flops, again, *, plain=(6, 6), more=(6, 8)):
    return tuple(k * n * rate / flops for k in (more if again else plain))


ANSWERS = [
    ("held_states", lambda *case: states(*case, whole=("gradients",)), "adds up whole ones"),
    ("held_states", lambda *case: states(*case, whole=("weights",)), "the weights are whole"),
    ("held_states", lambda *case: states(*case, gradients=0), "has left its gradients"),
    ("held_states", lambda *case: states(*case, when=1), "with one micro-batch that is now"),
    ("held_states", lambda *case: states(*case, moments=4), "two moments"),
    ("held_states", lambda n, data, *case: states(n, data, True, case[1]), "sharded"),
    ("held_states", lambda *case: sum(states(*case)), ""),
    ("utilizations", lambda *case: shares(*case, plain=(2, 2), more=(2, 4)), "back it is twice as many"),
    ("utilizations", lambda *case: shares(*case, more=(6, 6)), "eight operations"),
    ("utilizations", lambda *case: shares(*case, more=(8, 8)), "does not depend"),
    ("utilizations", lambda *case: shares(*case, more=(6, 12)), "counted twice"),
    ("utilizations", lambda rate, n, flops, again: shares(rate, n, 1, again), "divide by"),
    ("utilizations", lambda *case: tuple(100 * share for share in shares(*case)), "percent"),
]


@pytest.mark.parametrize(("name", "answer", "words"), ANSWERS)
def test_wrong_answers_hear_what_is_wrong(name, answer, words):
    verdict = judge(EXERCISES_PLANNER[name], answer, strict=True)
    assert verdict.text
    assert words in verdict.text


def no_return(*case):
    "".join(map(str, case))


def raises(*case):
    raise KeyError(case)


def stub(*case): ...


@pytest.mark.parametrize("name", EXERCISES_PLANNER)
def test_what_is_no_answer_is_told_so(name):
    exercise = EXERCISES_PLANNER[name]
    assert judge(exercise, stub, strict=True).text is None
    assert "return" in judge(exercise, no_return, strict=True).text
    assert "KeyError" in judge(exercise, raises, strict=True).text
    for diagnosis, wrong in exercise.mistakes.items():
        assert diagnosis in judge(exercise, wrong, strict=True).text
