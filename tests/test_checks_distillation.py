"""The exercises of chapter 16 as readers answer them, and their keys against other computations."""

from itertools import product

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.course.exercises import case, exercises, judge
from llama_minimal.course.experiments import find as experiment

EXERCISES = exercises("distillation")


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def of_the_mixture_as_a_target(z, v, beta):
    q, p = softmax(z), softmax(v)
    return q - ((1 - beta) * p + beta * q)


def of_the_reverse(z, v, beta):
    q, p = softmax(z), softmax(v)
    return q * (np.log(q / p) - (q * np.log(q / p)).sum())


def shares_exchanged(z, v, beta):
    return EXERCISES["skewed_gradient"].right(z, v, 1 - beta)


def without_the_mean(z, v, beta):
    q, p = softmax(z), softmax(v)
    return -beta * q * p / ((1 - beta) * p + beta * q)


def with_respect_to_q(z, v, beta):
    q, p = softmax(z), softmax(v)
    return -beta * p / ((1 - beta) * p + beta * q)


def all_texts(start, table, n):
    texts = list(product(range(len(start)), repeat=n))
    return np.array([start[x[0]] * np.prod([table[a, b] for a, b in zip(x, x[1:], strict=False)]) for x in texts])


def forward_of_texts(start_q, table_q, start_p, table_p, n):
    q, p = all_texts(start_q, table_q, n), all_texts(start_p, table_p, n)
    return (p * np.log(p / q)).sum()


def n_rounds(start_q, table_q, start_p, table_p, n):
    at, total = start_q, (start_q * np.log(start_q / start_p)).sum()
    for _ in range(n):
        total += at @ (table_q * np.log(table_q / table_p)).sum(1)
        at = at @ table_q
    return total


def stays_at_the_start(start_q, table_q, start_p, table_p, n):
    rows = (table_q * np.log(table_q / table_p)).sum(1)
    return (start_q * np.log(start_q / start_p)).sum() + (n - 1) * start_q @ rows


def teachers_place(start_q, table_q, start_p, table_p, n):
    at, total = start_p, (start_q * np.log(start_q / start_p)).sum()
    for _ in range(n - 1):
        total += at @ (table_q * np.log(table_q / table_p)).sum(1)
        at = at @ table_p
    return total


def the_one_with_the_bugs(z, v, targets, weight, tau):
    log_q, log_p = np.log(softmax(z / tau)), np.log(softmax(v))
    soft = (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)
    hard = -np.log(softmax(z))[np.arange(len(z)), targets]
    return ((1 - weight) * hard + weight * soft).mean()


def repaired_but(*, square=True, masked=True):
    def answer(z, v, targets, weight, tau):
        log_q, log_p = np.log(softmax(z / tau)), np.log(softmax(v / tau))
        soft = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1) * (tau**2 if square else 1)
        hard = -np.log(softmax(z))[np.arange(len(z)), targets]
        total = (1 - weight) * hard + weight * soft
        return total[targets != -100].mean() if masked else total.mean()

    return answer


def over_the_vocabulary(z, v, targets, weight, tau):
    return repaired_but()(z, v, targets, weight, tau) / z.shape[-1]


def beta_for(logits, wanted):
    return 1 / EXERCISES["temperature_for"].right(logits, wanted)


def upside_down(logits, wanted):
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        q = softmax(logits / middle)
        low, high = (middle, high) if np.exp(-(q * np.log(q + 1e-300)).sum()) > wanted else (low, middle)
    return middle


