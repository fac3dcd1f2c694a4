"""Answers as readers write them, each with what the check should say of it."""

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import CHAPTERS, exercises, find, judge
from llama_minimal.reference.attention import causal_mask, softmax

ALL = {f"{chapter}.{name}": exercise for chapter in CHAPTERS for name, exercise in exercises(chapter).items()}


def softmax_of_sums(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-2, keepdims=True)


def softmax_in_place(x):
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def softmax_without_keepdims(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1)


def no_return(*case):
    "".join(map(str, case))


def causal(q, k, v, mask, forbidden=-np.inf):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return softmax(np.where(mask(q.shape[-2], k.shape[-2]), scores, forbidden)) @ v


def streams_in_place(x, layers):
    streams = [x.copy()]
    for layer in layers:
        x += layer(x)
        streams.append(x.copy())
    return streams


def tied_in_place(tokens, d_x, normed, d_logits):
    d_logits *= 1
    gradient = d_logits.T @ normed
    d_x *= 2
    np.add.at(gradient, tokens, d_x / 2)
    return gradient


def norm_over_all(x, weight, eps):
    mean = (x**2).mean(axis=0, keepdims=True)
    return x / np.sqrt(mean + eps) * weight


def layer_norm_over_both(x, eps):
    axes = (-2, -1)
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


def gradient_with_one_maximum(z, y, epsilon):
    e = np.exp(z - z.max())
    shares = (1 - epsilon) * np.eye(z.shape[1])[y] + epsilon / z.shape[1]
    return (e / e.sum(axis=-1, keepdims=True) - shares) / len(y)


def divide_in_place(counts):
    counts *= len(counts) / counts.sum()
    return counts


