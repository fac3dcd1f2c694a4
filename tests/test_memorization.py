"""Copied spans and novel n-grams: against brute force, with planted copies, across the chunks of the stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal import memorization
from llama_minimal.memorization import copied_spans, longest_copied_span, match_lengths, novel_ngram_share

ids = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 5])  # more than the samples' ids, so that the stream has strangers
samples_of_ids = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=4)


def runs(tokens, n):
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def match_length(sample, start, training):
    longest = 0
    for n in range(1, len(sample) - start + 1):
        if tuple(sample[start : start + n]) in runs(training, n):
            longest = n
    return longest


@given(samples=samples_of_ids, training=st.lists(ids, min_size=1, max_size=40), chunk=st.integers(1, 50))
def test_lengths_and_spans_are_those_of_brute_force(samples, training, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "CHUNK", chunk)  # matches that go on into the next chunk are whole
        found, spans = match_lengths(samples, training), copied_spans(samples, training)
    expected = [[match_length(sample, start, training) for start in range(len(sample))] for sample in samples]
    assert [row.tolist() for row in found] == expected
    assert spans.tolist() == [max(row, default=0) for row in expected]


@given(samples=samples_of_ids, training=st.lists(ids, min_size=1, max_size=40), n=st.integers(1, 5))
def test_the_novel_share_is_that_of_brute_force(samples, training, n):
    known = set(runs(training, n))
    novel = [run not in known for sample in samples for run in runs(sample, n)]
    if novel:
        assert novel_ngram_share(samples, training, n) == pytest.approx(sum(novel) / len(novel))
    else:
        with pytest.raises(ValueError, match=f"no sample has n={n} tokens"):
            novel_ngram_share(samples, training, n)


def test_planted_copies_are_found_in_a_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 1000)
    rng = np.random.default_rng(0)
    rng.integers(30_000, size=20_000).astype(np.uint16).tofile(tmp_path / "tokens")
    training = np.memmap(tmp_path / "tokens", dtype=np.uint16, mode="r")
    samples, planted = [], [1, 17, 40, 60, 100]
    for span, start in zip(planted, [0, 990, 5000, 20_000 - 60, 1950], strict=True):
        sample = rng.integers(30_000, 60_000, size=100)  # ids that the stream does not have
        place = rng.integers(100 - span + 1)
        sample[place : place + span] = training[start : start + span]
        samples.append(sample)
    assert copied_spans(samples, training).tolist() == planted
    assert [longest_copied_span(sample, training) for sample in samples] == planted
    assert novel_ngram_share(samples, training, 8) == 1 - sum(max(0, span - 7) for span in planted) / (5 * 93)


def test_large_ids_are_not_mistaken_for_others():
    """Runs become integers, number · size + token: a token of that size or more must not look like another run."""
    samples = [[0, 1], [1, 0]]
    for stranger in (2, 3, 4, 5, 6, 2**16 - 1, 2**31 - 1):
        assert copied_spans(samples, np.array([0, stranger, 1])).tolist() == [1, 1]
        assert copied_spans(samples, np.array([1, stranger, 0])).tolist() == [1, 1]
        assert copied_spans(samples, np.array([stranger] * 3)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.uint64])
def test_the_highest_id_of_a_type_counts_like_any_other(dtype):
    highest = min(np.iinfo(dtype).max, 2**31 - 1)
    training = np.array([7, highest, 7], dtype)
    samples = [np.array(row, dtype) for row in ([highest, 7], [highest, highest], [7, 7])]
    assert copied_spans(samples, training).tolist() == [2, 1, 1]
    assert longest_copied_span([2**31 - 2, highest, 7], training) == 2


def test_samples_may_be_of_any_length():
    training = np.arange(50, dtype=np.uint16)
    assert copied_spans([], training).shape == (0,)
    assert copied_spans([[], [3], list(range(60)), [49, 0]], training).tolist() == [0, 1, 50, 1]
    assert longest_copied_span(np.arange(10, 20), training) == 10
    assert novel_ngram_share([[1], [1, 2, 3], [3, 2, 1]], training, n=3) == 0.5


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match="n=0"):
        novel_ngram_share([[1]], [1], 0)
    with pytest.raises(ValueError, match="training_tokens is"):
        copied_spans([[1]], [])
    with pytest.raises(ValueError, match="a sample is"):
        copied_spans([[0.5]], [1])
    with pytest.raises(ValueError, match="a sample is"):
        copied_spans([1, 2], [1])
    with pytest.raises(ValueError, match="ids are 0 or more"):
        copied_spans([[-1]], [1])
    with pytest.raises(ValueError, match="ids are 0 or more"):
        copied_spans([[1]], [-1])
    with pytest.raises(ValueError, match="no sample has"):
        novel_ngram_share([], [1], 1)
