"""The model: causality, training, initialization, tied and shared weights, stages, compilation."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_minimal.config import PRESETS, LlamaConfig, preset
from llama_minimal.kv_cache import KVCache
from llama_minimal.loss import next_token_loss
from llama_minimal.model import Llama, build

TOKENS = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))
TRAINABLE = {"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "hidden_dim": 48, "max_seq_len": 32}


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("changes", [{}, {"bias": True, "rope_theta": 100.0}, {"tie_embeddings": True}], ids=str)
def test_the_logits_are_those_of_transformers(make_model, as_transformers, n_kv_heads, changes):
    model = make_model(n_kv_heads=n_kv_heads, **changes)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), as_transformers(model)(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_no_token_sees_a_later_one_and_every_token_sees_all_before(make_model, switches):
    model = make_model(**switches).double()
    for t in range(TOKENS.size(1)):
        changed = TOKENS.clone()
        changed[:, t] = (changed[:, t] + 1) % 61
        with torch.no_grad():
            moved = (model(changed) - model(TOKENS)).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [s >= t for s in range(TOKENS.size(1))]


def train(model, steps):
    """Train on one batch; return the losses."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        total, n_targets = next_token_loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])
        optimizer.zero_grad()
        (total / n_targets).backward()
        optimizer.step()
        losses.append(total.item() / n_targets.item())
    return losses


def test_every_switch_trains(switches):
    model = build(LlamaConfig(**(TRAINABLE | switches)))
    losses = train(model, 15)
    assert losses[0] == pytest.approx(math.log(61), abs=0.1)  # it starts by knowing nothing
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_reach_every_parameter(make_model, switches):
    model = make_model(**switches).double()
    total, _ = next_token_loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])
    total.backward()
    for name, parameter in model.named_parameters():
        # Without rotation, a bias adds the same to all of a query's scores, which the softmax takes away again.
        if not (name.endswith("wk.bias") and model.config.position != "rope"):
            assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("share_layers", [1, 2])
@pytest.mark.parametrize("ffn", ["swiglu", "gelu"])
def test_matrices_start_at_0_02_and_those_that_write_to_the_stream_smaller(ffn, share_layers):
    """The scaled ones are wo and w2. In admired code it was w3, which only looks like the last matrix."""
    config = LlamaConfig(
        dim=128, n_layers=8, n_heads=4, vocab_size=512, ffn=ffn, bias=True, norm="layer", share_layers=share_layers
    )
    for name, parameter in build(config).state_dict().items():
        if "norm.weight" in name:
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            to_stream = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
            expected = 0.02 / 4 if to_stream else 0.02  # 2 · 8 layers, √16 = 4
            assert float(parameter.std()) == pytest.approx(expected, rel=0.04), name
            assert abs(float(parameter.mean())) < 0.05 * expected, name


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    config = preset("tiny")
    torch.manual_seed(1)
    first = build(config, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    second, other = build(config, seed=3).state_dict(), build(config, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_a_model_of_65_billion_parameters_is_built_without_memory():
    model = build(PRESETS["llama-65b"], device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert model.positions.tables == ()
    assert all(table.is_meta for table in model.positions(torch.zeros(1, 2, dtype=torch.long, device="meta")))


def test_a_model_is_loaded_without_importing_the_compiler():
    """It would take half a second, and a model on the meta device asks for it at many a turn."""
    code = (
        "import sys; from llama_minimal import load; load('course');"
        "print({'torch._dynamo', 'sympy'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half(),
        lambda model: model.to_empty(device="cpu"),
        lambda model: model.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
    ],
    ids=["to", "half", "to_empty", "meta and back", "deepcopy"],
)
def test_tied_embeddings_stay_tied(move):
    model = move(build(LlamaConfig(**TRAINABLE, tie_embeddings=True)))
    assert model.output.weight is model.tok_embeddings.weight
    assert len(list(model.parameters())) == len(list(build(LlamaConfig(**TRAINABLE)).parameters())) - 1


def test_shared_layers_are_a_smaller_model_with_the_output_of_copied_weights(make_model):
    """Sharing by twos makes layers 0 and 1 one, and 2 and 3 another."""
    shared, unshared = make_model(n_layers=4, share_layers=2), make_model(seed=1, n_layers=4)
    unshared.load_state_dict(shared.state_dict())
    torch.testing.assert_close(shared(TOKENS), unshared(TOKENS))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (shared, unshared)]
    block = sum(p.numel() for p in unshared.layers["0"].parameters())
    assert sizes[0] == sizes[1] - 2 * block
    assert shared.layers["0"] is shared.layers["1"]
    assert shared.layers["1"] is not shared.layers["2"]
    assert shared.to_empty(device="cpu").layers["2"] is shared.layers["3"]


def test_too_many_tokens_are_refused_and_exactly_enough_are_not(make_model):
    model = make_model()
    assert model(torch.zeros(1, 32, dtype=torch.long)).shape == (1, 32, 61)
    with pytest.raises(ValueError, match=r"33 tokens.*32"):
        model(torch.zeros(1, 33, dtype=torch.long))


def stages(model, cut):
    """Cut a model in two, as a pipeline does: by leaving out parts."""
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    for name in list(model.layers):
        del (second if int(name) < cut else first).layers[name]
    first.norm = first.output = second.tok_embeddings = None
    return first, second


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_two_stages_of_a_pipeline_are_the_model_with_the_same_names(make_model, switches, cut):
    model = make_model(**(switches | {"n_layers": 4}))
    first, second = stages(model, cut)
    assert torch.equal(second(first(TOKENS)), model(TOKENS))
    assert not first.state_dict().keys() & second.state_dict().keys()
    assert first.state_dict().keys() | second.state_dict().keys() == model.state_dict().keys()


def test_the_state_dict_has_metas_names_and_no_position_tables():
    parts = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    parts += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"]
    expected = {f"layers.{i}.{part}.weight" for i in range(2) for part in parts}
    expected |= {"tok_embeddings.weight", "norm.weight", "output.weight"}
    assert set(build(LlamaConfig(**TRAINABLE)).state_dict()) == expected


def test_positions_move_tokens(make_model, switches):
    """Tokens at 5, 6, 7 … are those at 0, 1, 2 … if positions are relative or none, and others if absolute."""
    model = make_model(**switches).double()
    here = torch.arange(12).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS, positions=here), model(TOKENS))
        same = torch.allclose(model(TOKENS, positions=here + 5), model(TOKENS), atol=1e-9)
    assert same == (model.config.position != "sinusoidal")


