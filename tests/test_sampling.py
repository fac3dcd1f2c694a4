"""Sampling: which tokens each filter allows, by plain Python and by transformers, and what the draw picks."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

from llama_minimal.sampling import choose, filter_logits, min_p_filter, penalize_repetition, top_k_filter, top_p_filter
from llama_minimal.settings import GREEDY, Sampling

ROWS = st.lists(st.floats(-15, 15, width=32), min_size=1, max_size=12)
NEVER = -math.inf


def allowed(filtered):
    return {token for token, logit in enumerate(filtered[0].tolist()) if logit > NEVER}


def probabilities(row):
    weights = [math.exp(logit) for logit in row]
    return [weight / math.fsum(weights) for weight in weights]


@given(ROWS, st.integers(1, 14))
def test_top_k_allows_the_tokens_that_fewer_than_k_others_beat(row, k):
    filtered = top_k_filter(torch.tensor([row]), k)
    assert allowed(filtered) == {i for i, logit in enumerate(row) if sum(other > logit for other in row) < k}


@given(ROWS, st.floats(0.01, 0.99))
def test_top_p_allows_the_smallest_set_that_has_probability_p(row, p):
    likely_first = sorted(range(len(row)), key=lambda i: -row[i])
    together = list(itertools.accumulate(probabilities(row)[i] for i in likely_first))
    assume(all(abs(total - p) > 1e-5 for total in together))  # at the border rounding decides
    n = next(n for n, total in enumerate(together, start=1) if total >= p)
    assert allowed(top_p_filter(torch.tensor([row]), p)) == set(likely_first[:n])


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_top_p_at_an_exact_sum_needs_no_further_token(size):
    """Equal logits have probabilities that are exact in binary, and so are their sums."""
    logits = torch.zeros(1, size)
    for n in range(1, size + 1):
        assert allowed(top_p_filter(logits, n / size)) == set(range(n))
        if n < size:
            assert allowed(top_p_filter(logits, n / size + 2**-20)) == set(range(n + 1))


def test_top_p_reaches_every_sum_of_probabilities_to_the_last_digit():
    """A running sum minus the token's own part is rounded twice, and misses sums that are there."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = 3 * torch.randn(1, 50, generator=generator)
        ordered, order = logits.sort(descending=True)
        probability = ordered.softmax(-1)[0].tolist()
        for n in (1, 2, 5, 20):
            together = torch.tensor(math.fsum(probability[:n])).item()  # rounded to float32
            assert allowed(top_p_filter(logits, together)) == set(order[0, :n].tolist())


@pytest.mark.parametrize("p", [1e-30, 1e-45, 5e-324])
def test_the_smallest_top_p_and_min_p_leave_tokens(p):
    row = torch.tensor([[0.5, 2.0, 1.0]])
    assert allowed(top_p_filter(row, p)) == {1}
    assert allowed(min_p_filter(row, p)) == {0, 1, 2}


@given(ROWS)
def test_min_p_of_one_allows_the_most_likely_alone(row):
    assert allowed(min_p_filter(torch.tensor([row]), 1.0)) == {i for i, x in enumerate(row) if x == max(row)}


@given(
    ROWS.filter(lambda row: sum(x > max(row) - 1e-3 for x in row) == 1),
    st.sampled_from([1e-5, 1e-12, 1e-30, 1.2e-38, 1e-38, 1e-40, 1e-45, 5e-324]),
    st.sampled_from([{}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}, {"top_k": 99, "top_p": 1.0, "min_p": 1.0}]),
    st.floats(0, 1, exclude_max=True),
)
def test_the_smallest_temperature_takes_the_most_likely_token(row, temperature, more, uniform):
    logits = filter_logits(torch.tensor([row, row]), Sampling(temperature=temperature, **more))
    assert not logits.isnan().any()
    assert choose(logits, torch.full((2,), uniform, dtype=torch.float64)).tolist() == [row.index(max(row))] * 2


@pytest.mark.parametrize("temperature", [1e-4, 1e-10, 1e-38])
def test_the_largest_logits_do_not_overflow_at_a_small_temperature(temperature):
    for row, best in (([3e38, 1e38, -3e38], 0), ([-3e38, -2e38, -1e38], 2), ([1e36, 2e36, 1e36], 1)):
        logits = filter_logits(torch.tensor([row]), Sampling(temperature=temperature))
        assert choose(logits, torch.tensor([0.999], dtype=torch.float64)).item() == best


@pytest.mark.parametrize("temperature", [0.3, 1e-3, 9e-4, 1e-6])
def test_a_temperature_divides_the_differences_of_logits_whatever_its_size(temperature):
    logits = temperature * torch.tensor([[3.0, NEVER, 1.0, 0.0, 2.5]])
    probability = filter_logits(logits, Sampling(temperature=temperature)).softmax(-1)
    expected = torch.tensor(probabilities([3.0, NEVER, 1.0, 0.0, 2.5]))
    torch.testing.assert_close(probability[0], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.0, 1e-38, 0.8])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("bad", [[math.nan, 0.0, 1.0], [math.inf, 0.0, 1.0], [NEVER] * 3], ids=str)
def test_logits_that_mean_nothing_are_refused_in_words(temperature, more, bad):
    """Otherwise the first token, or the index of no token at all, would be drawn in silence."""
    sampling = Sampling(temperature=temperature, **more)
    for rows in ([bad], [[0.0, 1.0, 2.0], bad]):
        uniform = torch.full((len(rows),), 0.5, dtype=torch.float64) if temperature else None
        with pytest.raises(ValueError, match="NaN or infinity"):
            choose(filter_logits(torch.tensor(rows), sampling), uniform)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=70), st.sampled_from(["float32", "float64", "bfloat16"]))
