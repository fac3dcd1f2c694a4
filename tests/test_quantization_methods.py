"""Rounding by what layers read: against NumPy, brute force and PyTorch's own; whole models, saved, trained, refused."""

import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llama_minimal import reference
from llama_minimal.calibration import hessians, input_sizes
from llama_minimal.checkpoint import load, save
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig
from llama_minimal.data.valley import stories as valley_stories
from llama_minimal.generation import generate
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.model import build
from llama_minimal.observing import watching
from llama_minimal.quantization import (
    Int8DynamicLinear,
    awq,
    dynamic_linear,
    from_codes,
    int_product,
    outliers,
    quantization_of,
    quantize,
    quantized_layers,
    round_to_grid,
    round_weights,
    second_moment,
    symmetric_grid,
    to_codes,
)
from llama_minimal.quantization.awq import scales_of
from llama_minimal.quantization.folding import folds_of
from llama_minimal.run_folder import remove_snapshot
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer
from tests.tiny_models import draw_model

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])
MANY = torch.randint(61, (6, 32), generator=torch.Generator().manual_seed(0))
matrices = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 11)), elements=st.floats(-1e3, 1e3, width=32)
)


def correlated(n, n_in, seed=0):
    """Vectors whose features are of very different sizes, and go together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, n_in)) @ rng.standard_normal((n_in, n_in))
    return x * np.exp(1.5 * rng.standard_normal(n_in))


def draw(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


# Rounding to any number of bits


@given(matrices, st.integers(2, 8), st.sampled_from([None, "row", "tensor", 2, 4]), st.booleans(), st.data())
def test_round_to_grid_is_numpys(w, bits, group_size, symmetric, data):
    keep = data.draw(st.none() | st.lists(st.booleans(), min_size=w.shape[1], max_size=w.shape[1]).map(np.array))
    options = {"group_size": group_size, "symmetric": symmetric}
    ours = round_to_grid(torch.from_numpy(w), bits, keep=None if keep is None else torch.from_numpy(keep), **options)
    np.testing.assert_array_equal(ours, reference.round_to_grid(w, bits, keep=keep, **options))
    if keep is not None:
        np.testing.assert_array_equal(ours[:, keep], w[:, keep])
        assert ours.equal(
            round_to_grid(torch.from_numpy(w), bits, keep=torch.from_numpy(keep).nonzero()[:, 0], **options)
        )


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_round_to_grid_is_pytorchs_fake_quantization(bits):
    """Compare per row, where both have a float32 step and a zero point."""
    w = torch.from_numpy(draw(5, 40)).float()
    low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale)
    theirs = torch.fake_quantize_per_channel_affine(w, scale, zero.int(), 0, 0, 2**bits - 1)
    torch.testing.assert_close(round_to_grid(w, bits), theirs, rtol=0, atol=1e-6)


@given(matrices, st.integers(2, 4), st.sampled_from([2, 3, 5]))
def test_a_group_has_as_many_numbers_as_its_bits_allow(w, bits, group):
    rounded = round_to_grid(torch.from_numpy(w), bits, group_size=group)
    for part in rounded.split(group, dim=1):
        assert all(len(row.unique()) <= 2**bits for row in part)


def test_an_outlying_column_spoils_a_whole_matrix_unless_it_is_kept():
    w = torch.from_numpy(draw(32, 64))
    w[:, 7] *= 100
    others = torch.arange(64) != 7

    def error(**options):
        return (round_to_grid(w, 8, symmetric=True, **options) - w)[:, others].square().mean().item()

    kept, whole = error(group_size="tensor", keep=[7]), error(group_size="tensor")
    assert error(keep=[7]) < kept < 1e-3 * whole
    assert round_to_grid(w, 8, group_size="tensor", keep=[7])[:, 7].equal(w[:, 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 9}, "bits=9"),
        ({"bits": 1, "symmetric": True}, "bits=1"),
        ({"group_size": 1}, "group_size=1"),
        ({"group_size": "column"}, "group_size='column'"),
        ({"keep": [9]}, r"keep=\[9\]"),
        ({"keep": torch.ones(3, dtype=torch.bool)}, "mask of shape"),
    ],
)
def test_rounding_refuses_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        round_to_grid(torch.ones(2, 8), **({"bits": 4} | options))


# AWQ


@pytest.mark.parametrize("group_size", [None, 5])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_awq_is_numpys_and_the_best_of_its_powers(bits, group_size):
    """Brute force: the error of every power, by the outputs themselves."""
    x, w = correlated(50, 12), draw(6, 12)
    sizes = np.abs(x).mean(0)
    hessian = second_moment(torch.from_numpy(x))
    ours, s = awq(torch.from_numpy(w), hessian, torch.from_numpy(sizes), bits, group_size=group_size)
    theirs, same = reference.awq(w, hessian.numpy(), sizes, bits, group_size=group_size)
    np.testing.assert_allclose(s, same, rtol=1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    errors = []
    for power in np.arange(20) / 20:
        scale = (sizes / sizes.mean()) ** power
        scale /= np.sqrt(scale.max() * scale.min())
        rounded = reference.round_to_grid(w * scale, bits, group_size=group_size)
        errors.append(np.square((x / scale) @ rounded.T - x @ w.T).mean())
    found = np.square((x / s.numpy()) @ ours.numpy().T - x @ w.T).mean()
    np.testing.assert_allclose(found, min(errors), rtol=1e-9)
    assert found < 0.8 * errors[0], "that of rounding to the nearest"


def test_awq_enlarges_what_large_inputs_meet():
    sizes = torch.tensor([1.0, 10.0, 100.0, 0.0])
    assert scales_of(sizes, 0).eq(1).all()
    s = scales_of(sizes, 0.5)
    torch.testing.assert_close(s[1] / s[0], torch.tensor(10.0).sqrt())
    assert s.isfinite().all()
    torch.testing.assert_close(s.max() * s.min(), torch.tensor(1.0))
    assert scales_of(torch.zeros(3), 0.5).isfinite().all()
    with pytest.raises(ValueError, match="for the 4 columns"):
        awq(torch.ones(2, 4), torch.eye(3), torch.ones(3), 4)
    with pytest.raises(ValueError, match="n_powers=0"):
        awq(torch.ones(2, 3), torch.eye(3), torch.ones(3), 4, n_powers=0)


def test_folded_scales_change_nothing(switches):
    """Whatever the scales, in every kind of model: they cancel out."""
    model = draw_model(**switches).double()
    with torch.no_grad():
        before = model(TOKENS)
        kinds = []
        for block in model.blocks():
            for fold in folds_of(block):
                n_in = fold.readers[0].in_features
                s = torch.linspace(0.3, 3.0, n_in, dtype=torch.float64)[torch.randperm(n_in)]
                weights = [reader.weight.clone() for reader in fold.readers]
                fold.apply(fold.shared(s))
                assert not any(reader.weight.equal(w) for reader, w in zip(fold.readers, weights, strict=True))
                kinds.append(len(fold.readers))
        torch.testing.assert_close(model(TOKENS), before, rtol=0, atol=1e-10)
    expected = {"swiglu": 1, "relu": 1, "gelu": 0}[model.config.ffn] + 1 + 2 * (model.config.norm_placement == "pre")
    assert len(kinds) == expected * len(model.blocks())


# Whole numbers on both sides


def quantized(n_out, n_in, seed=2):
    w = torch.from_numpy(draw(n_out, n_in, seed=seed))
    scale = symmetric_grid(w, 8)
    return to_codes(w, scale, bits=8), scale


@pytest.mark.parametrize("threshold", [None, 2.0, 6.0, 1e-9])
@pytest.mark.parametrize("shape", [(1,), (3, 2), (0,), (2, 0)])
def test_dynamic_linear_is_numpys(shape, threshold):
    codes, scale = quantized(7, 33)
    x = 2 * draw(*shape, 33)
    ours = dynamic_linear(torch.from_numpy(x), codes, scale, threshold=threshold)
    theirs = reference.dynamic_linear(x, codes.numpy(), scale.numpy(), threshold=threshold)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(outliers(torch.from_numpy(x), 2.0), reference.outliers(x, 2.0))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 2000))
def test_the_product_of_whole_numbers_is_exact(n, n_out, n_in):
    rng = np.random.default_rng(n_in)
    a, b = rng.integers(-127, 128, (n, n_in), dtype=np.int8), rng.integers(-127, 128, (n_out, n_in), dtype=np.int8)
    ours = int_product(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(ours, a.astype(np.int64) @ b.astype(np.int64).T)


@pytest.mark.parametrize("is_exact", [True, False])
def test_it_is_exact_where_sums_are_largest(is_exact, monkeypatch):
    """On a processor whose own product stops at 2¹⁵, too: there another way is taken."""
    from llama_minimal.quantization import dynamic

    if not is_exact:
        monkeypatch.setattr(dynamic, "_is_exact", lambda: False)
    a = torch.full((2, 3000), 127, dtype=torch.int8)
    a[1] = -127
    assert int_product(a, a).tolist() == [[3000 * 127**2, -3000 * 127**2], [-3000 * 127**2, 3000 * 127**2]]


def test_rounded_inputs_cost_at_most_half_a_step_each():
    codes, scale = quantized(16, 64)
    w = from_codes(codes, scale)
    x = torch.from_numpy(draw(10, 64, seed=5))
    x[:, 3] *= 50  # an outlier widens every token's step
    exact = x @ w.T
    bound = symmetric_grid(x, 8) / 2 * w.abs().sum(1)
    plain = dynamic_linear(x, codes, scale)
    assert ((plain - exact).abs() <= bound).all()
    apart = dynamic_linear(x, codes, scale, threshold=6.0)
    assert (apart - exact).abs().mean() < 0.1 * (plain - exact).abs().mean()
    torch.testing.assert_close(dynamic_linear(x, codes, scale, threshold=1e-9), exact)
    alone = torch.cat([dynamic_linear(row[None], codes, scale, threshold=6.0) for row in x])
    torch.testing.assert_close(apart, alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="threshold=0"):
        dynamic_linear(x, codes, scale, threshold=0)


def test_gradients_pass_rounded_inputs_as_if_they_were_not():
    layer = Int8DynamicLinear.from_weight(torch.randn(8, 16), torch.randn(8), dtype=torch.float32, threshold=2.0)
    x = torch.randn(3, 16, requires_grad=True)
    out = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(out, layer(x))
    out.sum().backward()
    torch.testing.assert_close(x.grad, layer.decode().sum(0).expand(3, -1))


@pytest.mark.parametrize("threshold", [None, 1.5])
def test_a_dynamic_model_is_one_whose_layers_read_rounded_inputs(threshold, switches):
    """Compare with plain layers of the decoded matrices, before which hooks round the inputs."""
    model = quantize(draw_model(**switches), "int8-dynamic", dtype=torch.float64, threshold=threshold)
    plain = draw_model(**switches).double()
    layers = quantized_layers(model)

    def round_input(module, inputs):
        x = inputs[0]
        apart = torch.zeros_like(x) if threshold is None else torch.where(x.abs() >= threshold, x, 0)
        step = (x - apart).abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        return (apart + torch.round((x - apart) / step) * step,)

    with torch.no_grad():
        for name, layer in layers.items():
            plain.get_submodule(name.removesuffix(".table")).weight.copy_(layer.decode())
        expected_hooks = {module: round_input for module in plain.modules() if isinstance(module, torch.nn.Linear)}
        with watching(expected_hooks):
            expected = plain(TOKENS)
        torch.testing.assert_close(model(TOKENS), expected, rtol=1e-8, atol=1e-8)


# Whole models


def test_gptq_goes_block_by_block_behind_what_is_rounded():
    """Do it again with NumPy: every block reads what the rounded model before it gives."""
    model, again = draw_model(n_kv_heads=2).double(), draw_model(n_kv_heads=2).double()
    round_weights(model, 3, method="gptq", calibration=MANY, group_size=5)
    with torch.no_grad():
        for module in (again.tok_embeddings,):
            module.weight.copy_(torch.from_numpy(reference.round_to_grid(module.weight.numpy(), 3, group_size=5)))
        for place in ("layers.0.", "layers.1.", "output"):
            part = {
                name: m for name, m in again.named_modules() if name.startswith(place) and hasattr(m, "in_features")
            }
            seen = {name: [] for name in part}
            hooks = {m: lambda m, inputs, xs=seen[name]: xs.append(inputs[0].flatten(0, 1)) for name, m in part.items()}
            with watching(hooks):
                again(MANY)
            for name, module in part.items():
                x = torch.cat(seen[name]).numpy()
                module.weight.copy_(torch.from_numpy(reference.gptq(module.weight.numpy(), x.T @ x, 3, 5)))
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, again.get_parameter(name), rtol=1e-6, atol=1e-8, msg=name)


def off(model, other, ids):
    """Mean KL divergence of two models' next tokens."""
    with torch.no_grad():
        a, b = model(ids).double().log_softmax(-1), other(ids).double().log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1).mean().item()


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "int8-dynamic"])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_method_works_with_every_scheme_and_is_saved(scheme, method, tmp_path):
    changes = {"dim": 64, "hidden_dim": 96, "n_kv_heads": 2, "tie_embeddings": True}
    original = draw_model(**changes)
    model = quantize(draw_model(**changes), scheme, method=method, calibration=MANY)
    assert {type(layer).scheme for layer in quantized_layers(model).values()} == {scheme}
    assert off(original.bfloat16(), model, MANY) < 0.3
    prompts = [[5, 6, 7], [9]]
    text = [row.tokens for row in generate(model, None, prompts, max_new_tokens=10)]
    save(model, tmp_path / "model")
    again, _ = load(tmp_path / "model")
    assert [row.tokens for row in generate(again, None, prompts, max_new_tokens=10)] == text
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gptq_over_a_model_spoils_less_than_rounding_to_the_nearest(seed):
    """On other text than that of the calibration."""
    more = torch.randint(61, (16, 32), generator=torch.Generator().manual_seed(9))
    found = {}
    for method in ("rtn", "gptq"):
        options = {"skip": ("tok_embeddings", "output"), "calibration": None if method == "rtn" else more}
        model = round_weights(draw_model(seed, hidden_dim=96), 3, method=method, **options)
        found[method] = off(draw_model(seed, hidden_dim=96), model, MANY)
    assert found["gptq"] < 0.9 * found["rtn"]


