"""The cache in few bits: its error, its bytes, and the text that is written with it."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import llama_minimal.attention
from llama_minimal import reference
from llama_minimal.adaptive_computation import EarlyExit, ExitRule, ModelDraft, PromptLookup
from llama_minimal.beams import beam_search
from llama_minimal.checkpoint import load
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate, stream
from llama_minimal.kv_cache import KVCache, LayeredCache
from llama_minimal.quantization import QuantizedKVCache, quantize
from llama_minimal.settings import Sampling
from tests.tiny_models import draw_model

PROMPTS = [[5, 6, 7, 8, 9], [3], [60, 1, 2]]
KINDS = [{"bits": 8}, {"bits": 4}, {"bits": 4, "group_size": 3}]
numbers = hnp.arrays(np.float32, (2, 2, 3, 8), elements=st.floats(-1e4, 1e4, width=32))


def make(width=8, dtype=torch.float32, n_layers=2, slots=6, **options):
    config = LlamaConfig(dim=2 * width, n_layers=n_layers, n_heads=2, vocab_size=5, max_seq_len=64)
    return QuantizedKVCache(config, batch_size=2, max_seq_len=slots, dtype=dtype, **options)


def tokens(model, prompts=PROMPTS, **options):
    return [row.tokens for row in generate(model, None, prompts, **({"max_new_tokens": 14} | options))]


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(k=numbers)
def test_no_number_is_off_by_more_than_its_step_allows(options, k):
    cache, k = make(**options), torch.from_numpy(k)
    keys, values = cache.write(1, k, -k)
    size = {8: 8, 4: min(options.get("group_size", 32), 8)}[options["bits"]]
    for kept, exact in ((keys, k), (values, -k)):
        for part, right in zip(kept.split(size, -1), exact.split(size, -1), strict=True):
            if options["bits"] == 8:
                step, share = right.abs().amax(-1, keepdim=True) / 127, 0.5
            else:  # the zero point rounds, too
                low, high = right.amin(-1, keepdim=True).clamp(max=0), right.amax(-1, keepdim=True).clamp(min=0)
                step, share = (high - low) / 15, 1
            assert ((part - right).abs() <= share * step * (1 + 2**-6) + 1e-30).all()


def test_eight_bits_are_numpys_up_to_the_format_of_the_step():
    k = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    found, _ = make().write(0, k, k)
    scale = reference.symmetric_grid(k.numpy(), 8)
    kept = torch.from_numpy(scale * np.float32(1 + 2**-8)).bfloat16().float().numpy()
    assert (kept >= scale).all()
    np.testing.assert_array_equal(found, reference.from_codes(reference.to_codes(k.numpy(), kept, bits=8), kept))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_it_is_a_plain_cache_of_rounded_numbers(options):
    """Rows of their own positions, rewritten slots, selected rows: as a plain cache that holds what was rounded."""
    config = LlamaConfig(dim=16, n_layers=2, n_heads=2, vocab_size=5, max_seq_len=64)
    plain, cache = KVCache(config, batch_size=2, max_seq_len=6), make(**options)
    generator = torch.Generator().manual_seed(0)

    def both(positions, n):
        k, v = torch.randn(2, 2, 2, n, 8, generator=generator)
        k, v = k.expand(2, 2, n, 8) + torch.arange(2).view(2, 1, 1, 1), v.expand(2, 2, n, 8)
        found = cache.write(1, k, v, positions)
        rounded = [make(slots=n, **options).write(0, x, x)[0] for x in (k, v)]
        return found, plain.write(1, *rounded, positions)

    for positions, n in ((None, 3), ([[3], [1]], 1), ([[4, 5], [2, 3]], 2), ([[2], [2]], 1)):
        positions = None if positions is None else torch.tensor(positions)
        found, expected = both(positions, n)
        seen = n if positions is None else int(positions.max()) + 1
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape[2] == seen
            torch.testing.assert_close(ours, theirs[:, :, :seen], rtol=0, atol=0)
        cache.select([1, 0])
        plain.select([1, 0])
        torch.testing.assert_close(cache.keys, torch.stack(plain.keys), rtol=0, atol=0)
        torch.testing.assert_close(cache.values, torch.stack(plain.values), rtol=0, atol=0)


def test_bytes():
    config = LlamaConfig(dim=256, n_layers=2, n_heads=4, vocab_size=5, max_seq_len=64)  # heads of 64
    sizes = {"batch_size": 3, "max_seq_len": 64}
    plain = KVCache(config, **sizes).nbytes
    assert plain == 2 * 2 * 3 * 4 * 64 * 64 * 4
    eight, four = (QuantizedKVCache(config, **sizes, bits=bits).nbytes for bits in (8, 4))
    assert eight == plain * (64 + 2) / (64 * 4)
    assert four == plain * (32 + 2 * 3) / (64 * 4)
    assert QuantizedKVCache(config, **sizes, bits=4, group_size=24).nbytes == plain * (3 * 12 + 3 * 3) / (64 * 4)


def rounded(x, bits):
    """Do what the cache does, by hand; the step is kept in bfloat16."""
    x = x.numpy()
    if bits == 8:
        scale, zero = reference.symmetric_grid(x, 8), None
    else:
        scale, _ = reference.zero_point_grid(x, 4)
    scale = torch.from_numpy(scale * (1 + 2**-8)).bfloat16().double().numpy()
    if bits == 4:
        zero = np.rint(-np.minimum(x.min(-1, keepdims=True), 0) / scale)
    return torch.from_numpy(reference.from_codes(reference.to_codes(x, scale, zero, bits=bits), scale, zero))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"position": "sinusoidal", "norm": "layer"}], ids=str)
def test_text_is_that_of_attention_to_rounded_keys_without_a_cache(bits, changes, monkeypatch):
    """Brute force: the whole text anew for each token; the prompt sees exact keys, and what follows rounded ones."""
    model = draw_model(**changes).double()
    found = tokens(model, cache=f"int{bits}")
    exact = llama_minimal.attention.attention

    def attend(q, k, v, mask=None, *, is_causal=False):
        out = exact(q, k, v, is_causal=True)
        later = exact(q, rounded(k, bits), rounded(v, bits), is_causal=True)
        is_prompt = torch.arange(q.size(2)) < n_prompt
        return torch.where(is_prompt[:, None], out, later)

    monkeypatch.setattr(llama_minimal.attention, "attention", attend)
    for prompt, text in zip(PROMPTS, found, strict=True):
        ids, n_prompt = list(prompt), len(prompt)
        for _ in range(14):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert ids[n_prompt:] == text


@pytest.mark.parametrize("cache", ["int8", "int4"])
def test_batches_drafts_streams_and_scheme_write_the_same(cache):
    model = draw_model(n_kv_heads=2).double()
    text = tokens(model, cache=cache)
    assert text == [tokens(model, [prompt], cache=cache)[0] for prompt in PROMPTS]
    for draft in (draw_model(seed=3).double(), ModelDraft(model=model, n=3), PromptLookup(n=4)):
        assert tokens(model, cache=cache, draft=draft) == text
    sampling = Sampling(temperature=1.3)
    assert tokens(model, cache=cache, sampling=sampling, draft=PromptLookup()) == tokens(
        model, cache=cache, sampling=sampling
    )
    rule = EarlyExit(model, ExitRule(threshold=1.0))
    assert tokens(rule, cache=cache) == text
    both = quantize(draw_model(n_kv_heads=2), "int8")
    assert tokens(both, cache=cache) == [tokens(both, [prompt], cache=cache)[0] for prompt in PROMPTS]


@pytest.mark.parametrize("cache", ["int8", "int4"])
def test_beam_search(cache):
    model = draw_model().double()
    (greedy,) = beam_search(model, PROMPTS[0], beam_size=1, max_new_tokens=10, cache=cache)
    assert greedy.tokens == tokens(model, PROMPTS[:1], max_new_tokens=10, cache=cache)[0]
    beams, plain = (beam_search(model, PROMPTS[0], beam_size=4, max_new_tokens=6, cache=kind) for kind in (cache, None))
    assert abs(beams[0].score - plain[0].score) < {"int8": 0.02, "int4": 0.3}[cache]
    # Each beam's score is that of its tokens, read one after the other with a cache of the same kind.
    kept = model.make_cache(batch_size=4, max_seq_len=11, kind=partial(QuantizedKVCache, bits=int(cache[3:])))
    with torch.no_grad():
        logits = model.next_logits(torch.tensor([PROMPTS[0]] * 4), cache=kept)
        total = torch.zeros(4, dtype=torch.float64)
        for t, column in enumerate(torch.tensor([beam.tokens for beam in beams]).T):
            total += logits.log_softmax(-1).gather(1, column[:, None])[:, 0]
            logits = model.next_logits(column[:, None], positions=torch.full((4, 1), 5 + t), cache=kept)
    np.testing.assert_allclose([beam.score * 6 for beam in beams], total, rtol=1e-9)


def test_layers_in_several_places_keep_theirs():
    model = draw_model(n_layers=4).double()
    sizes = {"batch_size": 1, "max_seq_len": 12, "dtype": torch.float64}
    parts = [(layers, QuantizedKVCache(model.config, n_layers=len(layers), **sizes)) for layers in ([3, 1], [0], [2])]
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    outs = []
    with torch.no_grad():
        for cache in (LayeredCache(parts), QuantizedKVCache(model.config, **sizes)):
            model(ids, cache=cache)
            cache.select([0])
            outs.append(model(ids[:, :2], positions=torch.tensor([[5, 6]]), cache=cache))
    torch.testing.assert_close(*outs, rtol=0, atol=0)


def test_the_course_model_writes_what_it_would():
    """Up to the first place where two tokens are nearly as likely: there, rounding may choose."""
    model, tokenizer = load("course", dtype="float32")
    prompts = ["Once upon a time", "One day"]
    plain = generate(model, tokenizer, prompts, max_new_tokens=60)
    for cache, margin in (("int8", 0.1), ("int4", 2.0)):
        for prompt, row, other in zip(
            prompts, plain, generate(model, tokenizer, prompts, max_new_tokens=60, cache=cache), strict=True
        ):
            same = next((i for i, (a, b) in enumerate(zip(row.tokens, other.tokens, strict=False)) if a != b), None)
            if same is not None:
                ids = torch.tensor([tokenizer.encode_prompt(prompt) + row.tokens[:same]])
                with torch.no_grad():
                    logits = model(ids)[0, -1]
                assert (logits[row.tokens[same]] - logits[other.tokens[same]]).item() < margin
    pieces = stream(model, tokenizer, prompts[0], max_new_tokens=20, cache="int8")
    assert "".join(pieces) == generate(model, tokenizer, prompts[:1], max_new_tokens=20, cache="int8")[0].text


def test_what_cannot_be_is_refused_in_words():
    model = draw_model()
    with pytest.raises(ValueError, match="cache='int3'"):
        generate(model, None, PROMPTS, cache="int3")
    with pytest.raises(ValueError, match="cache='fp8'"):
        beam_search(model, PROMPTS[0], cache="fp8")
    with pytest.raises(ValueError, match="bits=3"):
        make(bits=3)
    with pytest.raises(ValueError, match="group_size=8 is for 4 bits"):
        make(bits=8, group_size=8)
    with pytest.raises(ValueError, match="group_size=0"):
        make(bits=4, group_size=0)
    with pytest.raises(ValueError, match="7 tokens do not fit the cache's 6 slots"):
        make().write(0, torch.zeros(2, 2, 7, 8), torch.zeros(2, 2, 7, 8))


def test_compiled_steps_read_it():
    model = draw_model(n_layers=1)
    assert tokens(model, max_new_tokens=6, cache="int8", compile=True) == tokens(model, max_new_tokens=6, cache="int8")
