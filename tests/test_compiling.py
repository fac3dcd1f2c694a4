"""A compiled step within one text: its graph alone, and the text that it writes in any company."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import prune

from llama_minimal import compiling, generation
from llama_minimal.checkpoint import load
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import decode, generate
from llama_minimal.model import build
from llama_minimal.packed_weights import PackedWeight
from llama_minimal.quantization.cache import cache_kind

CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=2, vocab_size=61, hidden_dim=64, max_seq_len=32)


@pytest.fixture
def calls(monkeypatch):
    """Leave out the slow part of the compiler, and count the steps that PyTorch looks at before it runs them."""

    backend = torch._dynamo.lookup_backend

    def as_it_is(name):
        return (lambda graph, inputs, **how: graph.forward) if name == "inductor" else backend(name)

    monkeypatch.setattr(torch._dynamo, "lookup_backend", as_it_is)
    torch._dynamo.reset()
    step, calls = compiling.compiled(generation._step), []

    def counted(*args):
        calls.append(1)
        return step(*args)

    monkeypatch.setattr(generation, "_compiled_step", lambda: counted)
    yield calls
    torch._dynamo.reset()


def tokens(model, prompt=(1, 2, 3), *, compile=True, **options):
    return generate(model, None, [list(prompt)], max_new_tokens=12, compile=compile, **options)[0].tokens


@pytest.mark.parametrize("prompt", [(5,), (1, 2, 3)])
@pytest.mark.parametrize("cache", [None, "int8"])
def test_pytorch_looks_at_the_first_step_of_a_text_alone(calls, prompt, cache):
    model = build(CONFIG, seed=0).eval()
    for _ in range(2):
        assert tokens(model, prompt, cache=cache) == tokens(model, prompt, cache=cache, compile=False)
    assert len(calls) == 2


def test_texts_may_be_written_in_turn(calls):
    models = [build(CONFIG, seed=seed).eval() for seed in (0, 1)]
    prompts = [[1, 2, 3], [4, 5]]
    options = {"max_new_tokens": 12, "compile": True}
    loops = [decode(model, [prompt], **options) for model in models for prompt in prompts]
    found = [[step[0].tokens[0] for step in texts] for texts in zip(*loops, strict=True)]
    alone = [tokens(model, prompt, compile=False) for model in models for prompt in prompts]
    assert [list(text) for text in zip(*found, strict=True)] == alone


def test_what_changes_between_two_texts_counts(calls):
    model = build(CONFIG, seed=0).eval()
    before = tokens(model)
    norm, model.norm = model.norm, torch.nn.Softmax(dim=-1)
    assert tokens(model) == tokens(model, compile=False) != before
    model.norm = norm
    assert tokens(model) == before
    with torch.no_grad():
        model.output.weight.copy_(model.output.weight.flip(0))
    assert tokens(model) == tokens(model, compile=False) != before


def test_nothing_holds_a_model_whose_text_is_written(calls):
    model = build(CONFIG, seed=0).eval()
    tokens(model)
    assert compiling._CALLS.last is None
    kept = weakref.ref(model.norm.weight)
    torch._dynamo.reset()
    del model
    gc.collect()
    assert kept() is None


def test_a_step_that_gives_more_than_its_graph_is_looked_at_each_time():
    step = compiling.Again(lambda model, x, positions, cache: (compiling._CALLS.__setattr__("last", None), x + 1)[1])
    x = torch.ones(1)
    assert step(None, x, x, None) == step(None, x, x, None) == 2
    assert step.graph is None


def test_short_texts_of_all_lengths_share_one_graph(calls):
    model = build(replace(CONFIG, max_seq_len=600), seed=0).eval()
    made = torch._dynamo.utils.counters["stats"]
    before = made["unique_graphs"]
    for prompt, length in (([1, 2, 3], 4), ([5], 30), (list(range(1, 50)), 200)):
        options = {"max_new_tokens": length, "stop_ids": []}
        with_it, without = (generate(model, None, [prompt], compile=compile, **options) for compile in (True, False))
        assert with_it == without
    assert made["unique_graphs"] - before == 1
    generate(model, None, [[1]], max_new_tokens=256, compile=True, stop_ids=[])
    assert made["unique_graphs"] - before == 2  # a larger cache


def test_a_hook_that_comes_between_two_texts_counts(calls):
    model = build(CONFIG, seed=0).eval()
    tokens(model)
    for module in (model.layers["0"], model.layers["1"].attention, model.layers["0"].feed_forward.w1):
        hook = module.register_forward_hook(lambda _module, _input, output: -3 * output)
        changed = tokens(model, compile=False)
        assert tokens(model) == changed
        hook.remove()
        assert tokens(model) == tokens(model, compile=False) != changed


def test_a_weight_that_is_computed_of_others_is_compiled_too(calls):
    model = build(CONFIG, seed=0).eval()
    prune.random_unstructured(model.layers["0"].attention.wq, "weight", amount=0.5)
    assert tokens(model) == tokens(model, compile=False)


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_the_last_of_several_texts_lets_the_layers_pack_again(calls, quantize):
    model, _ = load("course", dtype="bfloat16", quantize=quantize)
    first, second = (decode(model, [[1, 2, 3]], max_new_tokens=8, compile=True) for _ in range(2))
    next(first), next(second)
    first.close()
    tokens(model, compile=False)  # another text, which would pack them
    layer = model.layers["0"].attention.wq
    assert not layer.packs
    assert type(layer._parameters.get("weight")) is not PackedWeight
    second.close()
    assert layer.packs


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_compiled_a_cache_stores_the_codes_that_belong_to_its_steps(bits):
    torch._dynamo.reset()
    model = build(replace(CONFIG, dim=64, n_layers=1), seed=0).eval()
    step = torch.compile(generation._step, fullgraph=True, dynamic=False)
    token, at = torch.tensor([[7]]), torch.tensor([[0]])
    with torch.inference_mode():
        eager, compiled = (model.make_cache(batch_size=1, max_seq_len=8, kind=cache_kind(bits)) for _ in range(2))
        expected = generation._step(model, token, at, eager)
        assert (step(model, token, at, compiled) - expected).abs().max() < 1e-5
    torch._dynamo.reset()
