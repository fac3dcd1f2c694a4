"""Texts longer than the context: windows with sinks, stretched positions, sliding perplexity, memories, old turns."""

import functools
import importlib
import itertools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_minimal import reference
from llama_minimal.adaptive_computation import EarlyExit, ExitRule, PromptLookup
from llama_minimal.attention import attention
from llama_minimal.beams import beam_search
from llama_minimal.chat import Conversation, chat_template, set_chat_template
from llama_minimal.checkpoint import load, save
from llama_minimal.checkpoint.huggingface_config import config_from_huggingface, config_to_huggingface
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.data import sequential_batches
from llama_minimal.evaluation import n_windows, sliding_batches, sum_loss
from llama_minimal.generation import decode, generate, stream
from llama_minimal.kv_cache import LayeredCache
from llama_minimal.long_context import (
    KeyValueMemory,
    RememberingKVCache,
    TokenMemory,
    Window,
    WindowedKVCache,
    WithMemory,
    cache_maker,
    gate_memory,
    nearest,
    neighbor_distribution,
    read_long,
    remember,
    streamed_losses,
)
from llama_minimal.positions import rope_table
from llama_minimal.retrieval import Index
from llama_minimal.settings import Sampling
from llama_minimal.tokenizer import Tokenizer
from tests.tiny_models import SIZES, draw_model, make_lively

PROMPTS = [[5, 6, 7, 8, 9], [3], [60, 1, 2]]
LONG = torch.randint(61, (3, 50), generator=torch.Generator().manual_seed(1))  # more than the context of 32
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMES = ("<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
MOVABLE = [
    {},
    {"n_kv_heads": 2},
    {"norm_placement": "post", "norm": "layer", "bias": True},
    {"position": "none"},
    {"head_dim": 12, "n_kv_heads": 1},
    {"rope_scaling": RopeScaling(kind="linear", factor=3.0)},
    {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=10)},
    {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=8, beta_fast=4.0)},
]


def name_of(changes):
    scaling = changes.get("rope_scaling")
    return scaling.kind if scaling else str(changes)


@functools.cache
def double(**changes):
    return draw_model(**changes).double()  # rounding cannot explain a difference


def model_of(changes):
    return draw_model(**changes).double()


def make(model, *, n=3, length=10**9, **window):
    return model.make_cache(batch_size=n, max_seq_len=length, kind=cache_maker(Window(**window)))


@torch.no_grad()
def one_by_one(model, cache, tokens):
    """Return the logits of what follows each token, (B, T, V), when they are fed one after another."""
    parts = [
        model(tokens[:, t : t + 1], positions=torch.full((len(tokens), 1), t), cache=cache)
        for t in range(tokens.size(1))
    ]
    return torch.cat(parts, 1)


@contextmanager
def numpy_windows(monkeypatch, config, **window):
    """Let the reference's whole model look through windows."""
    cos, sin = reference.rope_table(
        config.head_dim, window["size"], config.rope_theta, config.rope_scaling, context=config.max_seq_len
    )
    if config.position == "none":
        cos, sin = np.ones_like(cos), np.zeros_like(sin)
    with monkeypatch.context() as patch:
        block = importlib.import_module("llama_minimal.reference.block")  # of which a function has the name
        look = reference.recalling_attention if "n" in window else reference.window_attention
        patch.setattr(block, "apply_rope", lambda x, cos, sin: x)
        patch.setattr(block, "attention", lambda q, k, v, _: look(q, k, v, cos, sin, **window))
        yield


def tokens_of(model, prompts=PROMPTS, **options):
    return [row.tokens for row in generate(model, None, prompts, **({"max_new_tokens": 20} | options))]


# Windows: what they compute


@pytest.mark.parametrize(
    "window", [{"size": 9, "n_sinks": 2}, {"size": 5, "n_sinks": 4}, {"size": 7, "n_sinks": 0}], ids=str
)
@pytest.mark.parametrize("changes", MOVABLE, ids=name_of)
def test_a_text_longer_than_the_context_is_numpys_token_by_token(changes, window, monkeypatch):
    """The twin sees the whole text at once and says of each token what it may look at, and from where."""
    model = model_of(changes)
    params = {name: value.numpy() for name, value in model.state_dict().items()}
    with numpy_windows(monkeypatch, model.config, **window):
        expected = reference.llama(params, LONG.numpy(), model.config)
    np.testing.assert_allclose(one_by_one(model, make(model, **window), LONG), expected, rtol=0, atol=1e-9)
    assert not np.allclose(expected, reference.llama(params, LONG.numpy(), model.config.replace(max_seq_len=64)))


@settings(max_examples=20)
@given(n_sinks=st.integers(0, 5), others=st.integers(1, 9), length=st.integers(1, 50))
def test_with_one_layer_a_token_sees_what_a_plain_model_sees_of_the_kept_tokens_alone(n_sinks, others, length):
    """One layer's keys and values depend on their own token only, so the window is a text without its middle."""
    model, size = double(n_layers=1, n_kv_heads=2), n_sinks + others
    found = one_by_one(model, make(model, size=size, n_sinks=n_sinks), LONG[:, :length])[:, -1]
    kept = sorted({*range(min(n_sinks, length)), *range(max(0, length - others), length)})
    kept = list(range(length)) if length <= size else kept
    with torch.no_grad():
        torch.testing.assert_close(found, model(LONG[:, kept])[:, -1], rtol=0, atol=1e-9)
    assert kept == reference.positions_kept(length - 1, size=size, n_sinks=n_sinks)
    assert kept == make(model, size=size, n_sinks=n_sinks).positions_kept(length - 1)


