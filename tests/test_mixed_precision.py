"""Numbers in few bits: every pattern and a million numbers against PyTorch's casts, and the scaler against its own."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate
from llama_minimal.mixed_precision import Float8Linear, keep_layers_in_float8, round_stochastically, store_float8
from llama_minimal.model import build
from llama_minimal.reference import decode_float, encode_float, round_float
from llama_minimal.reference import store_float8 as store_float8_by_hand
from llama_minimal.reference.mixed_precision import FLOAT_FORMATS, LossScaler, float_format
from llama_minimal.settings import GREEDY

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
SHORT = [name for name in DTYPES if name != "fp32"]
# PyTorch 2.13's cast to e4m3 gives the largest number for what is too large; before, NaN.
SATURATES = bool(torch.tensor(1e4).to(torch.float8_e4m3fn).float() == 448)
every_format = pytest.mark.parametrize("name", DTYPES)
every_short_format = pytest.mark.parametrize("name", SHORT)


def of_torch(patterns, name):
    """What PyTorch takes patterns for, as float32."""
    return torch.from_numpy(patterns).view(DTYPES[name]).float().numpy()


def cast_by_torch(x, name):
    return torch.from_numpy(x).to(DTYPES[name]).float().numpy()


def all_patterns(name):
    form = float_format(name)
    return np.arange(2**form.bits).astype(form.dtype)


@every_short_format
def test_every_pattern_stands_for_the_number_that_pytorch_reads(name):
    patterns = all_patterns(name)
    mine, theirs = decode_float(patterns, name), of_torch(patterns, name)
    assert mine.dtype == np.float32
    np.testing.assert_array_equal(mine, theirs)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.signbit(mine[finite]), np.signbit(theirs[finite]))  # of zeros, too


@every_short_format
def test_every_number_of_a_format_keeps_its_pattern(name):
    patterns = all_patterns(name)
    numbers = decode_float(patterns, name)
    kept = ~np.isnan(numbers)
    np.testing.assert_array_equal(encode_float(numbers[kept], name), patterns[kept])
    assert np.isnan(decode_float(encode_float(numbers[~kept], name), name)).all()


@every_format
def test_the_ends_of_a_format_are_pytorchs(name):
    form, info = float_format(name), torch.finfo(DTYPES[name])
    assert form.largest == info.max
    assert form.smallest_normal == info.smallest_normal
    assert decode_float(np.array([1]), name) == form.smallest == info.smallest_normal * info.eps
    assert decode_float(np.array([form.largest_pattern]), name) == form.largest


def a_million_floats():
    """Of all sizes, with subnormals, with what lies half way between two numbers of a format, and beyond its ends."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)  # with infinities and NaN
    sizes = (rng.normal(size=300_000) * 2.0 ** rng.integers(-30, 20, 300_000)).astype(np.float32)
    parts = [bits, sizes]
    for name in SHORT:
        numbers = decode_float(all_patterns(name), name)
        numbers = np.sort(numbers[np.isfinite(numbers)]).astype(np.float64)
        ties = ((numbers[:-1] + numbers[1:]) / 2).astype(np.float32)
        parts += [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
        largest = np.float32(float_format(name).largest)
        beyond = largest * np.linspace(1, 1.2 if name != "bf16" else 1.003, 1000, dtype=np.float32)
        parts += [beyond, -beyond]
    parts.append(np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype=np.float32))
    return np.concatenate(parts)


@every_format
def test_a_million_numbers_are_rounded_as_pytorch_does(name):
    x = a_million_floats()
    assert len(x) > 1_000_000
    mine, theirs = decode_float(encode_float(x, name), name), cast_by_torch(x, name)
    if name == "fp8_e4m3" and not SATURATES:
        theirs = np.where(np.isnan(theirs) & ~np.isnan(x), np.copysign(np.float32(448), x), theirs)
    np.testing.assert_array_equal(mine, theirs)
    zero = mine == 0
    np.testing.assert_array_equal(np.signbit(mine[zero]), np.signbit(theirs[zero]))