def test_greedy_takes_the_first_of_the_most_likely_tokens(row, dtype):
    for logits in (torch.tensor([row, row[::-1]]), torch.tensor([[x, x] for x in row]).t()):  # in one piece, and not
        best = choose(logits.to(getattr(torch, dtype)).requires_grad_())
        assert best.dtype == torch.long
        assert best.tolist() == [one.index(max(one)) for one in logits.tolist()]


@given(ROWS)
def test_top_p_of_one_forbids_only_what_never_happens_anyway(row):
    kept = allowed(top_p_filter(torch.tensor([row]), 1.0))
    assert sum(probability for i, probability in enumerate(probabilities(row)) if i not in kept) < 1e-6


@given(ROWS, st.floats(0.01, 1))
def test_min_p_allows_the_tokens_with_p_times_the_top_probability(row, p):
    ratios = [math.exp(logit - max(row)) for logit in row]
    assume(all(abs(ratio - p) > 1e-5 for ratio in ratios if ratio < 1))
    assert allowed(min_p_filter(torch.tensor([row]), p)) == {i for i, ratio in enumerate(ratios) if ratio >= p}


@given(ROWS, st.floats(0.5, 3), st.data())
def test_the_repetition_penalty_is_that_of_transformers(row, penalty, data):
    ids = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=20))
    seen = torch.zeros(1, len(row), dtype=torch.bool).index_fill_(1, torch.tensor(ids), True)
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), torch.tensor([row]))
    torch.testing.assert_close(penalize_repetition(torch.tensor([row]), seen, penalty), expected)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.7},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 0.5, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.2},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.7, "min_p": 0.05, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_together_the_filters_are_those_of_transformers_in_the_same_order(values):
    generator = torch.Generator().manual_seed(0)
    logits, ids = 3 * torch.randn(50, 20, generator=generator), torch.randint(20, (50, 6), generator=generator)
    processors = {
        "repetition_penalty": theirs.RepetitionPenaltyLogitsProcessor,
        "temperature": theirs.TemperatureLogitsWarper,
        "top_k": theirs.TopKLogitsWarper,
        "top_p": theirs.TopPLogitsWarper,
        "min_p": theirs.MinPLogitsWarper,
    }
    chain = LogitsProcessorList(make(values[name]) for name, make in processors.items() if name in values)
    seen = torch.zeros(50, 20, dtype=torch.bool).scatter_(1, ids, True)
    torch.testing.assert_close(filter_logits(logits, Sampling(**values), seen), chain(ids, logits.clone()))


def test_each_row_is_filtered_by_itself_and_the_logits_are_left_as_they_were():
    logits = 3 * torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    sampling = Sampling(temperature=0.8, top_k=8, top_p=0.9, min_p=0.01)
    alone = torch.cat([filter_logits(row[None], sampling) for row in logits])
    assert torch.equal(filter_logits(logits, sampling), alone)
    assert torch.equal(logits, before)


@given(ROWS)
def test_temperature_zero_takes_the_most_likely_token(row):
    token = choose(filter_logits(torch.tensor([row]), GREEDY))
    assert row[token.item()] == max(row)


def test_half_precision_logits_are_filtered_in_float32():
    assert filter_logits(torch.zeros(1, 3, dtype=torch.float16), Sampling(temperature=0.7)).dtype == torch.float32


def test_tokens_come_up_as_often_as_they_are_probable():
    """A chi-square test with 6 degrees of freedom; by chance it would fail once in a thousand seeds."""
    row, n = [1.0, -0.5, NEVER, 0.3, 2.0, -2.0, 0.0, NEVER, 1.5], 20_000
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = choose(torch.tensor([row]).expand(n, -1), uniform).bincount(minlength=len(row)).tolist()
    expected = [n * probability for probability in probabilities(row)]
    assert counts[2] == counts[7] == 0
    assert sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e) < 22.46


BELOW_ONE = math.nextafter(1, 0)


@given(
    st.lists(st.floats(-30, 30, width=32) | st.just(NEVER), min_size=1, max_size=12),
    st.floats(0, BELOW_ONE) | st.sampled_from([0.0, 1e-300, 0.5, BELOW_ONE]),
)
def test_a_number_picks_the_token_in_whose_piece_of_the_interval_it_lies(row, uniform):
    assume(max(row) > NEVER)
    token = choose(torch.tensor([row]), torch.tensor([uniform], dtype=torch.float64)).item()
    assert row[token] > NEVER
    before = math.fsum(probabilities(row)[:token])
    assert before - 1e-12 <= uniform <= before + probabilities(row)[token] + 1e-12


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (BELOW_ONE, 3)])
def test_the_ends_of_the_interval_belong_to_the_first_and_the_last_possible_token(uniform, token):
    logits = torch.tensor([[NEVER, 0.0, 1.0, -5.0, NEVER]])
    assert choose(logits, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_the_ends_hold_for_a_large_vocabulary():
    """128,256 probabilities do not add up to exactly one."""
    logits = torch.randn(4, 128_256, generator=torch.Generator().manual_seed(0))
    for uniform in (0.0, 1 - 2**-24, BELOW_ONE):  # 1 − 2⁻²⁴ is the largest float32 below one
        assert choose(logits, torch.full((4,), uniform, dtype=torch.float64)).max() < 128_256


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": math.nan}, "top_p=nan"),
        ({"min_p": 0.0}, "min_p=0.0"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan"),
    ],
)
def test_a_bad_choice_is_refused_by_name(values, says):
    with pytest.raises(ValueError, match=says):
        Sampling(**values)
