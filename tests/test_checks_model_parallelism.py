"""The exercises of chapter 11 as readers answer them, their keys against other computations, and the pictures."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from llama_minimal.course.exercises import case, exercises, find, judge
from llama_minimal.course.parallel_diagram import draw_cuts, draw_timeline
from llama_minimal.reference import rms_norm_vjp
from llama_minimal.reference.parallel import order, simulate

EXERCISES = exercises("model_parallelism")


def order_of_pairs(stages, micro_batches):
    return order("1f1b", stages, micro_batches)


def interleaved_too_early(stages, micro_batches):
    rows = []
    for stage in range(stages):
        row = list(range(1, stages - stage + 1))
        for m in range(1, micro_batches + 1):
            row += [-m, stages - stage + m]
        rows.append(row)
    return rows


def column_backward(d_outs, xs, ws):
    d_xs = [d_out @ w for d_out, w in zip(d_outs, ws, strict=True)]
    return [sum(d_xs)] * len(ws), [d.T @ x for d, x in zip(d_outs, xs, strict=True)]


def weights_first(d_outs, xs, ws):
    d_xs, d_ws = find("model_parallelism.row_backward").right(d_outs, xs, ws)
    return d_ws, d_xs


def one_for_all(d_out, x, weight, w1s, w2s):
    normed = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    w1, w2 = np.concatenate(w1s), np.concatenate(w2s, axis=1)
    return (d_out @ w2 * (normed @ w1.T > 0)) @ w1


def one_too_few(stages, micro_batches):
    rows = []
    for stage in range(stages):
        n = min(max(stages - 1 - stage, 1), micro_batches)
        row = [m + 1 for m in range(n)]
        for m in range(micro_batches):
            row += [-m - 1] + [n + m + 1] * (n + m < micro_batches)
        rows.append(row)
    return rows


def too_long_for_few(stages, micro_batches):
    rows = [[*range(1, stages - s + 1), *range(-1, -micro_batches - 1, -1)] for s in range(stages)]
    return rows if micro_batches < stages else find("model_parallelism.one_f_one_b").right(stages, micro_batches)


def after_the_norm_at_x_alone(d_out, x, weight, w1s, w2s):
    d_x = 0
    for w1, w2 in zip(w1s, w2s, strict=True):
        normed, backward = rms_norm_vjp(x, weight, 1e-5)
        part, d_weight = backward((d_out @ w2 * (normed @ w1.T > 0)) @ w1)
        d_x = d_x + part
    return d_x, d_weight


def later_rank_wins_ties(parts):
    best, token = np.full(parts.shape[1], -np.inf), np.zeros(parts.shape[1], int)
    for rank, logits in enumerate(parts):
        better = logits.max(axis=-1) >= best
        token = np.where(better, rank * parts.shape[-1] + logits.argmax(axis=-1), token)
        best = np.maximum(best, logits.max(axis=-1))
    return token


def no_wrap(rank, pipeline, data, tensor):
    return [(rank + data * tensor), (rank + tensor), rank + 1]


def joined(parts):
    return np.concatenate(parts, axis=0).argmax(axis=-1)


def offsets_of_rank(parts):
    best = parts.max(axis=-1).argmax(axis=0)
    return best * len(parts) + parts[best, np.arange(parts.shape[1])].argmax(axis=-1)


READERS = [
    ("row_backward", column_backward, "as in the column's backward"),
    ("row_backward", weights_first, "reverse order"),
    ("row_backward", lambda d_outs, xs, ws: (d_outs @ ws, d_outs @ xs), "raised ValueError"),
    ("one_f_one_b", order_of_pairs, ""),
    ("one_f_one_b", interleaved_too_early, ""),
    ("one_f_one_b", lambda p, m: [[*range(1, m + 1), *range(-1, -m - 1, -1)]] * p, "this is GPipe"),
    ("one_f_one_b", lambda p, m: [[*range(1, m + 1), *range(-m, 0)]] * p, ""),
    ("missing_sum", one_for_all, ""),
    ("span", lambda f, b, m: (m + len(f) - 1) * (f[0] + b[0]), "equal stages"),
    ("span", lambda f, b, m: sum(f) + sum(b) + (m - 1) * (f[0] + b[-1]), "pace is the slowest stage's"),
    ("one_f_one_b", one_too_few, "too few"),
    ("one_f_one_b", too_long_for_few, "should give an array of shape (4, 4)"),
    ("missing_sum", after_the_norm_at_x_alone, "still the last rank's part"),
    ("greedy", later_rank_wins_ties, "lower rank's wins"),
    ("span", lambda f, b, m: sum(f) + sum(b), ""),
    ("greedy", joined, ""),
    ("greedy", offsets_of_rank, ""),
    ("neighbors", no_wrap, "followed by its first"),
    ("neighbors", lambda rank, p, d, t: rank + 1, ""),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_a_readers_wrong_answer_is_refused_in_words(name, answer, said):
    verdict = judge(EXERCISES[name], answer, strict=True)
    assert verdict.text
    assert said in verdict.text, verdict.text


def test_the_row_key_is_autograds():
    d_outs, xs, ws = (torch.tensor(array) for array in case("model_parallelism.row_backward", 0))
    xs.requires_grad_(), ws.requires_grad_()
    out = sum(x @ w.T for x, w in zip(xs, ws, strict=True))
    out.backward(d_outs[0])
    d_xs, d_ws = EXERCISES["row_backward"].right(*case("model_parallelism.row_backward", 0))
    np.testing.assert_allclose(d_xs, xs.grad, rtol=1e-12)
    np.testing.assert_allclose(d_ws, ws.grad, rtol=1e-12)


def test_the_key_of_the_missing_sum_is_autograds():
    d_out, x, weight, w1s, w2s = (torch.tensor(array) for array in case("model_parallelism.missing_sum", 1))
    x.requires_grad_(), weight.requires_grad_()
    normed = torch.nn.functional.rms_norm(x, (4,), weight, 1e-5)
    sum(torch.relu(normed @ w1.T) @ w2.T for w1, w2 in zip(w1s, w2s, strict=True)).backward(d_out)
    d_x, d_weight = EXERCISES["missing_sum"].right(*case("model_parallelism.missing_sum", 1))
    np.testing.assert_allclose(d_x, x.grad, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(d_weight, weight.grad, rtol=1e-11)


@pytest.mark.parametrize("seed", range(8))
def test_the_key_of_the_span_is_the_simulators(seed):
    forward, backward, micro_batches = EXERCISES["span"].draw(np.random.default_rng(seed))
    timeline = simulate(order("gpipe", len(forward), micro_batches), forward, backward)
    assert EXERCISES["span"].right(forward, backward, micro_batches) == timeline.span


def test_the_neighbors_are_those_of_a_box():
    box = np.arange(24).reshape(2, 3, 4)
    for rank in range(24):
        where = [int(i[0]) for i in np.nonzero(box == rank)]
        expected = [int(np.roll(box, -1, axis)[tuple(where)]) for axis in range(3)]
        assert EXERCISES["neighbors"].right(rank, 2, 3, 4) == expected


def test_a_timeline_has_a_box_for_each_pass():
    figure, ax = plt.subplots()
    draw_timeline(ax, simulate(order("1f1b", 3, 4)), "1F1B")
    assert len(ax.patches) == 3 + 3 * 2 * 4
    assert [text.get_text() for text in ax.texts[:4]] == ["0", "1", "2", "0"]
    plt.close(figure)


def test_three_ways_to_cut_are_drawn():
    figure = draw_cuts()
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes][1] == "tensor: a part of every layer"
    plt.close(figure)