def test_float64_is_rounded_once():
    """NumPy rounds float64 to half at once; by way of float32 this number would be a tie, and go down."""
    x = np.array([1 + 2**-11 + 2**-40, 1 + 3 * 2**-11 - 2**-40])
    for name, dtype in (("fp16", np.float16), ("fp32", np.float32)):
        np.testing.assert_array_equal(round_float(x, name), x.astype(dtype).astype(np.float64))
    assert round_float(x, "fp16")[0] == 1 + 2**-10
    wide = np.random.default_rng(1).normal(size=100_000) * 2.0 ** np.random.default_rng(2).integers(-160, 130, 100_000)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(round_float(wide, "fp32"), wide.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_keep_their_dtype(dtype):
    x = np.array([[1.0, 60000.0]], dtype=dtype)
    assert round_float(x, "fp32").dtype == dtype
    np.testing.assert_array_equal(round_float(x, "fp32"), x)
    assert encode_float(x, "fp8_e5m2").dtype == np.uint8


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="no float format 'fp4'; there are: fp32, fp16, bf16, fp8_e4m3, fp8_e5m2"):
        encode_float(np.ones(1), "fp4")


# Stochastic rounding

DRAWS = 40_000


def between_neighbors(name):
    """One number in each of several places, with the neighbors in the format below and above it."""
    form = float_format(name)
    places = [form.smallest / 3, form.smallest_normal * 0.7, 0.1, -0.1, 1.001, -3.3, form.largest * 0.99]
    numbers = np.sort(decode_float(all_patterns(name), name))
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    for x in map(np.float32, places):
        above = np.searchsorted(numbers, x, side="right")
        yield x, numbers[above - 1], numbers[above]


def check_unbiased(rounded, x, low, high):
    """The mean of n draws of a two-valued number is within 5 of its deviations, √(p(1 − p)/n)·(high − low), of x.

    A false alarm has a probability of 6e-7 per number; with the seed fixed, none.
    """
    rounded = np.asarray(rounded, dtype=np.float64)
    assert set(np.unique(rounded)) <= {low, high}
    p = (float(x) - low) / (high - low)
    assert abs(rounded.mean() - float(x)) <= 5 * math.sqrt(p * (1 - p) / len(rounded)) * (high - low) + 1e-300


@every_short_format
def test_stochastic_rounding_is_right_on_average(name):
    rng = np.random.default_rng(3)
    for x, low, high in between_neighbors(name):
        check_unbiased(round_float(np.full(DRAWS, x), name, rng=rng), x, low, high)


def test_stochastic_rounding_in_pytorch_is_right_on_average():
    generator = torch.Generator().manual_seed(0)
    for x, low, high in between_neighbors("bf16"):
        rounded = round_stochastically(torch.full((DRAWS,), float(x)), generator)
        assert rounded.dtype == torch.bfloat16
        check_unbiased(rounded.double().numpy(), x, low, high)


def test_what_needs_no_rounding_is_left_alone():
    exact = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, torch.finfo(torch.bfloat16).max]
    for _ in range(20):
        assert round_stochastically(torch.tensor(exact)).tolist() == exact
        assert round_float(np.array(exact), "bf16", rng=np.random.default_rng()).tolist() == exact
    assert round_stochastically(torch.tensor([math.nan])).isnan().all()
    assert np.isnan(round_float(np.array([np.nan]), "bf16", rng=np.random.default_rng(0))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64])
def test_what_is_rounded_by_its_bits_must_be_float32(dtype):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"x is {name}, .* float32: give x\.float\(\)"):
        round_stochastically(torch.ones(4, dtype=dtype))


def test_a_format_that_is_none_of_eight_bits_and_numbers_that_cannot_be_infinite_are_refused():
    for dtype in (torch.int8, torch.float16):
        with pytest.raises(ValueError, match="is not one of float8_e4m3fn, float8_e5m2"):
            store_float8(torch.ones(2, 2), dtype)
    with pytest.raises(ValueError, match=r"x is int64, .* give floats"):
        round_float(np.array([100_000]), "fp16")