READERS = [  # exercise, answer, what is said
    ("start_here.mean", lambda numbers: np.median(numbers), "this is the median; sum and divide"),
    ("start_here.mean", lambda numbers: -sum(numbers) / len(numbers), "the sign is turned"),
    ("start_here.mean", lambda numbers: sum(numbers) / (len(numbers) - 1), "it gives 9, and should give 6"),
    ("start_here.mean", no_return, "is its return missing?"),
    ("language_modeling.encode", lambda text, merges: text.encode(), "should give"),
    ("language_modeling.encode", lambda text, merges: [], "does not depend on `text`, and should"),
    ("language_modeling.cross_entropy", lambda z, y: -np.log(softmax(z)).mean(), "infinite"),
    ("language_modeling.cross_entropy", lambda z, y: torch.tensor(0.0), "it gives 0 everywhere, whatever"),
    (
        "language_modeling.smoothed_gradient",
        lambda z, y, e: softmax(z),
        "each row should sum to 0, and one here sums to 1",
    ),
    (
        "language_modeling.perplexity",
        lambda s: np.exp(np.median(s)),
        "it gives 7.389, and should give",
    ),
    (
        "language_modeling.perplexity",
        lambda surprises: 1 / np.exp(-surprises).mean(),
        "where `surprises` is 0 everywhere, the answer is right",
    ),
    ("language_modeling.first_loss", 10.4, ""),
    ("language_modeling.calibration", lambda p, hit, bins: np.zeros((bins, 2)), "it gives 0 everywhere"),
    ("attention.softmax", lambda x: softmax(x.T).T if x.ndim == 2 else softmax(x), "the columns sum to one"),
    ("attention.softmax", softmax_of_sums, "nan where they should be finite"),
    ("attention.softmax", softmax_in_place, "the result is right, but it changes its argument `x`"),
    ("attention.softmax", softmax_without_keepdims, "is keepdims=True missing?"),
    ("attention.softmax", lambda x: -softmax(x), "the sign is turned"),
    ("attention.softmax", lambda x: np.log(softmax(x)), "infinite"),
    ("attention.softmax", lambda x: (softmax(x), x), "of which the first is right; return that alone"),
    ("attention.softmax", no_return, "is its return missing?"),
    ("attention.causal_attention", lambda q, k, v: causal(q, k, v, lambda n, m: ~causal_mask(n, m)), "upside down"),
    (
        "attention.causal_attention",
        lambda q, k, v: causal(q, k, v, lambda n, m: np.tri(n, m, m - n - 1, dtype=bool), -1e9),
        "a token does not see itself",
    ),
    ("attention.causal_attention", lambda q, k, v: causal(q, k, v, causal_mask) * 2, "this is twice the right answer"),
    (
        "attention.causal_attention",
        lambda q, k, v: causal(q, k, v, lambda n, m: np.tri(n, m, m - n + 1, dtype=bool)),
        "of the result changes with",
    ),
    ("positions.apply_rope", lambda x, cos, sin: -np.asarray(x), "this is minus `x`"),
    ("positions.key_for_distance", lambda q, n, theta: 2 * q, "and besides, this is twice what that gives"),
    ("positions.to_halves", lambda w, n_heads: w[::-1], "the right numbers, in the wrong places"),
    ("positions.to_halves", lambda w, n_heads: w.T, "the shape is (6, 16)"),
    ("positions.alibi", lambda slopes, T: np.zeros((len(slopes), T, T)), "it gives 0 everywhere"),
    ("positions.theta", lambda n, head_dim: n, "this is `n`"),
    ("normalization.rms_norm", norm_over_all, "changes with `x`"),
    ("normalization.rms_norm", lambda x, weight, eps: x / np.sqrt((x**2).mean(axis=-1) + eps), "it raised ValueError"),
    ("normalization.layer_norm", layer_norm_over_both, ""),
    ("normalization.merge", lambda weight, w: -w * weight, "the sign is turned"),
    ("normalization.qk_norm", lambda q, k: np.zeros((2, 3, 5)), "it gives 0 everywhere"),
    ("normalization.cosine", lambda n, a, kind: 1.0, "it gives 1 everywhere, whatever the arguments are"),
    ("llama.parameters", lambda dim, *of: 12 * of[0] * dim**2, "should give"),
    ("llama.streams", streams_in_place, "the result is right, but it changes its argument `x`"),
    ("llama.utilization", 0.238, "this is about half of the right answer"),
    ("llama.tied_gradient", tied_in_place, "it changes its argument `d_x`"),
    (
        "llama.logits_without",
        lambda parts, left_out, weight, eps, output: parts[left_out] @ output.T,
        "does not depend on",
    ),
    ("feedforward.swiglu", lambda x, w1, w2, w3: 0.0 * x, "it gives 0 everywhere"),
    ("feedforward.input_gradient", lambda d_out, x, w1, w2, w3: x, "this is `x` as it was given"),
    ("feedforward.input_gradient", no_return, "is its return missing?"),
    ("feedforward.break_even", -33023, "the sign is turned"),
    ("generation.top_p", lambda p, top_p: p, "this is `p` as it was given"),
    ("generation.penalty", lambda logits, seen, penalty: logits, "this is `logits` as it was given"),
    ("training.adamw", lambda w, g, m, v, *rest: (w - rest[1] * g, m, v), "does not depend on `m`"),
    ("training.first_steps", lambda t, beta1, beta2: (1 - beta1) / (1 - beta2), "does not depend on `t`"),
    ("training.trapezoid", lambda step, lr, steps, warmup, decay: lr, "it gives 0.5 everywhere"),
    ("training.accumulate", lambda sums, counts, longest: sums[0], "does not depend on `longest`"),
    ("training.accumulate", no_return, "is its return missing?"),
    ("training.polar", lambda G, rounds: G, "this is `G` as it was given"),
    ("training.break_even", lambda *case: (case[2] * case[3] - case[0] * case[1]) / (case[0] - case[2]), "1/3 times"),
    ("data_parallelism.left_ring", lambda P, rank: [(0, 1)], "does not depend on `P`"),
    ("data_parallelism.left_ring", lambda P, rank: [((rank + 1 + s) % P, rank) for s in range(P - 1)], "should give"),
    ("data_parallelism.factors", lambda counts: -counts * len(counts) / counts.sum(), "the sign is turned"),
    ("data_parallelism.factors", lambda counts: counts.sum() / (len(counts) * counts + 1), ""),
    ("data_parallelism.factors", divide_in_place, "it changes its argument `counts`"),
    ("data_parallelism.factors", no_return, "is its return missing?"),
    ("data_parallelism.two_floors", lambda n, G, K: 2 * (G * K - 1) / (G * K) * n, "this is the sum of all numbers"),
    ("data_parallelism.devices", lambda N, stage, budget: 16 * N / budget, "should give"),
    ("data_parallelism.devices", lambda N, stage, budget: 0, "everywhere"),
    (
        "data_parallelism.clip",
        lambda shards, max_norm: shards / np.linalg.norm(shards),
        "are nan where they should be finite",
    ),
    ("data_parallelism.clip", lambda shards, max_norm: np.clip(shards, -max_norm, max_norm), ""),
    (
        "data_parallelism.finish",
        lambda ready, sizes, per_bucket, delay, bandwidth: ready[-1],
        "this is the largest of `ready`",
    ),
]
READERS = [one for one in READERS if one[0] in ALL]  # of exercises that are there


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_what_a_reader_would_answer_gets_its_diagnosis(name, answer, said):
    verdict = judge(find(name), answer, strict=True)
    assert verdict.text or not said
    assert said in verdict.text, verdict.text


@pytest.mark.parametrize("name", ALL)
def test_every_exercise_knows_six_wrong_answers(name):
    known = len(ALL[name].mistakes) + sum(one[0] == name and bool(one[2]) for one in READERS)
    assert known >= 6