@pytest.mark.parametrize("changes", MOVABLE, ids=name_of)
def test_while_the_text_fits_the_logits_are_those_of_a_full_cache(changes):
    model, tokens = model_of(changes), LONG[:, :20]
    cache = make(model, size=20, n_sinks=4)
    positions = torch.arange(6, 9).expand(3, -1)
    with torch.no_grad():
        parts = [model(tokens[:, :6], cache=cache), model(tokens[:, 6:9], positions=positions, cache=cache)]
        for t in range(9, 20):
            parts.append(model(tokens[:, t : t + 1], positions=torch.full((3, 1), t), cache=cache))
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-9)


def test_a_key_is_turned_anew_and_that_matters():
    """Without this, a cache that kept turned keys and never slid them would pass on texts that fit."""
    model = double()
    cache = make(model, n=1, size=6, n_sinks=2)
    one_by_one(model, cache, LONG[:1, :8])
    places = cache._places_of_slots(torch.tensor([[7]]))
    assert places.tolist() == [[0, 1, 4, 5, 2, 3]]  # slots 2 and 3 were taken by tokens 6 and 7
    assert cache.places(torch.tensor([[3], [5], [7], [10**9]])).flatten().tolist() == [3, 5, 5, 5]


def test_sinks_stay_and_the_others_go():
    """A change of an early token is seen if it is a sink or within the window, else not (with one layer)."""
    model = double(n_layers=1)
    right = one_by_one(model, make(model, size=8, n_sinks=2), LONG)[:, -1]
    seen = []
    for t in range(LONG.size(1)):
        other = LONG.clone()
        other[:, t] = (other[:, t] + 1) % 61
        if not torch.equal(one_by_one(model, make(model, size=8, n_sinks=2), other)[:, -1], right):
            seen.append(t)
    assert seen == [0, 1, *range(44, 50)]


def test_rows_of_different_length_are_read_as_each_alone():
    model = double(n_kv_heads=2)
    prompts = [LONG[0].tolist(), LONG[1, :3].tolist(), LONG[2, :14].tolist()]
    cache = make(model, size=10, n_sinks=2)
    with torch.no_grad():
        together = [read_long(model, prompts, cache)]
        alone = [[], [], []]
        for step in range(12):
            new = torch.tensor([[7 + step]] * 3)
            at = torch.tensor([[len(prompt) + step] for prompt in prompts])
            together.append(model.next_logits(new, positions=at, cache=cache))
        for row, prompt in enumerate(prompts):
            text = torch.tensor([prompt + list(range(7, 19))])
            own = one_by_one(model, make(model, n=1, size=10, n_sinks=2), text)
            alone[row] = own[0, len(prompt) - 1 :]
    torch.testing.assert_close(torch.stack(together, 1), torch.stack(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 50])
def test_losses_through_a_window_are_those_of_its_logits(length):
    model, text = double(n_kv_heads=2), LONG[:2, :length]
    found = streamed_losses(model, text, Window(size=10, n_sinks=2))
    assert found.shape == (2, length - 1)
    logits = one_by_one(model, make(model, n=2, size=10, n_sinks=2), text)[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-9)


def test_select_reorders_rows_that_have_slid():
    model = double()
    cache = make(model, size=6, n_sinks=2)
    one_by_one(model, cache, LONG[:, :10])
    cache.select([2, 0, 0])
    rows = LONG[[2, 0, 0], :11]
    with torch.no_grad():
        found = model(rows[:, -1:], positions=torch.full((3, 1), 10), cache=cache)
    torch.testing.assert_close(
        found, one_by_one(model, make(model, size=6, n_sinks=2), rows)[:, -1:], rtol=0, atol=1e-9
    )