def test_awq_finds_channels_that_were_made_large():
    """Make some inputs of each layer large and their columns small, which changes nothing; AWQ turns it back."""
    sums = {}
    for seed in range(3):
        for method in ("rtn", "awq"):
            model = draw_model(seed)
            generator = torch.Generator().manual_seed(seed)
            for block in model.blocks():
                for fold in folds_of(block):
                    s = torch.ones(fold.readers[0].in_features)
                    s[torch.randperm(len(s), generator=generator)[:3]] = 1 / 30
                    fold.apply(fold.shared(s))
            round_weights(model, 4, method=method, calibration=None if method == "rtn" else MANY, skip=("output",))
            sums[method] = sums.get(method, 0) + off(draw_model(seed), model, MANY)
    assert sums["awq"] < 0.5 * sums["rtn"]


def test_what_a_bf16_model_has_packed_does_not_matter():
    changes = {"dim": 256, "hidden_dim": 256, "vocab_size": 320}
    models = [draw_model(**changes).bfloat16() for _ in range(2)]
    generate(models[0], None, [[1, 2]], max_new_tokens=4)
    for method in ("gptq", "awq"):
        one, two = (quantize(copy.deepcopy(model), "int4", method=method, calibration=MANY) for model in models)
        assert all(tensor.equal(two.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_an_adapter_stays_where_gptq_goes():
    model = draw_model().double()
    add_adapter(model, "one", LoRAConfig(rank=4, targets=("wq", "w2")))
    quantize(model, "int8", method="gptq", calibration=MANY, dtype="float64")
    assert off(draw_model().double(), model, MANY) < 0.01
    assert {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad} == {"A", "B"}


def test_calibration_looks_at_what_comes():
    model = draw_model().double()
    layers = {"w": model.layers["1"].feed_forward.w2}
    seen = []
    with watching({layers["w"]: lambda module, inputs: seen.append(inputs[0].flatten(0, 1))}), torch.no_grad():
        model(MANY)
    x = torch.cat(seen)
    torch.testing.assert_close(input_sizes(model, MANY, layers)["w"], x.abs().sum(0))
    torch.testing.assert_close(hessians(model, [MANY[:2], MANY[2:]], layers)["w"], x.T @ x)


# Refusals


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: quantize(m, "int4", method="best"), "method='best'"),
        (lambda m: quantize(m, "int4", method="gptq"), "no calibration tokens"),
        (lambda m: quantize(m, "int4", method="awq", calibration=[]), "no calibration tokens"),
        (lambda m: quantize(m, "int4", calibration=MANY), "reads no calibration tokens"),
        (lambda m: quantize(m, "int4", method="gptq", calibration=MANY, group_size=7), "group_size=7"),
        (lambda m: quantize(m, "int4", method="gptq", calibration=torch.full((1, 4), 99)), "token id 99"),
        (lambda m: quantize(m, "int8", method="awq", calibration=[MANY, torch.full((1, 4), 99)]), "token id 99"),
        (lambda m: quantize(m, "int8", threshold=6.0), "rounds none"),
        (lambda m: quantize(m, "int8-dynamic", threshold=-1), "threshold=-1"),
        (lambda m: quantize(m, "int8-dynamic", group_size=16), "leave group_size out"),
        (lambda m: round_weights(m, 9), "bits=9"),
        (lambda m: round_weights(m, 3, method="gptq"), "no calibration tokens"),
        (lambda m: round_weights(m, 3, skip=("w9",)), "'w9'"),
        (lambda m: round_weights(m, 3, group_size="tensor"), "group_size='tensor'"),
        (lambda m: round_weights(m, 3, method="gptq", calibration=MANY[:, :0]), "no calibration tokens"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_changes_nothing(call, message):
    model = draw_model()
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        call(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert all(p.requires_grad for p in model.parameters())


def test_what_is_quantized_or_adapted_is_refused_in_words():
    model = quantize(draw_model(), "int8-dynamic")
    for call in (lambda: quantize(model, "int4", method="gptq", calibration=MANY), lambda: round_weights(model, 3)):
        with pytest.raises(ValueError, match=r"once more.*int8-dynamic"):
            call()
    adapted = draw_model()
    add_adapter(adapted, "one", LoRAConfig(rank=4, targets=("wq",)))
    with pytest.raises(ValueError, match="merge_and_unload"):
        quantize(adapted, "int4", method="awq", calibration=MANY)


def test_a_failure_in_the_middle_leaves_the_model_as_it_was(monkeypatch):
    from llama_minimal.quantization import methods

    model, calls = draw_model(), []
    before = state_of(model)
    real = methods.round_by_columns

    def fail_later(*args, **options):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(methods, "round_by_columns", fail_later)
    with pytest.raises(KeyboardInterrupt):
        quantize(model, "int4", method="gptq", calibration=MANY)
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_config_says_how(tmp_path):
    model = quantize(draw_model(), "int8-dynamic", threshold=4.5, skip=("output",))
    save(model, tmp_path)
    how = quantization_of(load(tmp_path)[0])
    assert (how.scheme, how.threshold, how.group_size, how.skip) == ("int8-dynamic", 4.5, None, ("output",))
    assert "threshold" not in quantization_of(quantize(draw_model(), "int8")).to_dict()


# Training


TEXT = np.arange(600) % 7
RECIPE = {"seq_len": 16, "batch_size": 4, "warmup_steps": 1, "snapshot_every": 5, "lr": 2e-2, "keep_snapshots": 9}


def train(model, out=None, steps=20):
    trainer = Trainer(model, TEXT, TrainConfig(steps=steps, **RECIPE), out=out)
    return trainer, [step["loss"] for step in trainer.run()]


CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=4, vocab_size=61, hidden_dim=48, max_seq_len=32)


def adapted(scheme, dtype="float32"):
    model = quantize(build(CONFIG), scheme, dtype=dtype)
    add_adapter(model, "one", LoRAConfig(rank=4, targets=("wq", "wv", "w1", "output")))
    return model


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "int8-dynamic"])
def test_an_adapter_beside_codes_trains_and_the_codes_stay(scheme):
    model = adapted(scheme)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".adapters." not in name}
    _, losses = train(model)
    assert losses[-1] < 0.3 * losses[0]
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_an_adapter_beside_bf16_codes_trains_after_a_cast():
    model = adapted("int8", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"model\.float\(\)"):
        train(model)
    _, losses = train(model.float())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantized_model_alone_is_not_trained(scheme):
    with pytest.raises(ValueError, match=rf"quantized \({scheme}\).*add_adapter"):
        train(quantize(build(CONFIG), scheme, dtype="float32"))