def test_a_sum_of_small_updates_arrives_only_by_chance():
    """Of 1,000 times 0.001, nearest rounding keeps 0.5 in bfloat16; stochastic rounding about all."""
    rng = np.random.default_rng(0)
    nearest, by_chance = np.zeros(1, np.float32), np.zeros(400, np.float32)
    for _ in range(1000):
        nearest = round_float(nearest + np.float32(0.001), "bf16")
        by_chance = round_float(by_chance + np.float32(0.001), "bf16", rng=rng)
    assert nearest[0] == 0.5
    # Each step's variance is below (spacing / 2)² = (2⁻⁸ / 2)², so the mean of 400 sums deviates by less than 0.0031.
    assert abs(by_chance.mean() - 1) < 5 * math.sqrt(1000 / 400) * 2**-9


# Loss scaling


def steps_of_both(scaler, mine, *, n_steps=200):
    """Train the same weights with PyTorch's scaler and ours on the same half-precision gradients."""
    rng = np.random.default_rng(4)
    start = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
    theirs = {name: torch.nn.Parameter(torch.from_numpy(w.copy())) for name, w in start.items()}
    optimizer = torch.optim.SGD(theirs.values(), lr=0.125)  # a power of two: both round once
    weights, skipped = start, []
    for step in range(n_steps):
        scaler.scale(torch.zeros(1))  # makes PyTorch's state
        assert scaler.get_scale() == mine.scale
        of_loss = {name: rng.normal(size=w.shape) * 10.0 ** rng.uniform(-6, 1) for name, w in weights.items()}
        with np.errstate(over="ignore"):  # the backward pass of a scaled loss, which may overflow in float16
            scaled = {name: np.float32(np.float16(grad * mine.scale)) for name, grad in of_loss.items()}
        if step % 37 == 36:
            scaled["b"][2] = np.nan
        for name, parameter in theirs.items():
            parameter.grad = torch.from_numpy(scaled[name].copy())
        before = [parameter.detach().clone() for parameter in theirs.values()]
        scaler.step(optimizer)
        scaler.update()
        grads, finite = mine.unscale(scaled)
        mine.update(finite=finite)
        if finite:
            weights = {name: w - np.float32(0.125) * grads[name] for name, w in weights.items()}
        stayed = all(torch.equal(a, b) for a, b in zip(before, theirs.values(), strict=True))
        assert stayed is not finite
        skipped.append(stayed)
        state = scaler.state_dict()
        assert (state["scale"], state["_growth_tracker"]) == (mine.scale, mine.good_steps)
        for name, parameter in theirs.items():
            np.testing.assert_array_equal(parameter.detach().numpy(), weights[name])
    return skipped


@pytest.mark.parametrize(("growth", "backoff", "interval"), [(2.0, 0.5, 3), (4.0, 0.25, 7), (2.0, 0.5, 2000)])
def test_the_scaler_is_pytorchs_over_200_steps(growth, backoff, interval):
    scaler = torch.amp.GradScaler("cpu", growth_factor=growth, backoff_factor=backoff, growth_interval=interval)
    mine = LossScaler(growth=growth, backoff=backoff, interval=interval)
    skipped = steps_of_both(scaler, mine)
    assert mine.skipped == sum(skipped)
    assert 5 <= sum(skipped) < 150
    assert interval == 2000 or any(before and not after for before, after in pairwise(skipped))


def test_the_scale_stays_finite():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1)
    mine = LossScaler(scale=2.0**126, interval=1)
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(3):
        scaler.scale(torch.zeros(1))
        parameter.grad = torch.ones(2)
        scaler.step(optimizer)
        scaler.update()
        mine.update(finite=True)
        assert scaler.get_scale() == mine.scale
    assert mine.scale == 2.0**127