@pytest.mark.parametrize(
    "switches", [{"n_kv_heads": 2}, {"norm": "layer", "norm_placement": "post", "ffn": "gelu"}], ids=str
)
def test_compiled_blocks_compute_the_same_numbers_and_gradients(make_model, switches):
    """Traced and differentiated by the compiler's front end; the code generator is PyTorch's own affair."""
    torch._dynamo.reset()
    plain, compiled = make_model(**switches), make_model(**switches)
    counter = CompileCounterWithBackend("aot_eager")
    for block in compiled.layers.values():
        block.compile(backend=counter, fullgraph=True)
    for model in (plain, compiled):
        next_token_loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])[0].backward()
    assert counter.frame_count == 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for mine, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_the_layers_of_a_model_share_one_compiled_graph(make_model):
    """One that were compiled for each layer would take 80 times as long for 80 layers."""
    torch._dynamo.reset()
    model, counter = make_model(n_layers=6), CompileCounter()
    for block in model.layers.values():
        block.compile(backend=counter)
    model(TOKENS)
    model(TOKENS + 0)
    assert counter.frame_count == 1


def test_a_model_in_float64_is_as_exact_as_float64(make_model):
    """Every float32 island is "at least float32": in float64 a model must not lose digits on the way."""
    model = make_model().double()
    with torch.no_grad():
        logits = model(TOKENS)
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-13)
        difference = (model(TOKENS) - logits).abs().max()
    assert 0 < difference < 1e-10


def test_llama_built_directly_has_weights_too():
    assert all(parameter.isfinite().all() for parameter in Llama(preset("tiny")).parameters())


def test_on_the_meta_device_everything_runs_without_numbers(switches):
    """Forward, loss, backward, prefill and decode: a tensor made on another device would raise here, without a GPU."""
    config = LlamaConfig(**(TRAINABLE | switches))
    model, tokens = build(config, device="meta"), torch.zeros(2, 12, dtype=torch.long, device="meta")
    logits = model(tokens)
    assert (logits.device.type, logits.shape) == ("meta", (2, 12, 61))
    packed = model(tokens, documents=torch.ones_like(tokens))
    assert (packed.device.type, packed.shape) == ("meta", logits.shape)
    total, count = next_token_loss(logits, tokens)
    (total / count).backward()
    assert all(parameter.grad.is_meta for parameter in model.parameters())
    with torch.no_grad():
        cache = KVCache(config, batch_size=2, max_seq_len=16, device="meta")
        assert model(tokens, cache=cache).shape == (2, 12, 61)
        positions = torch.full((2, 1), 12, device="meta")
        step = model(tokens[:, :1], positions=positions, cache=cache)
        cache.select(torch.zeros(2, dtype=torch.long, device="meta"))
    assert (step.device.type, step.shape) == ("meta", (2, 1, 61))