def test_training_beside_codes_resumes(tmp_path):
    straight, _ = train(adapted("int4"))
    train(adapted("int4"), tmp_path / "run", steps=20)
    for later in ("20", "15"):
        remove_snapshot(tmp_path / "run" / "snapshots" / f"step-000000{later}")
    recipe = TrainConfig(steps=20, **RECIPE)
    trainer = Trainer(adapted("int4"), TEXT, recipe, out=tmp_path / "run")
    assert trainer.resume()
    assert trainer.step == 10
    list(trainer.run())
    for name, tensor in straight.model.state_dict().items():
        assert trainer.model.state_dict()[name].equal(tensor), name
    plain = build(CONFIG)
    add_adapter(plain, "one", LoRAConfig(rank=4, targets=("wq", "wv", "w1", "output")))
    with pytest.raises(ValueError, match=r"quantization was .*int4.*is None"):
        Trainer(plain, TEXT, recipe, out=tmp_path / "run").resume()
    again = load(tmp_path / "run" / "snapshots" / "step-00000020")[0]
    assert quantization_of(again).scheme == "int4"
    assert again(TOKENS).equal(trainer.model(TOKENS))


def test_on_the_command_line_text_makes_rounding_better(tmp_path, capsys):
    stories = {split: "\n".join(one.text() for one in valley_stories(30, split=split)) for split in ("train", "test")}
    for split, text in stories.items():
        (tmp_path / split).with_suffix(".txt").write_text(text)
    losses = {}
    for method in ("rtn", "gptq", "awq"):
        calibration = [] if method == "rtn" else ["--method", method, "--corpus", str(tmp_path / "train.txt")]
        main(["convert", "course", str(tmp_path / method), "--quantize", "int4", *calibration])
        capsys.readouterr()
        main(["evaluate", str(tmp_path / method), "--corpus", str(tmp_path / "test.txt"), "--device", "cpu"])
        losses[method] = float(re.search(r"per token\s+([\d.]+)", capsys.readouterr().out)[1])
    assert losses["gptq"] < losses["rtn"]
    assert losses["awq"] < losses["rtn"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "gptq", "--corpus", "text.txt"], "say to what with --quantize, such as int4"),
        (["--quantize", "int4", "--method", "gptq"], "calibrates on text; name one with --corpus, such as valley"),
        (["--quantize", "int4", "--corpus", "text.txt"], "rtn reads no text, so leave it out"),
        (["--quantize", "int4", "--method", "awq", "--corpus", "text.txt"], "text.txt holds no text"),
        (["--quantize", "int4", "--method", "gptq", "--corpus", "no.txt"], "no.txt"),
    ],
)
def test_odd_wishes_are_refused_and_leave_nothing(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(SystemExit):
        main(["convert", "course", "out", *flags])
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
