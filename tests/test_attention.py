"""Attention: against sums written out, torch.nn.MultiheadAttention, and itself with a cache."""

import math
from operator import mul

import pytest
import torch
from torch import nn

from llama_minimal.attention import Attention, attention, causal_mask
from llama_minimal.config import LlamaConfig
from llama_minimal.kv_cache import KVCache
from llama_minimal.positions import rope_table

B, T, H, DH = 2, 5, 4, 6
KV_HEADS = [4, 2, 1]
CONFIG = LlamaConfig(dim=H * DH, n_layers=1, n_heads=H, vocab_size=3, hidden_dim=8, max_seq_len=16, bias=True)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def queries_keys_values(n_kv_heads, n_keys=T):
    return draw(B, H, T, DH), draw(B, n_kv_heads, n_keys, DH, seed=1), draw(B, n_kv_heads, n_keys, DH, seed=2)


def written_out(q, k, v, may_look):
    """Attention as sums of Python numbers: head h reads the keys of kv head h·K // H."""
    out = torch.empty_like(q)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            keys, values = (heads[b, h * heads.size(1) // q.size(1)].tolist() for heads in (k, v))
            for t, query in enumerate(q[b, h].tolist()):
                seen = [s for s in range(len(keys)) if may_look[t][s]]
                weights = [math.exp(sum(map(mul, query, keys[s])) / math.sqrt(DH)) for s in seen]
                for d in range(len(query)):
                    out[b, h, t, d] = sum(w * values[s][d] for w, s in zip(weights, seen, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_attention_is_the_softmax_of_scaled_dot_products(n_kv_heads):
    q, k, v = queries_keys_values(n_kv_heads)
    everything = [[True] * T] * T
    past = [[s <= t for s in range(T)] for t in range(T)]
    torch.testing.assert_close(attention(q, k, v), written_out(q, k, v, everything))
    torch.testing.assert_close(attention(q, k, v, is_causal=True), written_out(q, k, v, past))
    torch.testing.assert_close(attention(q, k, v, causal_mask(T, T)), written_out(q, k, v, past))


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_the_last_queries_see_every_key_up_to_their_own(n_kv_heads):
    """A mask aligned top left would show the first of 5 queries one key of 8, not 4."""
    q, k, v = queries_keys_values(n_kv_heads, n_keys=8)
    past = [[s <= t + 3 for s in range(8)] for t in range(T)]
    torch.testing.assert_close(attention(q, k, v, causal_mask(T, 8)), written_out(q, k, v, past))


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (1, 5), (3, 5), (5, 5)])
def test_the_causal_mask_is_aligned_bottom_right(n_queries, n_keys):
    first = n_keys - n_queries  # position of the first query
    assert causal_mask(n_queries, n_keys).tolist() == [
        [key <= first + query for key in range(n_keys)] for query in range(n_queries)
    ]


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_shared_keys_are_repeated_keys(n_kv_heads):
    q, k, v = queries_keys_values(n_kv_heads)
    repeated = (heads.repeat_interleave(H // n_kv_heads, dim=1) for heads in (k, v))
    torch.testing.assert_close(attention(q, k, v, is_causal=True), attention(q, *repeated, is_causal=True))


@pytest.mark.parametrize("shape", [(1, 7), (H, 1, 7), (B, 1, 1, 7), (1, H, 1, 7), (B, H, 1, 7)], ids=str)
@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_one_query_takes_any_mask_that_broadcasts_boolean_or_added(n_kv_heads, shape):
    """A step of decoding has a way of its own through grouped heads."""
    q, k, v = draw(B, H, 1, DH), draw(B, n_kv_heads, 7, DH, seed=1), draw(B, n_kv_heads, 7, DH, seed=2)
    mask = draw(*shape, seed=3) > 0
    mask[..., 2] = True  # something to see in every row
    one_head = torch.cat(
        [
            written_out(q[b : b + 1, h : h + 1], *(x[b : b + 1, [h * n_kv_heads // H]] for x in (k, v)), may_look)
            for b, heads in enumerate(mask.expand(B, H, 1, 7).tolist())
            for h, may_look in enumerate(heads)
        ]
    ).view(B, H, 1, DH)
    torch.testing.assert_close(attention(q, k, v, mask), one_head)
    added = torch.zeros(shape, dtype=torch.float64).masked_fill(~mask, -math.inf)
    torch.testing.assert_close(attention(q, k, v, added), one_head)
    torch.testing.assert_close(attention(q, k, v), written_out(q, k, v, [[True] * 7]))


def make(n_kv_heads=H, seed=0):
    torch.manual_seed(seed)
    module = Attention(CONFIG.replace(n_kv_heads=n_kv_heads)).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_the_module_is_torchs_multihead_attention_with_the_kv_rows_repeated(n_kv_heads):
    module, theirs = make(n_kv_heads), nn.MultiheadAttention(H * DH, H, batch_first=True, dtype=torch.float64)
    state = {}
    for kind in ("weight", "bias"):
        rows = [getattr(getattr(module, name), kind).unflatten(0, (-1, DH)) for name in ("wq", "wk", "wv")]
        rows[1:] = [part.repeat_interleave(H // n_kv_heads, dim=0) for part in rows[1:]]
        state[f"in_proj_{kind}"] = torch.cat(rows).flatten(0, 1)
        state[f"out_proj.{kind}"] = getattr(module.wo, kind)
    theirs.load_state_dict(state)
    x = draw(B, T, H * DH)
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(T, T), need_weights=False)  # True hides, there
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_no_token_sees_a_later_one_and_every_token_sees_all_before(n_kv_heads):
    module, x = make(n_kv_heads), draw(1, T, H * DH).requires_grad_()
    rope = tuple(table[:, None] for table in rope_table(DH, T, dtype=torch.float64))
    out = module(x, rope)
    for t in range(T):
        (gradient,) = torch.autograd.grad(out[0, t].sum(), x, retain_graph=True)
        assert (gradient[0].abs().amax(-1) > 0).tolist() == [s <= t for s in range(T)]


@pytest.mark.parametrize("n_kv_heads", KV_HEADS)
def test_attention_with_a_cache_is_attention_without(n_kv_heads):
    module, x = make(n_kv_heads), draw(B, T, H * DH)
    cos, sin = (table[:, None] for table in rope_table(DH, T, dtype=torch.float64))
    config = CONFIG.replace(n_kv_heads=n_kv_heads)
    cache = KVCache(config, batch_size=B, max_seq_len=9, dtype=torch.float64)
    prompt = module(x[:, :3], (cos[:3], sin[:3]), cache=cache)
    positions = torch.arange(3, T).expand(B, -1)
    mask = cache.mask(positions)
    rest = module(x[:, 3:], (cos[3:], sin[3:]), cache=cache, positions=positions, mask=mask)
    torch.testing.assert_close(torch.cat((prompt, rest), 1), module(x, (cos, sin)))
