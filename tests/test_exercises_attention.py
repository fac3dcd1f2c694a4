"""The exercises of chapter 02 against other evidence than their own answers, and wrong answers that must not pass."""

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import diagnose, exercises
from llama_minimal.reference.attention import attention, softmax

EXERCISES = exercises("attention")
RNG = np.random.default_rng(0)


def right(name):
    return EXERCISES[name].right


def part(q, k, v):
    """What attention to some keys leaves behind: maximum, sum, and mixed values."""
    z = q @ k.T / np.sqrt(q.shape[-1])
    m = z.max(axis=-1, keepdims=True)
    return m, np.exp(z - m).sum(axis=-1, keepdims=True), np.exp(z - m) @ v


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_merged_parts_are_attention_to_the_whole(cut, scale):
    q, k, v = scale * RNG.normal(size=(5, 4)), RNG.normal(size=(9, 4)), RNG.normal(size=(9, 4))
    whole = attention(q[None, None], k[None, None], v[None, None])[0, 0]
    halves = part(q, k[:cut], v[:cut]), part(q, k[cut:], v[cut:])
    np.testing.assert_allclose(right("merge")(*halves), whole, rtol=1e-10)
    np.testing.assert_allclose(right("merge")(*halves[::-1]), whole, rtol=1e-10)


def test_a_part_that_sees_nothing_changes_nothing():
    seen = part(*RNG.normal(size=(3, 5, 4)))
    nothing = np.full((5, 1), -np.inf), np.zeros((5, 1)), np.zeros((5, 4))
    np.testing.assert_allclose(right("merge")(nothing, seen), seen[2] / seen[1])


def test_the_gradient_of_a_sink_is_autograds():
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    s = torch.full((3, 1), 0.3, dtype=torch.float64, requires_grad=True)  # one for each row
    d_weights = torch.randn(3, 5, dtype=torch.float64)
    (z.exp() / (s.exp() + z.exp().sum(-1, keepdim=True))).backward(d_weights)
    ours = right("sink_gradient")(z.detach().numpy(), 0.3, d_weights.numpy())
    np.testing.assert_allclose(ours, torch.cat([z.grad, s.grad], dim=1).numpy(), rtol=1e-10)


def test_the_tokens_looked_at_are_those_of_pytorchs_entropy():
    z = RNG.normal(size=(4, 7))
    entropy = torch.distributions.Categorical(logits=torch.tensor(z)).entropy().numpy()
    np.testing.assert_allclose(right("tokens_looked_at")(z), np.exp(entropy))
    alike = np.where(np.tri(5, dtype=bool), 3.0, -np.inf)
    np.testing.assert_allclose(right("tokens_looked_at")(alike), [1, 2, 3, 4, 5])


def test_a_head_that_does_nothing_but_induction_has_one():
    ids = np.tile(np.arange(6), 2)
    maps = np.zeros((1, 2, 12, 12))
    maps[0, 0, np.arange(6, 12), np.arange(1, 7)] = 1  # looks at what came after
    maps[0, 1, np.arange(6, 12), np.arange(6)] = 1  # looks at the occurrence itself
    np.testing.assert_array_equal(right("induction")(maps, ids), [[1, 0]])


def never_shrinks_the_sum(first, second):
    m = np.maximum(first[0], second[0])
    one, two = np.exp(first[0] - m), np.exp(second[0] - m)
    return (one * first[2] + two * second[2]) / (first[1] + second[1])


def takes_the_larger(first, second):
    return np.where(
        first[0] > second[0], first[2] / np.maximum(first[1], 1e-9), second[2] / np.maximum(second[1], 1e-9)
    )


def sink_not_in_the_sum(z, s, d_weights):
    ours = right("sink_gradient")(z, -np.inf, d_weights)
    ours[:, -1] = (softmax(z) * d_weights).sum(axis=-1)
    return ours


WRONG = {
    "merge": [
        never_shrinks_the_sum,
        takes_the_larger,
        lambda a, b: a[2] / a[1] + b[2] / b[1],
        lambda a, b: (a[1] * a[2] + b[1] * b[2]) / (a[1] + b[1]),
        lambda a, b: right("merge")(a, b)[:, :1],
        lambda a, b: (np.maximum(a[0], b[0]), a[1] + b[1], a[2] + b[2]),
    ],
    "sink_gradient": [
        sink_not_in_the_sum,
        lambda z, s, d: right("sink_gradient")(z, s, d)[:, :-1],
        lambda z, s, d: np.roll(right("sink_gradient")(z, s, d), 1, axis=1),
        lambda z, s, d: -right("sink_gradient")(z, s, d),
        lambda z, s, d: right("sink_gradient")(z, 0.0, d),
        lambda z, s, d: (right("sink_gradient")(z, s, d)[:, :-1], 0.0),
    ],
    "tokens_looked_at": [
        lambda z: (softmax(z) > 0).sum(axis=-1),
        lambda z: 1 / softmax(z).max(axis=-1),
        lambda z: np.exp(-(softmax(z) * z).sum(axis=-1)),
        lambda z: np.full(len(z), z.shape[-1]),
        lambda z: right("tokens_looked_at")(z)[:, None],
        lambda z: right("tokens_looked_at")(z) / z.shape[-1],
    ],
    "induction": [
        lambda maps, ids: right("induction")(maps.swapaxes(-1, -2), ids),
        lambda maps, ids: right("induction")(maps, ids).mean(axis=-1),
        lambda maps, ids: right("induction")(maps, ids).T,
        lambda maps, ids: right("induction")(maps, ids) * len(ids),
        lambda maps, ids: np.diagonal(maps, offset=-1, axis1=2, axis2=3).mean(axis=-1),
        lambda maps, ids: right("induction")(maps, ids[::-1]),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, answers in WRONG.items() for i in range(len(answers))]
)
def test_other_wrong_answers_do_not_pass(name, number):
    with np.errstate(all="ignore"):
        verdict = diagnose(EXERCISES[name], WRONG[name][number])
    assert verdict, verdict
    assert "raised" not in verdict
