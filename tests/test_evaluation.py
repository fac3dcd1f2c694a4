"""Evaluation: examples worked out by hand, counting in plain Python, windows that add up."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.evaluation import Evaluation, bigram_loss, sum_loss, uniform_loss


def test_a_fair_coin_per_token_has_perplexity_two_and_one_bit_per_token():
    evaluation = Evaluation(total=10 * math.log(2), n_tokens=10, n_bytes=40)
    assert evaluation.loss == pytest.approx(math.log(2))
    assert evaluation.perplexity == pytest.approx(2)
    assert evaluation.bits_per_byte == pytest.approx(0.25)  # 10 bits for 40 bytes


def test_perplexity_is_the_inverse_of_the_geometric_mean_probability():
    probabilities = [0.5, 0.125, 0.25]
    evaluation = Evaluation(total=-sum(map(math.log, probabilities)), n_tokens=3, n_bytes=3)
    assert evaluation.perplexity == pytest.approx((0.5 * 0.125 * 0.25) ** (-1 / 3))
    assert evaluation.bits_per_byte == pytest.approx((1 + 3 + 2) / 3)


def test_without_a_number_of_bytes_there_are_no_bits_per_byte():
    assert Evaluation(total=1.0, n_tokens=1).bits_per_byte is None


def test_knowing_nothing_is_as_unsure_as_the_vocabulary_is_large():
    evaluation = Evaluation(total=5 * uniform_loss(32_000), n_tokens=5)
    assert evaluation.perplexity == pytest.approx(32_000)


def windows(tokens, weights, length, *, step):
    """Cut a text into windows of ``length`` targets, ``step`` apart, two to a batch."""
    starts = range(0, len(tokens) - length, step)
    rows = [(tokens[i : i + length], tokens[i + 1 : i + length + 1], weights[i : i + length]) for i in starts]
    return [tuple(map(np.stack, zip(*rows[i : i + 2], strict=True))) for i in range(0, len(rows), 2)]


def test_the_loss_over_batches_is_the_loss_computed_at_once(make_model):
    model, rng = make_model().double(), np.random.default_rng(0)
    tokens, weights = rng.integers(61, size=41), rng.integers(3, size=40).astype(np.float32)
    batches = windows(tokens, weights, 8, step=8)
    assert [len(inputs) for inputs, _, _ in batches] == [2, 2, 1]
    total, count = sum_loss(model, batches)
    inputs, targets, row_weights = (torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True))
    losses = F.cross_entropy(model(inputs).transpose(1, 2), targets, reduction="none")
    assert total == pytest.approx((losses * row_weights).sum().item(), rel=1e-9)
    assert count == weights.sum()


def test_the_loss_is_measured_in_evaluation_mode_which_is_then_undone(make_model):
    model = make_model()
    dropout = torch.nn.Dropout(0.9)
    model.output = torch.nn.Sequential(dropout, model.output)
    batches = windows(np.arange(20), np.ones(19, dtype=np.float32), 6, step=6)
    first = sum_loss(model.train(), batches)
    assert model.training
    assert dropout.training
    assert sum_loss(model, batches) == first
    sum_loss(model.eval(), batches)
    assert not model.training


def bigram_loss_by_dict(train, validation, vocab_size, strength):
    pairs = Counter(zip(train, train[1:], strict=False))
    followed, alone = Counter(train[:-1]), Counter(train)
    losses = []
    for a, b in zip(validation, validation[1:], strict=False):
        average = (alone[b] + 1) / (len(train) + vocab_size)
        losses.append(-math.log((pairs[a, b] + strength * average) / (followed[a] + strength)))
    return sum(losses) / len(losses)


TOKENS = st.lists(st.integers(0, 6), min_size=2, max_size=60)


@given(TOKENS, TOKENS, st.sampled_from([0.5, 16.0]), st.sampled_from([np.uint16, np.int64]))
def test_the_bigram_loss_is_that_of_counting_in_dictionaries(train, validation, strength, dtype):
    expected = bigram_loss_by_dict(train, validation, 9, strength)
    arrays = (np.array(tokens, dtype=dtype) for tokens in (train, validation))
    assert bigram_loss(*arrays, 9, strength=strength) == pytest.approx(expected)


def test_pairs_are_not_squeezed_into_sixteen_bits():
    """In uint16, as files hold ids, 300 · 40,000 + 10,951 and 7 · 40,000 + 7 would be the same pair."""
    train = np.array([300, 10_951, 7, 7], dtype=np.uint16)
    expected = bigram_loss_by_dict(train.tolist(), [300, 10_951], 40_000, 16.0)
    assert bigram_loss(train, train[:2], 40_000) == pytest.approx(expected, rel=1e-9)


@given(TOKENS, st.integers(0, 8))
def test_the_bigram_probabilities_after_any_token_add_up_to_one(train, before):
    probabilities = [math.exp(-bigram_loss(np.array(train), np.array([before, after]), 9)) for after in range(9)]
    assert sum(probabilities) == pytest.approx(1)


def test_a_train_text_without_pairs_leaves_the_single_tokens():
    """One token: p(b|a) = p(b), and the observed one is twice as likely as the others."""
    assert bigram_loss(np.array([1]), np.array([0, 1]), 3) == pytest.approx(-math.log(2 / 4))


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_must_be_positive(strength):
    with pytest.raises(ValueError, match="strength"):
        bigram_loss(np.arange(5), np.arange(5), 5, strength=strength)


def test_a_loss_beyond_all_measure_has_an_infinite_perplexity():
    """A run that went wrong still gets its report."""
    assert Evaluation(total=2000.0, n_tokens=1).perplexity == math.inf
    assert Evaluation(total=699.0, n_tokens=1).perplexity == math.exp(699)