READERS = [
    ("skewed_gradient", of_the_mixture_as_a_target, "m moves with the student"),
    ("skewed_gradient", of_the_reverse, ""),
    ("skewed_gradient", shares_exchanged, "the other way round"),
    ("skewed_gradient", without_the_mean, "the mean is missing"),
    ("skewed_gradient", with_respect_to_q, "through the softmax"),
    ("skewed_gradient", lambda z, v, beta: softmax(z) - softmax(v), "the mixture is compared here"),
    ("skewed_gradient", lambda z, v, beta: beta * (softmax(z) - softmax(v)), ""),
    ("steps_for_one", lambda s, t, epochs: (3 * s + t) / (3 * s), "it reads each text once"),
    ("steps_for_one", lambda s, t, epochs: 1 + t / s / epochs, "three forward passes"),
    ("steps_for_one", lambda s, t, epochs: (s + t) / epochs, ""),
    ("steps_for_one", lambda s, t, epochs: t / (3 * s * epochs), "this is what the teacher adds"),
    ("steps_for_one", lambda s, t, epochs: 1 + t * epochs / (3 * s), "the less each of them pays"),
    ("steps_for_one", lambda s, t, epochs: epochs + t / (3 * s), "all epochs together"),
    ("text_divergence", forward_of_texts, "the forward direction"),
    ("text_divergence", n_rounds, "a token too many"),
    ("text_divergence", stays_at_the_start, "the place does not move"),
    ("text_divergence", teachers_place, "the teacher writes here"),
    ("text_divergence", lambda sq, tq, sp, tp, n: (sq * np.log(sq / sp)).sum(), ""),
    ("text_divergence", lambda *a: EXERCISES["text_divergence"].right(*a) / a[-1], "texts add up"),
    ("loss", the_one_with_the_bugs, "all four bugs"),
    ("loss", repaired_but(square=False), "the factor τ² is missing"),
    ("loss", repaired_but(masked=False), "tokens with the target −100 count here"),
    ("loss", over_the_vocabulary, ""),
    ("loss", lambda z, v, y, w, tau: repaired_but()(z, v, y, 1 - w, tau), "exchanged"),
    ("loss", lambda z, v, y, w, tau: repaired_but()(z, v, y, w, tau) * (y != -100).sum(), "this is the sum"),
    ("loss", lambda z, v, y, w, tau: repaired_but()(v, z, y, w, tau), ""),
    ("temperature_for", beta_for, "one over the temperature"),
    ("temperature_for", upside_down, ""),
    ("temperature_for", lambda logits, wanted: wanted, ""),
    ("temperature_for", lambda logits, wanted: 1.0, ""),
    ("temperature_for", lambda logits, wanted: np.log(wanted), ""),
    ("temperature_for", lambda *a: round(EXERCISES["temperature_for"].right(*a), 2), ""),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_a_readers_wrong_answer_is_refused_in_words(name, answer, said):
    verdict = judge(EXERCISES[name], answer, strict=True)
    assert verdict.text
    assert said in verdict.text, verdict.text


def test_the_skewed_gradient_is_autograds_and_ends_at_forward_kl():
    z, v, beta = case("distillation.skewed_gradient", 0)
    student, p = torch.tensor(z, requires_grad=True), torch.tensor(v).softmax(-1)
    m = (1 - beta) * p + beta * student.softmax(-1)
    (gradient,) = torch.autograd.grad((p * (p / m).log()).sum(), student)
    np.testing.assert_allclose(EXERCISES["skewed_gradient"].right(z, v, beta), gradient, rtol=1e-10)
    forward = reference.forward_kl_vjp(z, v)[1](np.ones(()))
    np.testing.assert_allclose(EXERCISES["skewed_gradient"].right(z, v, 1.0), forward, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_divergence_of_texts_is_that_of_all_of_them(number):
    start_q, table_q, start_p, table_p, n = case("distillation.text_divergence", number)
    q, p = all_texts(start_q, table_q, n), all_texts(start_p, table_p, n)
    assert q.sum() == pytest.approx(1)
    found = EXERCISES["text_divergence"].right(start_q, table_q, start_p, table_p, n)
    assert found == pytest.approx((q * np.log(q / p)).sum(), rel=1e-10)


def test_the_repaired_loss_is_the_packages():
    z, v, targets, weight, tau = case("distillation.loss", 1)
    total, count = reference.distillation_loss(z, v, targets, weight, tau)
    assert count == len(z) - 1
    assert EXERCISES["loss"].right(z, v, targets, weight, tau) == pytest.approx(total / count, rel=1e-10)
    assert judge(EXERCISES["loss"], repaired_but(), strict=True).text == ""


def test_the_temperature_gives_the_perplexity():
    for number in range(3):
        logits, wanted = case("distillation.temperature_for", number)
        q = torch.tensor(logits / EXERCISES["temperature_for"].right(logits, wanted)).softmax(-1)
        assert torch.distributions.Categorical(q).perplexity().item() == pytest.approx(wanted, rel=1e-8)


def test_the_points_of_the_run_can_be_run():
    found = experiment("distillation")
    assert found.check == found.points[0]
    assert {point["seed"] for point in found.points} == {0, 1, 2}
