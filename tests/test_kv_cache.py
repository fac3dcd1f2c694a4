"""The key/value cache: it may change the speed of a model, and nothing else."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal.config import LlamaConfig
from llama_minimal.kv_cache import KVCache, LayeredCache

LENGTH = 12
TOKENS = torch.randint(61, (3, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(make_model):
    return functools.cache(lambda **changes: make_model(**changes).double())  # rounding cannot explain a difference


def make_cache(model, batch_size=3, max_seq_len=LENGTH):
    return KVCache(model.config, batch_size=batch_size, max_seq_len=max_seq_len, dtype=torch.float64)


@torch.no_grad()
def log_probabilities(model, tokens, **cached):
    return model(tokens, **cached).log_softmax(-1)


def feed(model, cache, tokens, start):
    """Feed one chunk whose first token is at position ``start``, a number for all rows or one for each."""
    first = torch.as_tensor(start).expand(len(tokens))
    positions = first[:, None] + torch.arange(tokens.size(1))
    return log_probabilities(model, tokens, cache=cache, positions=positions)


def feed_in_chunks(model, tokens, cuts, cache, *, prompt=True):
    """Feed a sequence cut at these places; the first chunk as a prompt or through positions, as all others."""
    edges = [0, *sorted(cuts), tokens.size(1)]
    parts = []
    for start, end in zip(edges, edges[1:], strict=False):
        chunk = tokens[:, start:end]
        is_prompt = prompt and start == 0
        parts.append(log_probabilities(model, chunk, cache=cache) if is_prompt else feed(model, cache, chunk, start))
    return torch.cat(parts, dim=1)


SPLITS = st.sets(st.integers(1, LENGTH - 1))


@settings(max_examples=8)
@given(cuts=SPLITS, prompt=st.booleans())
def test_any_split_into_chunks_equals_one_full_forward(models, switches, cuts, prompt):
    model = models(**switches)
    chunked = feed_in_chunks(model, TOKENS, cuts, make_cache(model), prompt=prompt)
    torch.testing.assert_close(chunked, log_probabilities(model, TOKENS), rtol=0, atol=1e-10)


def test_a_token_at_a_time_equals_one_full_forward(models, switches):
    model = models(**switches)
    one_by_one = feed_in_chunks(model, TOKENS, range(1, LENGTH), make_cache(model))
    torch.testing.assert_close(one_by_one, log_probabilities(model, TOKENS), rtol=0, atol=1e-10)


@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 8), min_size=3, max_size=3), padding=st.integers(0, 60))
def test_ragged_rows_padded_on_the_right_equal_each_row_alone(models, switches, lengths, padding):
    model, cache = models(**switches), make_cache(models(**switches))
    prompt = TOKENS[:, : max(lengths)].clone()
    for row, length in enumerate(lengths):
        prompt[row, length:] = padding
    parts = [log_probabilities(model, prompt, cache=cache)]
    n_more = LENGTH - max(lengths)
    for i in range(n_more):  # each row goes on where its own prompt ends
        new = torch.stack([TOKENS[row, length + i] for row, length in enumerate(lengths)])
        parts.append(feed(model, cache, new[:, None], torch.tensor(lengths) + i))
    together = torch.cat(parts, dim=1)
    for row, length in enumerate(lengths):
        alone = log_probabilities(model, TOKENS[row : row + 1, : length + n_more])[0]
        mine = torch.cat((together[row, :length], together[row, max(lengths) :]))
        torch.testing.assert_close(mine, alone, rtol=0, atol=1e-10)


@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=3))
def test_select_makes_each_row_what_the_chosen_one_was(models, choices):
    """As in a beam search: a row is followed up to three times, dropped, swapped."""
    model = models(n_kv_heads=2)
    cache = make_cache(model)
    sequences = TOKENS[:, :4]
    log_probabilities(model, sequences, cache=cache)
    for step, rows in enumerate(choices):
        cache.select(torch.tensor(rows) if step % 2 else rows)
        sequences = torch.cat((sequences[rows], TOKENS[:, 4 + step, None]), dim=1)
        last = feed(model, cache, sequences[:, -1:], 4 + step)
        torch.testing.assert_close(last, log_probabilities(model, sequences)[:, -1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("garbage", [1.0, -1e6, 1e30])
def test_what_lies_beyond_a_position_is_invisible(models, garbage):
    """Any finite leftover is hidden; NaN and infinity are not (0 · NaN is NaN), so a cache starts with zeros."""
    model = models(n_kv_heads=2)
    cache = make_cache(model, max_seq_len=LENGTH + 5)
    for buffer in (*cache.keys, *cache.values):
        buffer.fill_(garbage)
    chunked = feed_in_chunks(model, TOKENS, {3, 4, 9}, cache)
    torch.testing.assert_close(chunked, log_probabilities(model, TOKENS), rtol=0, atol=1e-10)


def test_a_new_cache_is_zero_and_has_one_slot_per_position_for_the_kv_heads_alone():
    config = LlamaConfig(dim=32, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=5)
    cache = KVCache(config, batch_size=2, max_seq_len=7, dtype=torch.bfloat16)
    assert len(cache.keys) == len(cache.values) == 3
    for buffer in (*cache.keys, *cache.values):
        assert buffer.shape == (2, 2, 7, 8)
        assert buffer.dtype == torch.bfloat16
        assert not buffer.any()


def test_write_puts_each_row_at_its_own_positions_and_leaves_the_other_layers():
    config = LlamaConfig(dim=4, n_layers=2, n_heads=1, vocab_size=5)
    cache = KVCache(config, batch_size=2, max_seq_len=5)
    k = torch.arange(1.0, 5).view(2, 1, 2, 1).expand(-1, 1, -1, 4)
    keys, values = cache.write(1, k, -k, torch.tensor([[0, 1], [2, 4]]))
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 0, 0, 0], [0, 0, 3, 0, 4]]
    assert torch.equal(values, -keys)
    assert not cache.keys[0].any()


def test_the_mask_shows_each_query_the_slots_up_to_its_own_position():
    config = LlamaConfig(dim=4, n_layers=1, n_heads=1, vocab_size=5)
    mask = KVCache(config, batch_size=2, max_seq_len=4).mask(torch.tensor([[0, 1], [2, 3]]))
    assert mask.exp().int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0]]], [[[1, 1, 1, 0], [1, 1, 1, 1]]]]


def test_a_prompt_longer_than_the_cache_is_refused_and_one_as_long_is_not(make_model):
    model = make_model()
    cache = KVCache(model.config, batch_size=1, max_seq_len=5)
    with torch.no_grad():
        assert model(torch.zeros(1, 5, dtype=torch.long), cache=cache).shape == (1, 5, 61)
        with pytest.raises(ValueError, match="6 tokens do not fit the cache's 5 slots"):
            model(torch.zeros(1, 6, dtype=torch.long), cache=cache)


@pytest.mark.parametrize(("batch_size", "max_seq_len"), [(0, 4), (2, 0), (-1, 4)])
def test_a_cache_has_rows_and_slots(make_model, batch_size, max_seq_len):
    with pytest.raises(ValueError, match="must be at least 1"):
        KVCache(make_model().config, batch_size=batch_size, max_seq_len=max_seq_len)


def test_a_cache_in_several_places_is_a_cache_in_one(models):
    """Layers in any order, in parts of any size; rows reordered in all of them."""
    model = models(n_layers=4, n_kv_heads=2)
    sizes = {"batch_size": 3, "max_seq_len": LENGTH, "dtype": torch.float64}
    parts = [(layers, KVCache(model.config, n_layers=len(layers), **sizes)) for layers in ([3, 1], [0], [2])]
    one, several = make_cache(model), LayeredCache(parts)
    for cache in (one, several):
        log_probabilities(model, TOKENS[:, :5], cache=cache)
        cache.select([2, 0, 0])
    expected, found = (feed(model, cache, TOKENS[:, 5:7], 5) for cache in (one, several))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_part_of_a_model_keeps_its_layers_and_kv_heads_only(models):
    model = models(n_layers=4, n_kv_heads=2)
    for name in ("0", "1", "3"):
        del model.layers[name]
    cache = model.make_cache(batch_size=3, max_seq_len=LENGTH, n_kv_heads=1)
    assert [[tuple(layer.shape) for layer in part.keys] for part in cache.parts] == [
        [(3, 1, LENGTH, model.config.head_dim)]
    ]
    k = torch.randn(3, 1, 2, model.config.head_dim, dtype=torch.float64)
    keys, _ = cache.write(2, k, k)
    torch.testing.assert_close(keys[:, :, :2], k)