def test_in_several_places_it_is_one_cache():
    model = double(n_layers=4, n_kv_heads=2)
    sizes = {"batch_size": 3, "max_seq_len": 99, "dtype": torch.float64, "window": Window(size=7, n_sinks=3)}
    parts = [(layers, WindowedKVCache(model.config, n_layers=len(layers), **sizes)) for layers in ([3, 1], [0], [2])]
    found, expected = (
        one_by_one(model, cache, LONG[:, :20]) for cache in (LayeredCache(parts), make(model, size=7, n_sinks=3))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    prompts = LONG[:, :15].tolist()
    with torch.no_grad():
        logits = read_long(model, prompts, LayeredCache(parts))
    torch.testing.assert_close(logits, expected[:, 14], rtol=0, atol=1e-9)


def test_after_twenty_thousand_tokens_it_has_what_it_should_in_the_memory_of_its_slots():
    config = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=5, max_seq_len=32)
    cache = WindowedKVCache(config, batch_size=1, max_seq_len=10**9, window=Window(size=16), dtype=torch.float64)
    n_bytes, buffers = cache.nbytes, [buffer.data_ptr() for buffer in cache._buffers()]
    new = torch.randn(1, 2, 20_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in range(20_000):
        keys, values = cache.write(0, new[:, :, t : t + 1], -new[:, :, t : t + 1], torch.tensor([[t]]))
    assert cache.nbytes == n_bytes == 2 * 16 * 16 * 8  # keys and values, slots, width, bytes of a number
    assert [buffer.data_ptr() for buffer in cache._buffers()] == buffers
    kept = cache.positions_kept(19_999)
    assert kept == [0, 1, 2, 3, *range(19_988, 20_000)]
    turned = reference.apply_rope(new[:, :, kept].numpy(), *reference.rope_table(8, 16))
    order = cache._places_of_slots(torch.tensor([[19_999]]))[0].argsort()
    np.testing.assert_allclose(keys[:, :, order], turned, rtol=0, atol=1e-12)
    assert torch.equal(values[:, :, order], -new[:, :, kept])


# Windows: what is written with them


@pytest.mark.parametrize("changes", MOVABLE[:5], ids=name_of)
def test_a_window_that_never_slides_writes_the_same_text(changes):
    model = draw_model(**changes)
    for options in ({}, {"sampling": Sampling(temperature=0.8), "seed": 3}, {"stop_ids": [7, 8]}):
        assert tokens_of(model, cache=Window(), **options) == tokens_of(model, **options)
        assert tokens_of(model, cache=Window(size=25, n_sinks=0), **options) == tokens_of(model, **options)


def test_texts_go_on_beyond_the_context():
    model = draw_model(n_kv_heads=2)
    window, prompts = Window(size=12, n_sinks=2), [*PROMPTS, LONG[0].tolist()]
    rows = generate(model, None, prompts, max_new_tokens=60, cache=window)
    for prompt, row in zip(prompts, rows, strict=True):
        assert (len(row.tokens), row.finish_reason) == (60, "length")
        assert tokens_of(model, [prompt], max_new_tokens=60, cache=window) == [row.tokens]
        text = torch.tensor([prompt + row.tokens])
        logits = one_by_one(model, make(model, n=1, size=12, n_sinks=2), text)
        assert logits[0, len(prompt) - 1 : -1].argmax(-1).tolist() == row.tokens
    assert tokens_of(model, PROMPTS, max_new_tokens=60) != [row.tokens for row in rows[:3]]  # which end at 32 tokens
    stopped = generate(model, None, prompts, max_new_tokens=60, cache=window, stop_ids=[rows[0].tokens[40]])
    assert stopped[0].finish_reason == "stop"


def test_decode_and_beams_take_a_window():
    model, window = draw_model(), Window(size=12, n_sinks=2)
    steps = [step[0].tokens[0] for step in decode(model, [PROMPTS[0]], max_new_tokens=40, cache=window)]
    assert [steps] == tokens_of(model, PROMPTS[:1], max_new_tokens=40, cache=window)
    prompt = LONG[0, :40].tolist()
    (best,) = beam_search(model, prompt, beam_size=1, max_new_tokens=30, cache=window)
    assert [best.tokens] == tokens_of(model, [prompt], max_new_tokens=30, cache=window)
    same = [beam_search(model, PROMPTS[0], max_new_tokens=12, cache=cache) for cache in (None, Window())]
    assert [beam.tokens for beam in same[0]] == [beam.tokens for beam in same[1]]


def test_early_exit_fills_skipped_layers_with_keys_before_the_rotation():
    model = draw_model(n_layers=3)
    for threshold, cache in ((0.0, Window()), (0.3, Window())):
        eager = EarlyExit(model, ExitRule(threshold=threshold))
        assert tokens_of(eager, PROMPTS[:1], cache=cache) == tokens_of(eager, PROMPTS[:1])
    assert len(tokens_of(EarlyExit(model, ExitRule(threshold=0.0)), cache=Window(size=8), max_new_tokens=40)[0]) == 40


def test_in_half_precision_the_text_goes_on():
    model = draw_model().to(torch.bfloat16)
    assert len(tokens_of(model, cache=Window(size=8), max_new_tokens=40)[0]) == 40


# Windows that remember what has left them


@pytest.mark.parametrize("n", [1, 5, 99])
@pytest.mark.parametrize("changes", MOVABLE, ids=name_of)
def test_a_window_with_a_memory_is_numpys_token_by_token(changes, n, monkeypatch):
    """The twin searches all that its window does not keep, by brute force, for each head and token."""
    model, window = model_of(changes), {"size": 9, "n_sinks": 2}
    params = {name: value.numpy() for name, value in model.state_dict().items()}
    text = LONG[:, :30]
    with numpy_windows(monkeypatch, model.config, **window, n=n):
        expected = reference.llama(params, text.numpy(), model.config)
    found = one_by_one(model, make(model, **window, n_recalled=n), text)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert not np.allclose(expected[:, -1], one_by_one(model, make(model, **window), text)[:, -1])


def test_rows_of_different_length_remember_their_own():
    model = double(n_kv_heads=2)
    prompts = [LONG[0].tolist(), LONG[1, :3].tolist(), LONG[2, :14].tolist()]
    window = {"size": 10, "n_sinks": 2, "n_recalled": 3}
    cache = make(model, **window)
    with torch.no_grad():
        together = [read_long(model, prompts, cache)]
        for step in range(12):
            at = torch.tensor([[len(prompt) + step] for prompt in prompts])
            together.append(model.next_logits(torch.tensor([[7 + step]] * 3), positions=at, cache=cache))
    for row, prompt in enumerate(prompts):
        text = torch.tensor([prompt + list(range(7, 19))])
        own = one_by_one(model, make(model, n=1, **window), text)[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack(together, 1)[row], own, rtol=0, atol=1e-9)
    assert [len(memory) for memory in cache.memories[0]] == [max(0, len(prompt) + 12 - 10) for prompt in prompts]
    assert cache.nbytes == 2 * model.config.n_layers * 2 * 8 * 8 * (3 * 10 + 52 + 5 + 16)  # K, Dh, bytes of a number


def test_rows_that_change_places_take_their_memories_along():
    model, window = double(), {"size": 6, "n_sinks": 2, "n_recalled": 3}
    cache = make(model, **window)
    one_by_one(model, cache, LONG[:, :12])
    cache.select([2, 0, 0])
    rows = LONG[[2, 0, 0], :14].clone()
    rows[2, 12:] += 1  # two rows that were one go on in two ways
    expected = one_by_one(model, make(model, **window), rows)[:, 12:]
    with torch.no_grad():
        for t in (12, 13):
            found = model(rows[:, t : t + 1], positions=torch.full((3, 1), t), cache=cache)
            torch.testing.assert_close(found[:, 0], expected[:, t - 12], rtol=0, atol=1e-9)


def test_texts_are_written_with_what_is_remembered():
    model, window = draw_model(n_kv_heads=2), Window(size=12, n_sinks=2, n_recalled=4)
    prompts = [*PROMPTS, LONG[0].tolist()]
    written = tokens_of(model, prompts, max_new_tokens=50, cache=window)
    for prompt, row in zip(prompts, written, strict=True):
        logits = one_by_one(model, make(model, n=1, size=12, n_sinks=2, n_recalled=4), torch.tensor([prompt + row]))
        assert logits[0, len(prompt) - 1 : -1].argmax(-1).tolist() == row
    (best,) = beam_search(model, prompts[-1], beam_size=1, max_new_tokens=20, cache=window)
    assert best.tokens == written[-1][:20]
    short = tokens_of(model, cache=Window(n_recalled=4))
    assert short == tokens_of(model)  # nothing has left
    assert len(tokens_of(draw_model().to(torch.bfloat16), cache=window, max_new_tokens=40)[0]) == 40


def test_memories_in_several_places_are_one():
    model, window = double(n_layers=4, n_kv_heads=2), Window(size=7, n_sinks=3, n_recalled=2)
    sizes = {"batch_size": 3, "max_seq_len": 99, "dtype": torch.float64, "window": window}
    parts = [(layers, RememberingKVCache(model.config, n_layers=len(layers), **sizes)) for layers in ([3, 1], [0], [2])]
    found = one_by_one(model, LayeredCache(parts), LONG[:, :20])
    expected = one_by_one(model, make(model, size=7, n_sinks=3, n_recalled=2), LONG[:, :20])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Windows: what they refuse


def refuses(message, **options):
    with pytest.raises(ValueError, match=message):
        tokens_of(draw_model(), **options)


def test_what_a_window_cannot_go_with_is_said():
    refuses("draft's candidates", cache=Window(), draft=PromptLookup())
    refuses("tokens stay where they are", cache=Window(), compile=True)
    refuses("larger than the context of 32", cache=Window(size=33))
    refuses("cache='window' is not one of 'int8', 'int4'", cache="window")
    with pytest.raises(ValueError, match="added the old ones"):
        tokens_of(draw_model(position="sinusoidal"), cache=Window())
    with pytest.raises(ValueError, match="no other place in the context of 4"):
        tokens_of(draw_model(max_seq_len=4), [[1]], cache=Window())
    for values in (
        {"size": 4},
        {"size": 0},
        {"n_sinks": -1},
        {"size": 2.5},
        {"size": "all"},
        {"n_sinks": True},
        {"n_recalled": -1},
    ):
        with pytest.raises(ValueError, match=r"size of at least 5|must be a whole number"):
            Window(**values)


# Windows: on the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = Tokenizer.train(["ab"], vocab_size=256 + len(NAMES), special_tokens=NAMES)
    model = make_lively(draw_model(vocab_size=tokenizer.vocab_size, max_seq_len=64), 1.5)
    set_chat_template(tokenizer, TEMPLATE)
    save(model, path := tmp_path_factory.mktemp("talker") / "model", tokenizer)
    return str(path), *load(path)


def test_generate_and_chat_have_flags_for_it(folder, capsys, monkeypatch):
    path, model, tokenizer = folder
    main(["generate", path, "-p", "ab" * 40, "--max-new-tokens", "90", "--window", "20", "--sinks", "2"])
    options = {"max_new_tokens": 90, "sampling": Sampling(temperature=0.8, top_p=0.95)}
    (row,) = generate(model, tokenizer, ["ab" * 40], cache=Window(size=20, n_sinks=2), **options)
    assert capsys.readouterr().out == "ab" * 40 + row.text + "\n"
    assert "".join(stream(model, tokenizer, "ab" * 40, cache=Window(size=20, n_sinks=2), **options)) == row.text

    flags = ["--max-new-tokens", "90", "--window", "20", "--sinks", "2", "--recalled", "3"]
    main(["generate", path, "-p", "ab" * 40, *flags])
    (row,) = generate(model, tokenizer, ["ab" * 40], cache=Window(size=20, n_sinks=2, n_recalled=3), **options)
    assert capsys.readouterr().out == "ab" * 40 + row.text + "\n"

    typed = iter(["a" * 50, "b" * 50, ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    main(["chat", path, "--window", "30", "--max-new-tokens", "5", "--temperature", "0"])
    printed = capsys.readouterr().out
    assert "context" not in printed  # no turn is left out, and no message is too long
    conversation = Conversation(chat_template(tokenizer))
    for message in ("a" * 50, "b" * 50):
        conversation.add("user", message)
        ids, _ = conversation.prompt(10**9)
        (row,) = generate(model, tokenizer, [ids], max_new_tokens=5, cache=Window(size=30), stop=["<|end|>"])
        conversation.add("assistant", row.text)
        assert row.text.removeprefix(" ") in printed


def test_evaluate_slides_by_a_stride(folder, capsys, tmp_path):
    path, model, tokenizer = folder
    (tmp_path / "text.txt").write_text(text := "abba" * 60)
    flags = ["evaluate", path, "--corpus", str(tmp_path / "text.txt"), "--seq-len", "20", "--batch-size", "3"]
    losses = []
    tokens = np.array([*tokenizer.start_ids, *tokenizer.encode(text)])
    for stride, more in ((20, []), (7, ["--stride", "7"])):
        main([*flags, *more])
        total, count = sum_loss(model, sliding_batches(tokens, size=20, stride=stride))
        losses.append(f"{total / count:.4f}")
        assert losses[-1] in capsys.readouterr().out
    assert losses[0] != losses[1]
    with pytest.raises(SystemExit):
        main([*flags, "--stride", "21"])
    assert "stride=21 would leave out targets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--window", "4"], "--window 4 has no place beside --sinks 4; give at least 5"),
        (["--window", "0"], "--window 0 must be at least 1"),
        (["--sinks", "2"], "--sinks 2 says how many tokens of a --window"),
        (["--window", "9", "--sinks", "-1"], "--sinks -1 must be at least 0"),
        (["--recalled", "8"], "--recalled 8 is for tokens that have left a --window"),
        (["--window", "9", "--recalled", "-1"], "--recalled -1 must be at least 0"),
        (["--window", "9", "--compile"], "leave out it or --window"),
        (["--window", "9", "--draft", "prompt-lookup"], "leave one out"),
        (["--window", "65"], "larger than the context of 64"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_do_not_go_together_are_refused(folder, flags, says, capsys):
    with pytest.raises(SystemExit):
        main(["generate", folder[0], "-p", "ab", *flags])
    printed = capsys.readouterr()
    assert says in " ".join(printed.err.replace("│", " ").split())
    assert "ab" not in printed.out


def test_several_tokens_at_once_are_refused_once_it_slides():
    model = double()
    cache = make(model, n=1, size=6, n_sinks=2)
    with torch.no_grad():
        with pytest.raises(ValueError, match="7 tokens do not fit the cache's 6 slots"):
            model(LONG[:1, :7], cache=cache)
        with pytest.raises(ValueError, match="takes a token at a time, and these are 2"):
            model(LONG[:1, :2], positions=torch.tensor([[5, 6]]), cache=cache)


# Scalings


@st.composite
def scalings(draw):
    kind = draw(st.sampled_from(["linear", "ntk", "dynamic", "yarn"]))
    values = {"kind": kind, "factor": draw(st.floats(1, 8)), "original_max_seq_len": draw(st.integers(4, 40))}
    if kind == "yarn":
        values |= {"beta_fast": draw(st.floats(1, 40)), "beta_slow": draw(st.floats(0.1, 1))}
        values |= {"attention_factor": draw(st.none() | st.floats(0.5, 2)), "truncate": draw(st.booleans())}
    return RopeScaling(**values)


@settings(max_examples=12)
@given(
    scaling=scalings(),
    theta=st.floats(10, 1e6),
    heads=st.sampled_from([{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "head_dim": 12}, {"head_dim": 6}]),
    context=st.integers(8, 48),
)
def test_with_any_scaling_the_logits_are_those_of_transformers(as_transformers, scaling, theta, heads, context):
    """They read our weights and our config.json."""
    model = draw_model(rope_theta=theta, rope_scaling=scaling, max_seq_len=context, **heads)
    tokens = LONG[:, :context]
    with torch.no_grad():
        ours, theirs = model(tokens), as_transformers(model)(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@settings(max_examples=12)
@given(scaling=scalings(), context=st.integers(8, 48))
def test_what_is_written_is_read_again_with_the_same_turns(scaling, context):
    config = LlamaConfig(**{**SIZES, "max_seq_len": context, "rope_scaling": scaling})
    again = config_from_huggingface(config_to_huggingface(config)).replace(max_seq_len=context)
    tables = [
        rope_table(c.head_dim, context, c.rope_theta, c.rope_scaling, dtype=torch.float64) for c in (config, again)
    ]
    torch.testing.assert_close(*tables, rtol=0, atol=1e-12)
    if scaling.kind == "yarn":
        assert again == config


# Perplexity by windows that slide


@settings(max_examples=30)
@given(
    n=st.integers(2, 40),
    size=st.integers(1, 12),
    share=st.floats(0, 1),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_every_token_counts_once_as_when_each_is_predicted_by_itself(n, size, share, batch_size, seed):
    stride, model = max(1, round(share * size)), double(n_kv_heads=2)
    tokens = np.random.default_rng(seed).integers(0, 61, n)
    total, count = sum_loss(model, sliding_batches(tokens, size=size, stride=stride, batch_size=batch_size))
    begins, expected = reference.window_begins(n, size=size, stride=stride), 0.0
    for i, begin in enumerate(begins, start=1):
        assert i - begin <= size
        assert begin == 0 or i - begin >= size - stride + 1
        with torch.no_grad():
            expected -= float(model(torch.from_numpy(tokens[None, begin:i]))[0, -1].log_softmax(-1)[tokens[i]])
    assert count == n - 1
    assert total == pytest.approx(expected, rel=1e-6)


@given(n=st.integers(2, 60), size=st.integers(1, 20), share=st.floats(0, 1), batch_size=st.integers(1, 5))
def test_the_targets_that_weigh_are_the_text(n, size, share, batch_size):
    stride = max(1, round(share * size))
    batches = list(sliding_batches(np.arange(n, dtype=np.uint16), size=size, stride=stride, batch_size=batch_size))
    weighed = np.concatenate([targets[weights > 0] for _, targets, weights in batches])
    assert weighed.tolist() == list(range(1, n))
    assert sum(len(inputs) for inputs, _, _ in batches) == n_windows(n, size=size, stride=stride)
    if stride == size:
        for mine, plain in zip(
            batches, sequential_batches(np.arange(n), batch_size=batch_size, seq_len=size), strict=True
        ):
            assert all(np.array_equal(*pair) for pair in zip(mine, plain, strict=True))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stride": 5}, "stride=5 would leave out targets between windows of size=4"),
        ({"stride": 0}, "stride=0 must be a whole number"),
        ({"size": 0}, "size=0 must be"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be"),
        ({"tokens": [1]}, "at least two"),
        ({"tokens": [[1, 2]]}, "must be one row"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_windows_that_cannot_slide_are_refused(values, says):
    given = {"tokens": np.arange(9), "size": 4, "stride": 2} | values
    with pytest.raises(ValueError, match=says):
        sliding_batches(given.pop("tokens"), **given)


# Memories


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=20)
@given(
    n_keys=st.integers(1, 30),
    n=st.integers(1, 35),
    width=st.integers(1, 5),
    away=st.sampled_from([0, 1e3]),
    seed=st.integers(0, 99),
)
def test_the_nearest_are_those_of_brute_force(n_keys, n, width, away, seed):
    queries, keys = normal(4, width, seed=seed), away + normal(n_keys, width, seed=seed + 1)
    expected = reference.nearest(queries, keys, n)
    for chunk in (1 << 16, 7):  # all at once, and in parts
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llama_minimal.long_context.neighbors._CHUNK", chunk)
            found = nearest(torch.from_numpy(queries), torch.from_numpy(keys), n)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)


def test_what_neighbors_say_is_numpys_and_a_near_one_says_more():
    distances, tokens = np.sort(3 * np.abs(normal(5, 6)), -1), np.random.default_rng(0).integers(0, 4, (5, 6))
    for temperature in (1.0, 0.3, 20.0):
        found = neighbor_distribution(torch.from_numpy(distances), torch.from_numpy(tokens), 7, temperature)
        np.testing.assert_allclose(
            found, reference.neighbor_distribution(distances, tokens, 7, temperature), atol=1e-12
        )
        np.testing.assert_allclose(found.sum(-1), 1)
    one = neighbor_distribution(torch.tensor([[0.0, 1.0, 1.0]]).log1p(), torch.tensor([[2, 0, 2]]), 3)
    np.testing.assert_allclose(one, [[0.25, 0, 0.75]])  # weights 1, 1/2, 1/2


def test_a_memory_holds_each_token_after_the_state_that_its_window_gives():
    model, text = double(n_kv_heads=2), LONG[0, :21]
    memory = remember(model, text, size=8, stride=3, batch_size=2)
    assert memory.tokens.tolist() == text[1:].tolist()
    for i, begin in enumerate(reference.window_begins(21, size=8, stride=3)):
        with torch.no_grad():
            state = model.hidden_states(text[None, begin : i + 1])[0, -1]
        torch.testing.assert_close(memory.states[i], state, rtol=0, atol=1e-9)


def test_the_mixture_is_that_of_numpy_and_of_probabilities():
    model = double()
    memory = remember(model, LONG[0], size=16)
    with torch.no_grad():
        x = model.hidden_states(LONG[1:, :10])
        plain = model(LONG[1:, :10]).softmax(-1)
        found = WithMemory(model, memory, share=0.3, n=5, temperature=9.0)(LONG[1:, :10]).exp()
        alone = WithMemory(model, memory, share=0)(LONG[1:, :10])
    distances, places = reference.nearest(x.flatten(0, 1).numpy(), memory.states.numpy(), 5)
    said = reference.neighbor_distribution(distances, memory.tokens.numpy()[places], 61, 9.0).reshape(2, 10, 61)
    np.testing.assert_allclose(found, 0.3 * said + 0.7 * plain.numpy(), atol=1e-12)
    torch.testing.assert_close(alone, plain.log(), rtol=0, atol=1e-9)


def test_with_its_memory_a_model_recites_what_it_has_read_once():
    """A property: of a text without repeated states, the nearest state to each is its own, and says what followed."""
    model, text = draw_model(n_kv_heads=2), LONG[0, :30]
    knowing = WithMemory(model, remember(model, text, size=30), share=0.99, n=1)
    prompt = text[:5].tolist()
    assert tokens_of(knowing, [prompt], max_new_tokens=25) == [text[5:].tolist()]
    assert tokens_of(model, [prompt], max_new_tokens=25) != [text[5:].tolist()]
    assert tokens_of(knowing, [prompt], max_new_tokens=25, cache=Window()) == [text[5:].tolist()]
    losses = [sum_loss(one, sliding_batches(text, size=30, stride=30))[0] for one in (model, knowing)]
    assert losses[0] > 29 * -np.log(0.99) + 0.05 > losses[1] > 0  # each token is given 0.99 and more


def test_a_memory_grows_and_is_the_same_from_its_file(tmp_path):
    model = draw_model()
    memory, more = remember(model, LONG[0]), remember(model, LONG[1])
    states = torch.cat((memory.states, more.states))
    memory.add(more.states, more.tokens)
    assert len(memory) == 98
    memory.save(tmp_path / "deep" / "memory.safetensors")
    again = TokenMemory.load(tmp_path / "deep" / "memory.safetensors")
    assert torch.equal(again.states, states)
    assert torch.equal(again.tokens, torch.cat((LONG[0, 1:], LONG[1, 1:])))
    with pytest.raises(ValueError, match="a memory of keys and values has"):
        KeyValueMemory.load(tmp_path / "deep" / "memory.safetensors")
    (tmp_path / "other").write_bytes(b"no memory")
    with pytest.raises(ValueError, match="is it damaged"):
        TokenMemory.load(tmp_path / "other")


def test_memories_that_do_not_fit_are_refused():
    model = draw_model()
    memory = remember(model, LONG[0])
    for share in (1, -0.1, None, "much"):
        with pytest.raises(ValueError, match=f"share={share!r}"):
            WithMemory(model, memory, share=share)
    with pytest.raises(ValueError, match="whose width is 64"):
        WithMemory(draw_model(dim=64), memory)
    with pytest.raises(ValueError, match="temperature=0"):
        WithMemory(model, memory, temperature=0)
    with pytest.raises(ValueError, match=r"must be \(N, 32\) and \(N,\)"):
        memory.add(memory.states, memory.tokens[1:])
    with pytest.raises(ValueError, match="the memory is empty"):
        TokenMemory(memory.states[:0], memory.tokens[:0]).distribution(memory.states, 61)
    with pytest.raises(ValueError, match="width 3 cannot be compared with keys of width 32"):
        nearest(torch.zeros(1, 3), memory.states, 1)


@settings(max_examples=20)
@given(n=st.integers(1, 12), n_kv_heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_attention_to_a_memory_is_numpys_and_of_all_of_it_plain_attention(n, n_kv_heads, seed):
    q, keys, values = normal(2, 4, 3, 6, seed=seed), normal(n_kv_heads, 9, 6), normal(n_kv_heads, 9, 6, seed=1)
    memory = KeyValueMemory(torch.from_numpy(keys), torch.from_numpy(values))
    found = memory.attend(torch.from_numpy(q), n)
    np.testing.assert_allclose(found, reference.memory_attention(q, keys, values, n), atol=1e-12)
    if n >= 9:
        wide = (torch.from_numpy(part).expand(2, -1, -1, -1) for part in (keys, values))
        torch.testing.assert_close(found, attention(torch.from_numpy(q), *wide), rtol=0, atol=1e-12)


def test_a_gate_mixes_as_numpys_and_learns():
    local, remembered = normal(2, 3, 5, 4), normal(2, 3, 5, 4, seed=1)
    bias = torch.tensor([-30.0, 0.0, 30.0], dtype=torch.float64)
    found = gate_memory(torch.from_numpy(local), torch.from_numpy(remembered), bias)
    np.testing.assert_allclose(found, reference.gate_memory(local, remembered, bias.numpy()), atol=1e-12)
    np.testing.assert_allclose(found[:, 0], local[:, 0], atol=1e-11)
    np.testing.assert_allclose(found[:, 1], (local + remembered)[:, 1] / 2, atol=1e-12)
    np.testing.assert_allclose(found[:, 2], remembered[:, 2], atol=1e-11)


def test_keys_that_a_window_drops_can_be_remembered(tmp_path):
    """Of a model without positions, attention to a memory of the whole text is what the model itself computes."""
    model = double(position="none", n_layers=1, n_kv_heads=2)
    cache, text = make(model, n=1), LONG[:1, :12]
    with torch.no_grad():
        expected = one_by_one(model, cache, text)[0, -1]
        memory = KeyValueMemory(cache.keys[0][0, :, :7], cache.values[0][0, :, :7])
        memory.add(cache.keys[0][0, :, 7:12], cache.values[0][0, :, 7:12])
        memory.save(tmp_path / "memory")
        memory = KeyValueMemory.load(tmp_path / "memory")
        layer = model.layers["0"]
        x = model.tok_embeddings(text[:, -1:])
        q = layer.attention.wq(layer.attention_norm(x)).view(1, 1, 4, -1).transpose(1, 2)
        x = x + layer.attention.wo(memory.attend(q, 12).flatten())
        x = x + layer.feed_forward(layer.ffn_norm(x))
    torch.testing.assert_close(model.output(model.norm(x))[0, 0], expected, rtol=0, atol=1e-9)
    few = KeyValueMemory(memory.keys, memory.values, max_tokens=5)
    assert torch.equal(few.keys, memory.keys[:, -5:])
    few.add(memory.keys[:, :2], memory.values[:, :2])
    assert torch.equal(few.values, torch.cat((memory.values[:, -3:], memory.values[:, :2]), 1))
    with pytest.raises(ValueError, match="4 heads of width 3 do not fit the memory's 2 of width 8"):
        memory.attend(torch.zeros(1, 4, 1, 3))
    with pytest.raises(ValueError, match="the memory is empty"):
        KeyValueMemory(memory.keys[:, :0], memory.values[:, :0]).attend(torch.zeros(1, 4, 1, 8))
    for keys in (memory.keys[0], memory.keys[:, :3]):
        with pytest.raises(ValueError, match="must both be"):
            KeyValueMemory(keys, memory.values)


# Old turns that are looked up


def talk_of(tokenizer, texts, **options):
    conversation = Conversation(chat_template(tokenizer), **options)
    for i, text in enumerate(texts):
        conversation.add("user", text)
        if i < len(texts) - 1:
            conversation.add("assistant", f"yes {i}")
    return conversation


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["fox", "hat", "red", "sea"]), max_size=4).map(" ".join), min_size=1, max_size=7
    ),
    recall=st.integers(1, 3),
    system=st.sampled_from([None, "rules"]),
    share=st.floats(0, 1.1),
)
@example(texts=["fox hat", "fox", "sea" * 30, "fox hat"], recall=2, system=None, share=0.65)
@example(texts=["fox hat"] * 6, recall=3, system=None, share=0.95)
def test_turns_that_are_looked_up_keep_to_their_half_their_order_and_their_rank(folder, texts, recall, system, share):
    tokenizer, template = folder[2], chat_template(folder[2])
    talk = talk_of(tokenizer, texts, system=system, recall=recall)
    whole = talk.all_messages()
    fixed, said = whole[: int(system is not None)], whole[int(system is not None) :]

    def encoded(turns):
        return template.encode(fixed + [one for i in turns for one in said[2 * i : 2 * i + 2]], reply=True)

    last, limit = len(texts) - 1, max(1, round(share * len(encoded(range(len(texts))))))
    ids, n_left_out = talk.prompt(limit)
    plain, n_plain = talk_of(tokenizer, texts, system=system).prompt(limit)
    if not n_plain:  # all fit
        assert (ids, n_left_out, talk.recalled) == (plain, 0, [])
        return
    (kept,) = [  # the prompt is that of exactly one set of turns, in order
        kept
        for size in range(len(texts))
        for kept in itertools.combinations(range(len(texts)), size + 1)
        if encoded(kept) == ids
        and kept[-1] == last
        and set(talk.recalled) <= set(kept)
        and len(kept) + n_left_out == len(texts)
    ]
    latest = [i for i in kept if i not in talk.recalled]
    assert latest == list(range(latest[0], last + 1))
    assert all(i < latest[0] for i in talk.recalled)
    assert len(ids) <= limit or kept == (last,)
    assert not latest[0] or len(encoded(sorted({*kept, latest[0] - 1}))) > limit  # no more would fit
    assert len(talk.recalled) <= recall
    half = (len(encoded([last])) + limit) / 2
    assert not talk.recalled or len(encoded([*talk.recalled, last])) <= half
    best = Index([f"{text}\nyes {i}" for i, text in enumerate(texts[:last])]).search(texts[last] or " ", 1)
    if best and len(encoded([best[0].index, last])) <= half:
        assert best[0].index in kept
    if not best:
        assert ids == plain


def test_a_fact_told_long_ago_is_in_the_prompt_again(folder):
    tokenizer = folder[2]
    fillers = [f"the {word} is big" for word in ("sea", "sky", "sun", "moon", "hill", "lake")]
    texts = ["my dog is Rex", *fillers, "who is my dog?"]
    with_it, without = (talk_of(tokenizer, texts, recall=recall) for recall in (1, 0))
    ids, n_left_out = with_it.prompt(110)
    shown = tokenizer.decode(ids, skip_special=False)
    assert shown.startswith("<|user|>my dog is Rex<|end|><|assistant|>yes 0<|end|><|user|>the ")
    assert shown.endswith("the lake is big<|end|><|assistant|>yes 6<|end|><|user|>who is my dog?<|end|><|assistant|>")
    assert with_it.recalled == [0]
    assert "Rex" not in tokenizer.decode(without.prompt(110)[0])
    assert without.recalled == []
    assert n_left_out == 8 - shown.count("<|user|>") > 0
    assert len(ids) <= 110


def test_chat_says_what_it_looked_up(folder, capsys, monkeypatch):
    prompts = []

    def stream(model, tokenizer, ids, **_):
        prompts.append(tokenizer.decode(ids, skip_special=False))
        yield "ok"

    monkeypatch.setattr("llama_minimal.generation.stream", stream)
    lines = ["a red fox", "b" * 20, "c" * 8, "the fox?", ""]
    monkeypatch.setattr("builtins.input", lambda _: lines.pop(0))
    main(["chat", folder[0], "--max-new-tokens", "10", "--recall", "2"])
    printed = capsys.readouterr().out
    assert prompts[-1].startswith("<|user|>a red fox<|end|><|assistant|>ok<|end|>")
    assert "bbb" not in prompts[-1]
    assert "(the context is full; the model no longer sees 1 of the first turns, but looked up number 1)" in printed
    for flags in (["--recall", "-1"], ["--recall", "1", "--window", "9"]):
        with pytest.raises(SystemExit):
            main(["chat", folder[0], *flags])
        assert "--recall" in capsys.readouterr().err
    with pytest.raises(ValueError, match="recall=-1"):
        Conversation(chat_template(folder[2]), recall=-1)