def test_gradients_survive_the_scaling_that_float16_would_lose():
    tiny = np.full(4, 1e-8)
    assert not np.float16(tiny).any()
    scaled = np.float32(np.float16(tiny * LossScaler().scale))
    grads, finite = LossScaler().unscale({"w": scaled})
    assert finite
    assert grads["w"].dtype == np.float32
    np.testing.assert_allclose(grads["w"], tiny, rtol=2**-10)


# Weights in 8 bits


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_a_matrix_in_8_bits_is_the_same_in_numpy_and_pytorch(name):
    w = (np.random.default_rng(5).normal(size=(6, 32)) * 10.0 ** np.arange(-4, 2)[:, None]).astype(np.float32)
    w[2] = 0
    patterns, scale = store_float8_by_hand(w, name)
    values, of_torch = store_float8(torch.from_numpy(w), DTYPES[name])
    assert scale.shape == (6, 1)
    np.testing.assert_array_equal(scale, of_torch)
    np.testing.assert_array_equal(patterns, values.view(torch.uint8))
    back = decode_float(patterns, name) * scale
    assert not back[2].any()
    # Half a unit in the last place of the fraction, relative; near zero, half the smallest number.
    form = FLOAT_FORMATS[name]
    assert (np.abs(back - w) <= np.abs(w) * 2.0 ** -(form.fraction_bits + 1) * 1.0001 + scale * form.smallest).all()
    np.testing.assert_allclose(np.abs(back).max(axis=1), np.abs(w).max(axis=1), rtol=1e-6)


def small_model(**changes):
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50, "hidden_dim": 48}
    return build(LlamaConfig(**(shape | {"max_seq_len": 32} | changes)), seed=1)


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"tie_embeddings": True}, {"share_layers": 2}], ids=str)
def test_a_model_with_layers_in_8_bits_computes_with_the_decoded_weights(changes):
    model, twin = small_model(**changes), small_model(**changes)
    keep_layers_in_float8(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name.startswith("layers.") and parameter.ndim == 2:
                values, scale = store_float8(parameter)
                parameter.copy_(values.float() * scale)
        tokens = torch.arange(12).view(1, 12)
        torch.testing.assert_close(model(tokens), twin(tokens), rtol=1e-5, atol=1e-6)
    kept = [module for module in model.modules() if isinstance(module, Float8Linear)]
    assert len(kept) == 7 * (2 // changes.get("share_layers", 1))
    assert {module.patterns.element_size() for module in kept} == {1}
    assert (model.output.weight is model.tok_embeddings.weight) is model.config.tie_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cast_of_the_model_leaves_the_8_bits_alone(dtype):
    weight, bias = torch.randn(8, 16), torch.randn(8)
    layer = Float8Linear(weight, bias)
    before = layer.patterns.clone()
    layer.to(dtype)
    assert torch.equal(layer.patterns, before)
    assert set(layer.state_dict()) == {"patterns", "scale", "bias"}
    assert not list(layer.parameters())
    x = torch.randn(3, 16)
    values, scale = store_float8(weight)
    expected = F.linear(x, values.float() * scale, bias)
    out = layer(x.to(dtype))
    assert out.dtype == dtype
    # Inputs, weights and output are rounded, each by 0.4 % at most, and 16 products of size 1 added.
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.1 if dtype != torch.float32 else 1e-5)


def test_a_half_model_is_stored_as_well_as_a_full_one():
    weight = torch.randn(8, 16).bfloat16()
    (values, scale), (wide, wide_scale) = store_float8(weight), store_float8(weight.float())
    assert scale.dtype == torch.float32
    assert torch.equal(values.view(torch.uint8), wide.view(torch.uint8))
    assert torch.equal(scale, wide_scale)


def test_a_model_with_layers_in_8_bits_writes():
    model = keep_layers_in_float8(small_model())
    prompt = [[1, 2, 3]]
    written = generate(model, None, prompt, max_new_tokens=6, sampling=GREEDY, stop_ids=[])[0].tokens
    ids = list(prompt[0])
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert written == ids[3:]
