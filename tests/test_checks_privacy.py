"""Chapter 20, privacy: the right answers of its exercises by other ways, and answers that a reader would give."""

import numpy as np
import pytest
import torch

from llama_minimal.course.checks.privacy_answers import EXERCISES_PRIVACY, leaky_step
from llama_minimal.course.exercises import judge
from llama_minimal.reference import private_gradient


def cut(g, clip):
    return g * min(1, clip / np.linalg.norm(g))


def by_autograd(x, d, clip):
    """One backward pass through a linear layer for each example."""
    total = torch.zeros(d.shape[2], x.shape[2], dtype=torch.float64)
    for inputs, slopes in zip(torch.from_numpy(x), torch.from_numpy(d), strict=True):
        w = torch.zeros(d.shape[2], x.shape[2], dtype=torch.float64, requires_grad=True)
        ((inputs @ w.T) * slopes).sum().backward()
        total += w.grad * min(1.0, clip / w.grad.norm().item())
    return total.numpy()


def by_gram_matrices(x, d, clip):
    """Without a single gradient: ‖G‖² = Σ over pairs of tokens (x·x')(d·d')."""
    norms = np.sqrt(((x @ x.swapaxes(1, 2)) * (d @ d.swapaxes(1, 2))).sum((1, 2)))
    return np.einsum("b,btf,btd->fd", np.minimum(1, clip / norms), d, x)


def step_by_hand(gradients, losses, clip, noise, z, expected):
    total = np.zeros_like(z)
    for g in gradients:
        total = total + cut(g, clip)
    return (total + noise * clip * z) / expected


def count_likelier(score, sample):
    rank = 1
    for other in sample:
        if other >= score:
            rank += 1
    return np.log2((len(sample) + 1) / rank)


RIGHT = {
    "sampled_exposure": [count_likelier],
    "clipped_gradient": [by_autograd, by_gram_matrices],
    "private_step": [step_by_hand],
}
WRONG = {
    "sampled_exposure": {
        "infinite": lambda score, sample: np.log2(len(sample)) - np.log2((sample >= score).sum() + 1e-300),
        "in nats": lambda score, sample: np.log(len(sample) + 1) - np.log(1 + (sample >= score).sum()),
        "less": lambda score, sample: np.log2(len(sample) + 1) - np.log2(1 + (sample <= score).sum()),
        "a rank": lambda score, sample: 1 + (sample >= score).sum(),
        "a share": lambda score, sample: (1 + (sample >= score).sum()) / (1 + len(sample)),
        "strictly": lambda score, sample: np.log2(len(sample) + 1) - np.log2(1 + (sample > score).sum()),
        "one short": lambda score, sample: np.log2(len(sample)) - np.log2(1 + (sample >= score).sum()),
    },
    "clipped_gradient": {
        "the sum": lambda x, d, clip: cut(np.einsum("btf,btd->fd", d, x), clip),
        "the mean": lambda x, d, clip: cut(np.einsum("btf,btd->fd", d, x) / len(x), clip),
        "each token": lambda x, d, clip: sum(
            cut(np.outer(b, a), clip) for a, b in zip(x.reshape(-1, x.shape[2]), d.reshape(-1, d.shape[2]), strict=True)
        ),
        "unit length": lambda x, d, clip: sum(
            clip * g / np.linalg.norm(g) for g in (b.T @ a for a, b in zip(x, d, strict=True))
        ),
        "products": lambda x, d, clip: sum(
            b.T @ a * min(1, clip / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in zip(x, d, strict=True)
        ),
        "numbers": lambda x, d, clip: sum(np.clip(b.T @ a, -clip, clip) for a, b in zip(x, d, strict=True)),
        "transposed": lambda x, d, clip: by_gram_matrices(x, d, clip).T,
        "nothing": lambda x, d, clip: sum(b.T @ a for a, b in zip(x, d, strict=True)),
    },
    "private_step": {
        "count": lambda g, losses, clip, noise, z, n: sum(cut(a, clip) for a in g) / len(g) + noise * clip * z / n,
        "all by the count": lambda g, losses, clip, noise, z, n: step_by_hand(g, losses, clip, noise, z, len(g)),
        "noise": lambda g, losses, clip, noise, z, n: (sum(cut(a, clip) for a in g) + noise * z) / n,
        "noise whole": lambda g, losses, clip, noise, z, n: sum(cut(a, clip) for a in g) / n + noise * clip * z,
        "choice": lambda g, losses, *rest: step_by_hand(g[losses >= losses.mean()], losses, *rest),
        "mean": lambda g, losses, clip, noise, z, n: cut(g.sum(axis=0) / n, clip) + noise * clip * z / n,
        "as it was": leaky_step("choice count mean noise"),
        "silent": lambda g, losses, clip, noise, z, n: sum(cut(a, clip) for a in g) / n,
    },
}


def said(name, answer):
    return judge(EXERCISES_PRIVACY[name], answer, strict=True)


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, ways in RIGHT.items() for answer in ways])
def test_a_right_answer_passes(name, answer):
    assert said(name, answer).text == ""


def test_the_step_is_the_one_of_the_reference():
    for gradients, losses, clip, noise, z, expected in EXERCISES_PRIVACY["private_step"].cases:

        class Drawn:
            def normal(self, *, size, z=z):
                assert size == z.shape
                return z

        found = EXERCISES_PRIVACY["private_step"].right(gradients, losses, clip, noise, z, expected)
        np.testing.assert_allclose(found, private_gradient(gradients, clip, noise, expected, Drawn()))


@pytest.mark.parametrize(("name", "mistake"), [(name, mistake) for name, ways in WRONG.items() for mistake in ways])
def test_a_wrong_answer_is_told_what_is_wrong(name, mistake):
    verdict = said(name, WRONG[name][mistake])
    assert verdict.text, mistake
    assert verdict.kind != "raised"


@pytest.mark.parametrize("name", EXERCISES_PRIVACY)
def test_named_mistakes_are_recognized_and_all_different(name):
    exercise = EXERCISES_PRIVACY[name]
    for diagnosis, mistake in exercise.mistakes.items():
        with np.errstate(all="ignore"):
            assert diagnosis in said(name, mistake).text


@pytest.mark.parametrize("name", EXERCISES_PRIVACY)
def test_what_is_no_answer_is_told_so(name):
    def stub(*args): ...

    def forgets(*args):
        np.zeros(3)

    def raises(*args):
        raise KeyError("oh")

    assert said(name, stub).text is None
    assert "return" in said(name, forgets).text
    assert "KeyError" in said(name, raises).text
    assert said(name, None).text is None
    assert "function" in said(name, 3.0).text
