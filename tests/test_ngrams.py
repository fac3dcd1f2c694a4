"""N-gram models: against the textbook formula with dictionaries, as distributions, on text with structure."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_minimal.ngrams import NGram

V, BOS = 7, 0


def draw_tokens(n, seed=0, vocab_size=V):
    """Few ids, unevenly drawn, so that there are n-grams seen never, once and often."""
    return (vocab_size * np.random.default_rng(seed).random(n) ** 2).astype(np.uint16)


def history_of(tokens, t, order, bos_id):
    """Walk back from the token at t, at most order − 1 steps, and stop after a bos."""
    history = ()
    for token in reversed(tokens[max(0, t - order + 1) : t]):
        history = (token, *history)
        if token == bos_id:
            break
    return history


class Textbook:
    """Interpolated Kneser-Ney smoothing, one n-gram at a time."""

    def __init__(self, tokens, order, vocab_size, bos_id):
        tokens = [int(token) for token in tokens]
        self.order, self.vocab_size, self.n = order, vocab_size, len(tokens)
        occurrences, before = Counter(), defaultdict(set)
        for t, token in enumerate(tokens):
            whole = (*history_of(tokens, t, order, bos_id), token)
            for start in range(len(whole)):
                ngram = whole[start:]
                occurrences[ngram] += 1
                # An occurrence with nothing before it is like one after a token that occurs only there.
                before[ngram].add(whole[start - 1] if start else ("nothing", t))
        self.counts = {g: occurrences[g] if len(g) == order else len(before[g]) for g in occurrences}
        self.followers = defaultdict(dict)
        for ngram, count in self.counts.items():
            self.followers[ngram[:-1]][ngram[-1]] = count

    def discount(self, k):
        counts = [count for ngram, count in self.counts.items() if len(ngram) == k]
        once, twice = counts.count(1), counts.count(2)
        return once / (once + 2 * twice) if once > 0 and twice > 0 else 0.5

    def probability(self, history, token):
        if self.order == 1:
            return (self.counts.get((token,), 0) + 1) / (self.n + self.vocab_size)
        lower = self.probability(history[1:], token) if history else 1 / self.vocab_size
        followers = self.followers.get(history)
        if not followers:
            return lower
        total, discount = sum(followers.values()), self.discount(len(history) + 1)
        kept = max(followers.get(token, 0) - discount, 0) / total
        return kept + discount * len(followers) / total * lower


@pytest.mark.parametrize("bos_id", [None, BOS])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 12, 400])
def test_probabilities_are_the_textbooks(order, bos_id, n):
    train, text = draw_tokens(n), draw_tokens(150, seed=1)
    model = NGram.train(train, order=order, vocab_size=V, bos_id=bos_id)
    textbook = Textbook(train, order, V, bos_id)
    text_ids = text.tolist()
    expected = [
        math.log(textbook.probability(history_of(text_ids, t, order, bos_id), text_ids[t])) for t in range(1, 150)
    ]
    np.testing.assert_allclose(model.log_probs(text), expected, rtol=1e-10)


def test_continuations_count_and_not_occurrences():
    """2 is frequent but follows only 1; 3 follows anything. After 4, which was never followed, 3 is the guess."""
    train = [0, 1, 2, 1, 2, 1, 2, 1, 2, 0, 3, 1, 3, 2, 3, 5, 3, 4]
    after_4 = NGram.train(train, order=2, vocab_size=6).next_probs([4])
    assert after_4[3] > after_4[2]
    frequency = NGram.train(train, order=1, vocab_size=6).next_probs([4])
    np.testing.assert_allclose(frequency, (np.bincount(train) + 1) / (len(train) + 6))


@given(seed=st.integers(0, 1000), order=st.integers(1, 5), history=st.lists(st.integers(0, V - 1), max_size=9))
def test_probabilities_after_any_history_sum_to_one(seed, order, history):
    model = NGram.train(draw_tokens(60, seed), order=order, vocab_size=V, bos_id=BOS)
    probability = model.next_probs(history)
    assert probability.shape == (V,)
    assert (probability > 0).all()
    assert probability.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bos_id", [None, BOS])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_next_probs_are_the_probabilities_of_log_probs(order, bos_id):
    model = NGram.train(draw_tokens(400), order=order, vocab_size=V, bos_id=bos_id)
    text = draw_tokens(60, seed=1)
    expected = [model.next_probs(text[:t])[text[t]] for t in range(1, len(text))]
    np.testing.assert_allclose(np.exp(model.log_probs(text)), expected, rtol=1e-12)


def test_a_history_ends_at_the_bos_of_its_document():
    model = NGram.train(draw_tokens(400), order=5, vocab_size=V, bos_id=BOS)
    np.testing.assert_array_equal(model.next_probs([1, 2, BOS, 3]), model.next_probs([2, 1, 5, BOS, 3]))
    assert not np.array_equal(model.next_probs([BOS, 3]), model.next_probs([3]))
    blind = NGram.train(draw_tokens(400), order=5, vocab_size=V)
    assert not np.array_equal(blind.next_probs([1, 2, BOS, 3]), blind.next_probs([2, 1, 5, BOS, 3]))


def test_longer_ngrams_predict_structured_text_better():
    """Each token follows from the four before it, but for some noise."""
    rng = np.random.default_rng(0)
    table, tokens = rng.integers(4, size=(4, 4, 4, 4)), [0, 1, 2, 3]
    for noise in rng.random(40_000):
        tokens.append(int(table[tuple(tokens[-4:])]) if noise < 0.8 else int(rng.integers(4)))
    perplexity = [
        math.exp(-NGram.train(tokens[:30_000], order=order, vocab_size=4).log_probs(tokens[30_000:]).mean())
        for order in range(1, 6)
    ]
    assert perplexity == sorted(perplexity, reverse=True)
    entropy = -(0.85 * math.log(0.85) + 3 * 0.05 * math.log(0.05))  # of the rule that wrote the text
    assert math.exp(entropy) < perplexity[4] < 1.05 * math.exp(entropy)
    assert perplexity[0] > 1.5 * perplexity[4]


def test_samples_are_distributed_as_next_probs_says():
    model = NGram.train(draw_tokens(400), order=3, vocab_size=V, bos_id=BOS)
    rng, history, n = np.random.default_rng(0), [3, 1], 4000
    drawn = np.bincount([model.sample(history, 1, rng=rng)[0] for _ in range(n)], minlength=V) / n
    np.testing.assert_allclose(drawn, model.next_probs(history), atol=4 * 0.5 / n**0.5)
    squared = model.next_probs(history) ** 2
    cold = [model.sample(history, 1, rng=rng, temperature=0.5)[0] for _ in range(n)]
    np.testing.assert_allclose(np.bincount(cold, minlength=V) / n, squared / squared.sum(), atol=4 * 0.5 / n**0.5)


def test_samples_continue_their_own_text_and_stop():
    cycle = [0, 1, 2, 3, 4, 5, 6] * 50
    model = NGram.train(cycle, order=3, vocab_size=V)
    rng = np.random.default_rng(0)
    assert model.sample([2, 3], 9, rng=rng, temperature=0) == [4, 5, 6, 0, 1, 2, 3, 4, 5]
    assert model.sample([2, 3], 9, rng=rng, temperature=0, stop_id=6) == [4, 5]
    assert model.sample([], 0, rng=rng) == []
    assert len(model.sample([], 20, rng=rng)) == 20
    again = [model.sample([1], 20, rng=np.random.default_rng(1), temperature=3.0) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("order", "vocab_size"), [(7, 512), (63, 2), (5, 4096)], ids=["63 bits", "one bit each", "60 bits"]
)
def test_keys_may_use_all_their_bits(order, vocab_size):
    """The highest id everywhere is the largest key."""
    train = np.append(np.full(200, vocab_size - 1), draw_tokens(200, vocab_size=vocab_size))
    model = NGram.train(train, order=order, vocab_size=vocab_size)
    textbook = Textbook(train, order, vocab_size, None)
    history = (vocab_size - 1,) * (order - 1)
    expected = [textbook.probability(history, token) for token in (vocab_size - 1, 0, 1)]
    np.testing.assert_allclose(model.next_probs(history)[[-1, 0, 1]], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": []}, "non-empty"),
        ({"tokens": [[1, 2]]}, "shape"),
        ({"tokens": [0.5, 1.5]}, "integer"),
        ({"tokens": [1, V]}, "below vocab_size=7"),
        ({"tokens": [-1, 2]}, "at least 0"),
        ({"order": 0}, "order=0"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"bos_id": V}, "bos_id=7"),
        ({"order": 6, "vocab_size": 2048}, "use order=5 or less"),
    ],
)
def test_bad_input_is_explained(changes, message):
    arguments = {"tokens": [1, 2, 3], "order": 2, "vocab_size": V} | changes
    with pytest.raises(ValueError, match=message):
        NGram.train(np.array(arguments.pop("tokens")), **arguments)


def test_bad_questions_are_explained():
    model = NGram.train([1, 2, 3], order=2, vocab_size=V)
    with pytest.raises(ValueError, match="below vocab_size"):
        model.log_probs([1, V])
    with pytest.raises(ValueError, match="history ends with"):
        model.next_probs([V])
    with pytest.raises(ValueError, match="temperature=-1"):
        model.sample([1], 1, rng=np.random.default_rng(0), temperature=-1)
