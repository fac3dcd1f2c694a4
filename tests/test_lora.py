"""Adapters: the formula, which weights train, merging and back, many at a time, and training that resumes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama_minimal import reference
from llama_minimal.checkpoint import load, load_adapter, save, save_adapter
from llama_minimal.checkpoint.adapters import base_checksum
from llama_minimal.generation import generate
from llama_minimal.linear import Linear
from llama_minimal.lora import (
    LoRAConfig,
    active_adapters,
    adapted_layers,
    adapter_tensors,
    adapters,
    add_adapter,
    base_tensors,
    disabled,
    is_merged,
    merge,
    merge_and_unload,
    remove_adapter,
    set_active,
    unmerge,
)
from llama_minimal.lora.layer import Adapted
from llama_minimal.optim import make_optimizer
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

ALL = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "output")
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@torch.no_grad()
def fill(model, name, seed=0):
    """Give an adapter numbers as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in adapter_tensors(model, name).values():
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))


def adapted(make_model, *names, targets=ALL, seed=0, **changes):
    model = make_model(seed, **changes)
    for i, name in enumerate(names or ("one",)):
        add_adapter(model, name, LoRAConfig(rank=3, alpha=5.0, targets=targets), seed=i)
        fill(model, name, i)
    return model


def bits(model):
    return {name: tensor.detach().clone() for name, tensor in base_tensors(model).items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# The formula


def dense(model):
    """A copy in which every update is added to its weight as a plain matrix, written out here once more."""
    plain = copy.deepcopy(model)
    for layer in adapted_layers(plain).values():
        for name in layer.active:
            lora = layer.adapters[name]
            scale = lora.config.alpha / (lora.config.rank**0.5 if lora.config.rank_stabilized else lora.config.rank)
            layer.weight.data += scale * torch.einsum("or,ri->oi", lora.B.data, lora.A.data)
    set_active(plain)
    return plain


@pytest.mark.parametrize("stabilized", [False, True])
def test_logits_are_those_of_the_sum_of_the_matrices(make_model, switches, stabilized):
    tied, ffn = switches.get("tie_embeddings"), switches.get("ffn", "swiglu")
    targets = tuple(t for t in ALL if not (t == "output" and tied) and not (t == "w3" and ffn != "swiglu"))
    model = make_model(**switches).double()
    add_adapter(model, "one", LoRAConfig(rank=3, alpha=5, targets=targets, rank_stabilized=stabilized))
    base = model(TOKENS)
    fill(model, "one")
    out = model(TOKENS)
    assert (out - base).abs().max() > 0.1
    torch.testing.assert_close(out, dense(model)(TOKENS), rtol=1e-10, atol=1e-10)


def test_a_layer_and_its_gradients_equal_numpy(make_model):
    layer = adapted(make_model, targets=("layers.0.feed_forward.w1",)).double().layers["0"].feed_forward.w1
    torch.manual_seed(0)
    x = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)
    lora, d_out = layer.adapters["one"], torch.randn(2, 5, 48, dtype=torch.float64)
    out = layer(x)
    d_x, d_a, d_b = torch.autograd.grad(out, [x, lora.A, lora.B], d_out)
    arrays = [t.detach().numpy() for t in (x, layer.weight, lora.A, lora.B)]
    expected, backward = reference.lora_linear_vjp(*arrays, 5 / 3)
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip((d_x, d_a, d_b), np.array(backward(d_out.numpy()), dtype=object)[[0, 2, 3]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_new_adapter_changes_nothing(make_model):
    model = make_model()
    before = model(TOKENS)
    add_adapter(model, "one", LoRAConfig(targets=ALL))
    assert torch.equal(model(TOKENS), before)
    tensors = adapter_tensors(model, "one")
    assert all(not tensors[name].any() for name in tensors if name.endswith("B"))
    a = tensors["layers.0.attention.wq.A"]  # uniform in ±1/√in: a variance of 1/(3·in)
    assert a.abs().max() <= 32**-0.5
    assert a.var().item() == pytest.approx(1 / (3 * 32), rel=0.2)


def test_the_same_seed_gives_the_same_adapter(make_model):
    draws = []
    for seed in (1, 1, 2):
        model = make_model()
        add_adapter(model, "one", LoRAConfig(), seed=seed)
        draws.append(adapter_tensors(model, "one")["layers.1.attention.wv.A"])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_dropout_hides_inputs_from_the_adapter_alone_and_only_in_training(make_model):
    model = make_model()
    add_adapter(model, "one", LoRAConfig(rank=2, dropout=0.25, targets=("wo",)))
    fill(model, "one")
    layer = model.layers["0"].attention.wo
    lora, x = layer.adapters["one"], torch.randn(4000, 32)
    assert torch.equal(layer(x), layer(x))
    model.train()
    torch.manual_seed(0)
    out = layer(x)
    torch.manual_seed(0)
    keep = F.dropout(torch.ones_like(x), 0.25)
    assert keep.unique().tolist() == pytest.approx([0, 4 / 3])
    torch.testing.assert_close(out, F.linear(x, layer.weight) + 8.0 * (keep * x) @ lora.A.T @ lora.B.T)


# What it can be put on


def test_the_names_of_the_base_stay(make_model):
    model = make_model()
    before = dict(model.state_dict())
    add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq",)))
    after = model.state_dict()
    assert list(base_tensors(model)) == list(before)
    assert set(after) - set(before) == {f"layers.{i}.attention.wq.adapters.one.{part}" for i in (0, 1) for part in "AB"}
    assert isinstance(model.layers["0"].attention.wq, Linear)
    assert isinstance(model.layers["0"].attention.wq, Adapted)


def test_a_single_layer_can_be_named(make_model):
    model = make_model()
    add_adapter(model, "one", LoRAConfig(targets=("layers.1.attention.wq", "w2")))
    expected = ["layers.0.feed_forward.w2", "layers.1.attention.wq", "layers.1.feed_forward.w2"]
    assert list(adapted_layers(model)) == expected


def test_a_shared_layer_has_one_adapter(make_model):
    model = adapted(make_model, targets=("wq",), share_layers=2)
    assert list(adapted_layers(model)) == ["layers.0.attention.wq"]
    assert model.layers["1"].attention.wq is model.layers["0"].attention.wq


class EightBits(torch.nn.Module):
    """A linear layer whose weights are whole numbers."""

    def __init__(self, linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.scale = linear.weight.abs().max() / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return F.linear(x, self.weight * self.scale)


def test_any_linear_layer_will_do(make_model):
    model = make_model()
    attention = model.layers["0"].attention
    attention.wq = EightBits(attention.wq)
    before = model(TOKENS)
    add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq",)))
    assert torch.equal(model(TOKENS), before)
    assert adapter_tensors(model, "one")["layers.0.attention.wq.A"].dtype == torch.float32
    fill(model, "one")
    assert not torch.allclose(model(TOKENS), before)
    with pytest.raises(ValueError, match="int8"):
        merge(model)
    assert not is_merged(model)


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"tie_embeddings": True}, {"targets": ("output",)}, "one matrix with another layer"),
        ({}, {"targets": ("w4",)}, "no linear layer 'w4'; there are wq, wk, wv, wo, w1, w2, w3, output"),
        ({"ffn": "gelu"}, {"targets": ("w3",)}, "no linear layer 'w3'"),
        ({}, {"targets": ("tok_embeddings",)}, "no linear layer 'tok_embeddings'"),
        ({}, {"targets": ("q",)}, "no linear layer 'q'"),
        ({"n_kv_heads": 1}, {"targets": ("wk",), "rank": 9}, "rank=9 is larger than layers.0.attention.wk"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_nothing_changes(make_model, changes, config, message):
    model = make_model(**changes)
    with pytest.raises(ValueError, match=message):
        add_adapter(model, "one", LoRAConfig(**config))
    assert not adapters(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", [None, 3.5, "", "a.b", "a b", "train", "keys", "type", "-x", "../x"])
def test_a_name_that_pytorch_could_not_hold_is_refused(make_model, name):
    model = make_model()
    with pytest.raises(ValueError, match="cannot be called"):
        add_adapter(model, name, LoRAConfig())
    assert not adapters(model)


def test_a_name_that_is_taken_is_refused(make_model):
    model = adapted(make_model)
    with pytest.raises(ValueError, match="'one' already"):
        add_adapter(model, "one", LoRAConfig(targets=("wv",)))
    for act in (lambda: set_active(model, "two"), lambda: remove_adapter(model, "two")):
        with pytest.raises(ValueError, match="no adapter 'two'; it has one"):
            act()


@pytest.mark.parametrize(
    "config",
    [
        {"rank": 0},
        {"rank": 2.5},
        {"rank": True},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"targets": "wq"},
        {"targets": ()},
        {"targets": (3,)},
        {"rank_stabilized": "yes"},
    ],
    ids=str,
)
def test_odd_configurations_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        LoRAConfig(**config)


# Several


def test_updates_of_active_adapters_add_up(make_model):
    model = adapted(make_model, "one", "two", targets=("output",))
    outs = {}
    for names in ((), ("one",), ("two",), ("one", "two"), ("two", "one")):
        set_active(model, *names)
        assert active_adapters(model) == names
        outs[names] = model(TOKENS)
    base = outs[()]
    assert (outs["one",] - outs["two",]).abs().max() > 0.1
    torch.testing.assert_close(outs["one", "two"] - base, outs["one",] - base + outs["two",] - base)
    torch.testing.assert_close(outs["one", "two"], outs["two", "one"])


def test_adapters_may_have_different_layers(make_model):
    model = make_model()
    base = model(TOKENS)
    add_adapter(model, "low", LoRAConfig(targets=("wq",)))
    add_adapter(model, "high", LoRAConfig(targets=("w2", "wq"), rank=1))
    fill(model, "low")
    fill(model, "high")
    assert active_adapters(model) == ("high",)
    set_active(model, "low", "high")
    both = model(TOKENS)
    torch.testing.assert_close(both, dense_of(model)(TOKENS), rtol=1e-4, atol=1e-4)
    remove_adapter(model, "high")
    assert list(adapted_layers(model)) == ["layers.0.attention.wq", "layers.1.attention.wq"]
    assert active_adapters(model) == ("low",)
    remove_adapter(model, "low")
    assert torch.equal(model(TOKENS), base)
    assert all(type(layer) is Linear for layer in model.modules() if isinstance(layer, Linear))
    assert all(p.requires_grad for p in model.parameters())


def dense_of(model):
    plain = copy.deepcopy(model)
    for layer in adapted_layers(plain).values():
        layer.weight.data += sum(lora.matrix() for lora in layer.working())
    set_active(plain)
    return plain


def test_disabled_is_the_base_until_the_block_ends(make_model):
    base = make_model()(TOKENS)
    model = adapted(make_model)
    tuned = model(TOKENS)
    with pytest.raises(KeyError), disabled(model):
        assert torch.equal(model(TOKENS), base)
        raise KeyError
    assert torch.equal(model(TOKENS), tuned)


def test_only_active_adapters_require_gradients(make_model):
    model = adapted(make_model, "one", "two", targets=("wq",))

    def trained():
        return {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}

    assert trained() == {"two"}
    set_active(model, "one")
    assert trained() == {"one"}
    set_active(model, "one", "two")
    assert trained() == {"one", "two"}
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert n_trained == 2 * 2 * 3 * (32 + 32)  # adapters, layers, rank, in + out
    set_active(model)
    assert trained() == set()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_optimizer_gets_exactly_these(make_model, optimizer):
    model = adapted(make_model, "one", "two", targets=("wq", "w1"))
    groups = make_optimizer(model, TrainConfig(steps=1, warmup_steps=0, optimizer=optimizer)).param_groups
    got = {p for group in groups for p in group["params"]}
    assert got == set(adapter_tensors(model, "two").values())


# Merging


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merging_keeps_the_logits_and_unmerging_gives_back_every_bit(make_model, dtype):
    model = adapted(make_model, "one", "two", n_kv_heads=2, bias=True).to(dtype)
    set_active(model, "one", "two")
    before, tuned = bits(model), model(TOKENS)
    merge(model)
    assert is_merged(model)
    assert not same(bits(model), before)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    assert (model(TOKENS) - tuned).std() < tolerance * tuned.std()
    assert not any(p.requires_grad for p in model.parameters())
    unmerge(model)
    assert same(bits(model), before)
    assert torch.equal(model(TOKENS), tuned)


def test_to_subtract_would_not_give_back_every_bit():
    """Why the former matrices are kept."""
    w, update = torch.randn(64, 64), torch.randn(64, 64)
    assert not torch.equal(w + update - update, w)


def test_nothing_else_is_possible_while_merged(make_model):
    model = adapted(make_model, "one", "two")
    merge(model)
    for act in (
        lambda: merge(model),
        lambda: set_active(model, "one"),
        lambda: add_adapter(model, "three", LoRAConfig()),
        lambda: remove_adapter(model, "one"),
    ):
        with pytest.raises(ValueError, match="while adapters are merged"):
            act()
    unmerge(model)
    with pytest.raises(ValueError, match="no adapters are merged"):
        unmerge(model)
    set_active(model)
    with pytest.raises(ValueError, match="no adapter is active"):
        merge(model)


def test_what_remains_after_unloading_is_a_plain_model(make_model, tmp_path):
    model = adapted(make_model, "one", "two")
    tuned = model(TOKENS)
    merge_and_unload(model)
    assert not adapters(model)
    assert list(model.state_dict()) == list(make_model().state_dict())
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(TOKENS), tuned, atol=1e-4, rtol=0)
    save(model, tmp_path / "plain", format="huggingface")
    assert torch.equal(load(tmp_path / "plain")[0](TOKENS), model(TOKENS))


@pytest.mark.parametrize("format", ["huggingface", "meta", "native"])
def test_a_merged_model_is_saved_as_a_plain_one(make_model, tmp_path, format):
    model = adapted(make_model)
    if format != "native":
        with pytest.raises(ValueError, match=r"no place for adapters \(one\)"):
            save(model, tmp_path / "model", format=format)
    merge(model)
    save(model, tmp_path / "model", format=format)
    loaded, _ = load(tmp_path / "model")
    assert not adapters(loaded)
    assert torch.equal(loaded(TOKENS), model(TOKENS))


# The rest of the package


def test_generation_with_a_cache_equals_the_whole_model(make_model):
    model = adapted(make_model, "one", n_kv_heads=2)
    tokens = TOKENS[0].tolist()
    (out,) = generate(model, None, [tokens], max_new_tokens=6)
    for token in out.tokens:
        assert token == int(model(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(token)
    with disabled(model):
        assert generate(model, None, [TOKENS[0].tolist()], max_new_tokens=6)[0].tokens != out.tokens


def test_compiled_code_notices_adapters_that_come_later(make_model):
    model = make_model(n_layers=1)
    step = torch.compile(lambda model, x: model(x), backend="eager")
    with torch.no_grad():
        for act in (
            lambda: None,
            lambda: (add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq",))), fill(model, "one")),
            lambda: set_active(model),
            lambda: set_active(model, "one"),
            lambda: merge(model),
            lambda: unmerge(model),
            lambda: remove_adapter(model, "one"),
        ):
            act()
            torch.testing.assert_close(step(model, TOKENS), model(TOKENS))


def train(model, folder, steps, **changes):
    options = {"batch_size": 4, "seq_len": 8, "warmup_steps": 1, "lr": 0.02, "snapshot_every": 5, "schedule": "linear"}
    tokens = np.arange(400) * 7 % 61
    trainer = Trainer(model, tokens, TrainConfig(steps=20, **(options | changes)), out=folder)
    trainer.resume()
    losses = []
    for metrics in trainer.run():
        losses.append(metrics["loss"])
        trainer.stop_requested = metrics["step"] == steps
    return losses


def fresh(make_model, **changes):
    model = make_model(n_layers=1)
    settings = {"rank": 2, "dropout": 0.1, "targets": ("wq", "w2")} | changes
    add_adapter(model, "one", LoRAConfig(**settings))
    return model


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"activation_checkpointing": True}], ids=str)
def test_training_an_adapter_resumes_bit_by_bit(make_model, tmp_path, changes):
    model = fresh(make_model)
    before, first = bits(model), {name: t.detach().clone() for name, t in adapter_tensors(model, "one").items()}
    torch.manual_seed(0)
    losses = train(model, tmp_path / "whole", 20, **changes)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert same(bits(model), before)
    assert not any(torch.equal(t, first[name]) for name, t in adapter_tensors(model, "one").items())

    torch.manual_seed(0)
    halves = train(fresh(make_model), tmp_path / "halves", 8, **changes)
    torch.manual_seed(99)
    resumed = fresh(make_model)
    halves += train(resumed, tmp_path / "halves", 20, **changes)
    assert halves == losses
    assert same(adapter_tensors(resumed, "one"), adapter_tensors(model, "one"))


def test_a_run_of_an_adapter_goes_back_to_its_own_snapshot(make_model, tmp_path):
    """Frozen weights have no place in the optimizer: neither when it is saved nor when it is loaded."""
    model = fresh(make_model)
    config = TrainConfig(steps=4, batch_size=4, seq_len=8, warmup_steps=1, snapshot_every=2)
    trainer = Trainer(model, np.arange(400) * 7 % 61, config, out=tmp_path)
    list(trainer.run())
    trained = {name: t.detach().clone() for name, t in adapter_tensors(model, "one").items()}
    fill(model, "one")
    assert trainer.resume()
    assert same(adapter_tensors(model, "one"), trained)
    assert set(trainer.optimizer.state) == set(adapter_tensors(model, "one").values())


def test_dropout_is_at_work_in_training_alone(make_model, tmp_path):
    """Also of a model that was loaded to be used, whose dropout is off."""
    runs = {}
    for dropout in (0.0, 0.5):
        for seed in (0, 1):
            model = fresh(make_model, dropout=dropout)
            torch.manual_seed(seed)
            runs[dropout, seed] = train(model, tmp_path / f"{dropout}-{seed}", 4)
            assert not any(module.training for module in model.modules())
    assert runs[0.0, 0] == runs[0.0, 1]
    assert runs[0.5, 0] != runs[0.5, 1]


def test_a_snapshot_is_a_model_with_its_adapter(make_model, tmp_path):
    model = fresh(make_model)
    train(model, tmp_path, 5)
    loaded, _ = load(tmp_path)
    assert adapters(loaded) == adapters(model)
    assert torch.equal(loaded(TOKENS), model.eval()(TOKENS))
    add_adapter(model, "two", LoRAConfig())
    set_active(model, "one")
    save(model, tmp_path / "saved")
    again, _ = load(tmp_path / "saved")
    assert (list(adapters(again)), active_adapters(again)) == (["one", "two"], ("one",))
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_a_run_does_not_go_on_with_another_adapter(make_model, tmp_path):
    train(fresh(make_model), tmp_path, 2)
    with pytest.raises(ValueError, match="adapters was"):
        train(fresh(make_model, alpha=3.0), tmp_path, 5)


def test_a_merged_adapter_does_not_train(make_model, tmp_path):
    model = fresh(make_model)
    merge(model)
    with pytest.raises(ValueError, match="no weight of the model may change"):
        train(model, tmp_path, 2)


# Folders


@pytest.mark.parametrize("format", ["native", "peft"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_adapter_comes_back(make_model, tmp_path, format, dtype):
    model = adapted(make_model, "chat", "other", n_kv_heads=2, bias=True)
    set_active(model, "chat")
    save_adapter(model, tmp_path / "chat", "chat", format=format, dtype=dtype)
    fresh = make_model(n_kv_heads=2, bias=True)
    assert load_adapter(fresh, tmp_path / "chat") == "chat"
    assert set(adapter_tensors(fresh, "chat")) == set(adapter_tensors(model, "chat"))
    if dtype is None:
        assert same(adapter_tensors(fresh, "chat"), adapter_tensors(model, "chat"))
        assert torch.equal(fresh(TOKENS), model(TOKENS))
    torch.testing.assert_close(fresh(TOKENS), model(TOKENS), atol=0.2, rtol=0)


def test_an_adapter_in_float64_loses_no_bit(make_model, tmp_path):
    model = adapted(make_model).double()
    for tensor in adapter_tensors(model, "one").values():
        tensor.data /= 3
    save_adapter(model, tmp_path / "one")
    fresh = make_model().double()
    load_adapter(fresh, tmp_path / "one")
    assert same(adapter_tensors(fresh, "one"), adapter_tensors(model, "one"))


def test_the_configuration_comes_back(make_model, tmp_path):
    config = LoRAConfig(rank=3, alpha=2.5, dropout=0.25, rank_stabilized=True, targets=("layers.1.attention.wo", "w1"))
    for format in ("native", "peft"):
        model = make_model()
        add_adapter(model, "one", config)
        save_adapter(model, tmp_path / format, format=format)
        fresh = make_model()
        load_adapter(fresh, tmp_path / format, "two")
        assert list(adapters(fresh)) == ["two"]
        values, wanted = adapters(fresh)["two"].to_dict(), config.to_dict()
        assert set(values.pop("targets")) == set(wanted.pop("targets"))
        assert values == wanted


@pytest.mark.parametrize("format", ["native", "peft"])
def test_another_base_is_refused_and_stays_as_it_was(make_model, tmp_path, format):
    save_adapter(adapted(make_model), tmp_path / "one", format=format)
    other = make_model(seed=1)
    before = other.state_dict()
    with pytest.raises(ValueError, match="trained on another base model"):
        load_adapter(other, tmp_path / "one")
    assert list(other.state_dict()) == list(before)
    assert all(p.requires_grad for p in other.parameters())


def test_the_checksum_is_that_of_the_base_in_any_precision(make_model, tmp_path):
    plain = make_model()
    checksum = base_checksum(plain)
    assert base_checksum(copy.deepcopy(plain).bfloat16()) == checksum
    assert base_checksum(copy.deepcopy(plain).double()) == checksum
    save(plain, tmp_path / "model", format="huggingface")
    assert base_checksum(load(tmp_path / "model")[0]) == checksum
    model = adapted(make_model)
    assert base_checksum(model) == checksum
    merge(model)
    assert base_checksum(model) == checksum
    merge_and_unload(model)
    assert base_checksum(model) != checksum
    with torch.no_grad():
        plain.norm.weight[3] += 0.1
    assert base_checksum(plain) != checksum


def test_an_adapter_that_is_merged_can_be_saved(make_model, tmp_path):
    model = adapted(make_model)
    tuned = model(TOKENS)
    merge(model)
    save_adapter(model, tmp_path / "one")
    fresh = make_model()
    load_adapter(fresh, tmp_path / "one")
    assert torch.equal(fresh(TOKENS), tuned)


def test_saving_replaces_an_adapter_of_the_other_format_and_nothing_else(make_model, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    save_adapter(adapted(make_model), tmp_path, format="native")
    save_adapter(adapted(make_model), tmp_path, format="peft")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"note.txt", "adapter_config.json", "adapter_model.safetensors"}


def test_saving_fails_before_anything_is_written(make_model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is no folder"):
        save_adapter(adapted(make_model), tmp_path / "file")
    with pytest.raises(ValueError, match="'' is no folder"):
        save_adapter(adapted(make_model), "")
    for model, options, message in (
        (make_model(), {}, "0 adapters"),
        (adapted(make_model, "one", "two"), {}, r"2 adapters \(one, two\)"),
        (adapted(make_model), {"name": "two"}, "no adapter 'two'; it has one"),
        (adapted(make_model), {"format": "onnx"}, "'onnx' is not one of"),
        (adapted(make_model, targets=("wq",), ffn="gelu"), {"format": "peft"}, "ffn='gelu'; save with format='native'"),
        (adapted(make_model).to("meta"), {}, "meta device"),
    ):
        with pytest.raises(ValueError, match=message):
            save_adapter(model, tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()


def test_a_model_that_transformers_does_not_know_has_the_native_format(make_model, tmp_path):
    model = adapted(make_model, targets=("w2",), ffn="gelu")
    save_adapter(model, tmp_path / "one")
    assert (tmp_path / "one" / "adapter.json").exists()
    fresh = make_model(ffn="gelu")
    load_adapter(fresh, tmp_path / "one")
    assert torch.equal(fresh(TOKENS), model(TOKENS))


def test_load_takes_an_adapter(make_model, tmp_path):
    model = adapted(make_model)
    save(make_model(), tmp_path / "model")
    save_adapter(model, tmp_path / "model" / "adapters" / "chat")
    save_adapter(model, tmp_path / "elsewhere")
    for adapter in ("chat", tmp_path / "elsewhere", str(tmp_path / "elsewhere")):
        loaded, _ = load(tmp_path / "model", adapter=adapter)
        assert not loaded.training
        assert torch.equal(loaded(TOKENS), model(TOKENS))
    with pytest.raises(FileNotFoundError, match="own adapters there are: chat"):
        load(tmp_path / "model", adapter="nothing")


def test_an_adapter_of_the_course_model_is_small(tmp_path):
    model, _ = load("course", dtype="float32")
    add_adapter(model, "all", LoRAConfig(rank=8, targets=ALL[:-1]))
    add_adapter(model, "attention", LoRAConfig(rank=8, targets=ALL[:4]))
    save_adapter(model, tmp_path / "all", "all", dtype="bfloat16")
    save_adapter(model, tmp_path / "attention", "attention")
    for folder in tmp_path.iterdir():
        assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    in_bf16, _ = load("course", adapter=tmp_path / "all")
    assert active_adapters(in_bf16) == ("all",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "adapter.safetensors").write_bytes(b"12345678"), "not a whole safetensors file"),
        (lambda folder: (folder / "adapter.json").unlink(), "is it the folder of an adapter"),
        (lambda folder: (folder / "adapter.json").write_text("["), "not valid JSON"),
        (lambda folder: (folder / "adapter.json").write_text('{"rank": 0}'), "rank=0"),
        (lambda folder: (folder / "adapter.json").write_text('{"size": 0}'), "size"),
        (lambda folder: (folder / "adapter.json").write_text('{"rank": 4, "targets": ["wq"]}'), "has shape"),
        (lambda folder: (folder / "adapter.json").write_text('{"rank": 3, "targets": ["wq", "wk"]}'), "lacks"),
        (lambda folder: (folder / "adapter.json").write_text('{"rank": 3, "targets": ["wv"]}'), "has unknown"),
    ],
)
def test_a_damaged_folder_is_refused(make_model, tmp_path, damage, message):
    save_adapter(adapted(make_model, targets=("wq",)), tmp_path / "one", format="native")
    damage(tmp_path / "one")
    model = make_model()
    with pytest.raises(ValueError, match=message):
        load_adapter(model, tmp_path / "one")
    assert not adapters(model)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_adapter(model, tmp_path / "two")