def test_the_meta_device_finds_a_tensor_on_another_one(make_model):
    """Without this the test above might pass on everything."""
    model = build(LlamaConfig(**TRAINABLE), device="meta")
    model.layers["1"].feed_forward.w2.bias = torch.nn.Parameter(torch.zeros(32))
    with pytest.raises(RuntimeError, match=r"meta|device"):
        model(torch.zeros(1, 3, dtype=torch.long, device="meta"))


@pytest.mark.parametrize(
    "switches",
    [
        {"n_kv_heads": 2},
        {"tie_embeddings": True, "share_layers": 2},
        {"norm": "layer", "norm_placement": "post", "ffn": "gelu", "position": "sinusoidal", "bias": True},
    ],
    ids=str,
)
def test_gradients_of_each_example_at_once_are_those_of_a_loop(make_model, switches):
    model = make_model(**switches).double()
    parameters = dict(model.named_parameters())

    def loss(parameters, tokens):
        logits = torch.func.functional_call(model, parameters, (tokens[None, :-1],))
        return next_token_loss(logits, tokens[None, 1:])[0]

    with sdpa_kernel(SDPBackend.MATH):  # of PyTorch's fast kernels, vmap makes a loop, and warns
        at_once = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, TOKENS)
    for i, tokens in enumerate(TOKENS):
        alone = torch.autograd.grad(loss(parameters, tokens), parameters.values())
        for (name, gradients), expected in zip(at_once.items(), alone, strict=True):
            torch.testing.assert_close(gradients[i], expected, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("wrong", [61, 100, -1])
def test_a_token_without_an_embedding_is_named(make_model, wrong):
    tokens = TOKENS.clone()
    tokens[1, 3] = wrong
    model = make_model()
    for given in ({}, {"cache": KVCache(model.config, batch_size=2, max_seq_len=16)}):
        with pytest.raises(ValueError, match=f"token id {wrong} is not among the model's ids 0 to 60"):
            model(tokens, **given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_switch_keeps_to_the_dtype_of_its_weights(make_model, switches, dtype):
    model = make_model(**switches)
    with torch.no_grad():
        expected, model = model(TOKENS), model.to(dtype)
        cache = KVCache(model.config, batch_size=2, max_seq_len=13, dtype=dtype)
        logits = model(TOKENS, cache=cache)
        step = model(TOKENS[:, :1], positions=torch.full((2, 1), 12), cache=cache)
    assert logits.dtype == step.dtype == dtype
    assert (logits - expected).abs().mean() < 0.05 * expected.std()


@pytest.mark.parametrize("kind", ["no cache", "prompt", "later"])
def test_the_logits_of_each_rows_last_token_are_those_of_a_whole_pass(make_model, switches, kind):
    """And the cache holds the same, though the last layer computes for no other token."""
    model = make_model(**switches).double()
    tokens = torch.randint(61, (3, 7), generator=torch.Generator().manual_seed(0))
    last = torch.tensor([6, 0, 3])
    caches = [model.make_cache(batch_size=3, max_seq_len=9) for _ in range(2)]
    where = [{} if kind == "no cache" else {"cache": cache} for cache in caches]
    with torch.no_grad():
        if kind == "later":
            for one in where:
                model(tokens[:, :2], **one)
                one["positions"] = torch.tensor([[2], [1], [0]]) + torch.arange(7)
        expected = model(tokens, **where[0])[torch.arange(3), last]
        found = model.next_logits(tokens, last, **where[1])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for buffers in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        torch.testing.assert_close(*buffers, rtol=1e-9, atol=1e-9)


def test_without_places_the_last_token_is_at_the_end_and_a_place_may_be_counted_from_there(make_model, switches):
    model = make_model(**switches).double()
    with torch.no_grad():
        whole = model(TOKENS)
        torch.testing.assert_close(model.next_logits(TOKENS), whole[:, -1], rtol=1e-9, atol=1e-9)
        found = model.next_logits(TOKENS, torch.full((len(TOKENS),), -2))
    torch.testing.assert_close(found, whole[:, -2], rtol=1e-9, atol=1e-9)


def test_the_last_layer_computes_for_the_token_that_is_asked_for_alone(make_model):
    model = make_model(n_layers=3)
    widths = []
    for layer in model.layers.values():
        layer.feed_forward.register_forward_hook(lambda _, inputs, out: widths.append(inputs[0].size(1)))
    model.next_logits(TOKENS)
    assert widths == [TOKENS.size(1), TOKENS.size(1), 1]


def test_one_tokens_logits_have_the_gradients_of_a_whole_pass(make_model, switches):
    model = make_model(**switches).double()
    rows, last = torch.arange(len(TOKENS)), torch.arange(len(TOKENS)) + 1
    expected, found = (
        torch.autograd.grad(logits.square().sum(), [*model.parameters()])
        for logits in (model(TOKENS)[rows, last], model.next_logits(TOKENS, last))
    )
    for pair in zip(found, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-8)
