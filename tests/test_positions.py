"""Positions: rotations checked with complex numbers, scalings with transformers, tables against every cast."""

import cmath
import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig as HuggingFaceConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama_minimal import reference
from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.model import build
from llama_minimal.positions import apply_rope, rope_frequencies, rope_table, sinusoidal_table

HEAD_DIM, LENGTH = 8, 12
float64 = torch.float64


@pytest.fixture(params=["eager", "compiled"])
def either_arithmetic(request, monkeypatch):
    """Run with complex numbers, as eager PyTorch does, and with real ones, as a compiler does."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param == "compiled")


def draw(*shape, dtype=float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("either_arithmetic")
def test_rope_turns_pair_i_of_token_t_by_t_theta_to_the_minus_2i_over_dh():
    x = draw(2, LENGTH, HEAD_DIM)
    turned = apply_rope(x, *rope_table(HEAD_DIM, LENGTH, 100.0, dtype=float64))
    for t in range(LENGTH):
        for i in range(HEAD_DIM // 2):
            turn = cmath.exp(1j * t * 100.0 ** (-2 * i / HEAD_DIM))
            for row in range(2):
                z = complex(*x[row, t, 2 * i : 2 * i + 2]) * turn
                assert complex(*turned[row, t, 2 * i : 2 * i + 2]) == pytest.approx(z, abs=1e-12)


def test_both_arithmetics_have_the_same_values_and_gradients(monkeypatch):
    q, weight = draw(2, LENGTH, 3, HEAD_DIM), draw(2, LENGTH, 3, HEAD_DIM + 1)[..., :-1]
    cos, sin = (table[:, None] for table in rope_table(HEAD_DIM, LENGTH, dtype=float64))
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        x = q.clone().requires_grad_()
        turned = apply_rope(x, cos, sin)
        results.append((turned, *torch.autograd.grad((turned * weight).sum(), x)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("either_arithmetic")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_turned_in_float32(dtype):
    x = draw(LENGTH, HEAD_DIM).to(dtype)
    turned = apply_rope(x, *rope_table(HEAD_DIM, LENGTH))
    assert turned.dtype == dtype
    exact = apply_rope(x.double(), *rope_table(HEAD_DIM, LENGTH, dtype=float64))
    torch.testing.assert_close(turned, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.usefixtures("either_arithmetic")
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.cat((x, x), -1)[..., HEAD_DIM:],
        lambda x: torch.cat((x[..., :1], x), -1)[..., 1:],
        lambda x: torch.stack((x, x), -1)[..., 0],
    ],
    ids=["tokens first", "half of a wider one", "odd offset", "every other feature"],
)
def test_rope_takes_any_strides(view):
    x, table = draw(3, LENGTH, HEAD_DIM), rope_table(HEAD_DIM, LENGTH, dtype=float64)
    assert not view(x).is_contiguous()
    torch.testing.assert_close(apply_rope(view(x), *table), apply_rope(x, *table))


@given(st.integers(0, 500), st.integers(0, 500), st.integers(-500, 500))
def test_scores_depend_on_the_distance_only(query, key, shift):
    cos, sin = rope_table(HEAD_DIM, 1001, dtype=float64)
    q, k = draw(2, HEAD_DIM)

    def score(m, n):
        return float(apply_rope(q, cos[m], sin[m]) @ apply_rope(k, cos[n], sin[n]))

    shift = max(shift, -min(query, key))
    assert score(query + shift, key + shift) == pytest.approx(score(query, key), abs=1e-9)


def test_distance_matters():
    """Without this, turning nothing would pass the test above."""
    cos, sin = rope_table(HEAD_DIM, LENGTH, dtype=float64)
    q = draw(HEAD_DIM)
    scores = [float(q @ apply_rope(q, cos[t], sin[t])) for t in range(LENGTH)]
    assert max(scores) == scores[0]
    assert len({round(score, 6) for score in scores}) == LENGTH


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(kind="linear", factor=4.0),
        RopeScaling(kind="llama3", factor=8.0),
        RopeScaling(kind="llama3", factor=32.0, low_freq_factor=0.5, high_freq_factor=16.0, original_max_seq_len=512),
    ],
    ids=lambda scaling: f"{scaling.kind}-{scaling.factor:g}",
)
def test_scaled_frequencies_are_those_of_transformers(scaling, theta):
    config = HuggingFaceConfig(
        hidden_size=128,
        num_attention_heads=1,
        max_position_embeddings=8 * scaling.original_max_seq_len,
        rope_parameters={
            "rope_type": scaling.kind,
            "rope_theta": theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        },
    )
    expected, attention_factor = ROPE_INIT_FUNCTIONS[scaling.kind](config, "cpu")
    torch.testing.assert_close(rope_frequencies(128, theta, scaling), expected, rtol=1e-6, atol=0)
    assert attention_factor == 1.0
    assert not torch.equal(expected, rope_frequencies(128, theta))


def theirs(head_dim, max_seq_len, theta, **rope):
    """Return transformers' frequencies for a sequence, and what cosine and sine are multiplied by."""
    config = HuggingFaceConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=max_seq_len,
        rope_parameters={"rope_theta": theta} | rope,
    )
    return lambda seq_len=None: ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=seq_len)


@given(
    head_dim=st.integers(1, 64).map(lambda half: 2 * half),
    theta=st.floats(2, 1e7),
    factor=st.floats(1, 64),
    original=st.integers(1, 100_000),
    beta_fast=st.floats(1, 100),
    beta_slow=st.floats(0.01, 1),
    attention_factor=st.none() | st.floats(0.1, 10),
    truncate=st.booleans(),
)
def test_yarn_is_that_of_transformers(
    head_dim, theta, factor, original, beta_fast, beta_slow, attention_factor, truncate
):
    values = {"factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow, "truncate": truncate}
    rope = values | {"rope_type": "yarn", "original_max_position_embeddings": original}
    rope |= {} if attention_factor is None else {"attention_factor": attention_factor}
    frequencies, amplitude = theirs(head_dim, 2 * original, theta, **rope)()
    scaling = RopeScaling(kind="yarn", original_max_seq_len=original, attention_factor=attention_factor, **values)
    torch.testing.assert_close(rope_frequencies(head_dim, theta, scaling), frequencies, rtol=5e-6, atol=0)
    cos, sin = rope_table(head_dim, 3, theta, scaling, dtype=float64)
    torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full_like(cos, amplitude), rtol=1e-12, atol=0)


@given(
    head_dim=st.integers(2, 64).map(lambda half: 2 * half),
    theta=st.floats(10, 1e6),
    factor=st.floats(1, 16),
    original=st.integers(1, 5000),
    length=st.integers(1, 20_000),
)
def test_dynamic_scaling_is_what_transformers_uses_for_a_sequence_as_long_as_the_context(
    head_dim, theta, factor, original, length
):
    scaling = RopeScaling(kind="dynamic", factor=factor, original_max_seq_len=original)
    expected, _ = theirs(head_dim, original, theta, rope_type="dynamic", factor=factor)(length)
    ours = rope_frequencies(head_dim, theta, scaling, context=length)
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=0)
    if length <= original:
        assert torch.equal(ours, rope_frequencies(head_dim, theta))


def test_the_first_rows_of_a_table_are_those_of_the_whole_context():
    """NumPy computes only the rows that it needs; with dynamic scaling they depend on how long the context is."""
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=10)
    for make, kind in ((rope_table, torch.Tensor.clone), (reference.rope_table, torch.from_numpy)):
        whole, rows, alone = (
            make(HEAD_DIM, *size, **options)
            for size, options in (
                ((40, 100.0, scaling), {}),
                ((15, 100.0, scaling), {"context": 40}),
                ((15, 100.0, scaling), {}),
            )
        )
        for table, part, other in zip(whole, rows, alone, strict=True):
            torch.testing.assert_close(kind(part), kind(table[:15]))
            assert abs(kind(part) - kind(other)).max() > 0.1


@given(st.floats(1, 64), st.sampled_from([4, 8, 64, 128]), st.floats(10, 1e6))
def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest_by_the_factor(factor, head_dim, theta):
    plain = rope_frequencies(head_dim, theta, dtype=float64)
    stretched = rope_frequencies(head_dim, theta, RopeScaling(kind="ntk", factor=factor), dtype=float64)
    assert stretched[0] == plain[0] == 1
    assert float(plain[-1] / stretched[-1]) == pytest.approx(factor, rel=1e-9)
    assert ((plain / stretched).diff() >= -1e-9).all()  # the slower a pair, the more it is stretched


def test_the_sinusoidal_table_is_that_of_the_paper():
    dim, length = 10, 7
    table = sinusoidal_table(dim, length, dtype=float64)
    assert table.shape == (length, dim)
    for t in range(length):
        for i in range(dim // 2):
            assert float(table[t, 2 * i]) == pytest.approx(math.sin(t / 10000 ** (2 * i / dim)), abs=1e-12)
            assert float(table[t, 2 * i + 1]) == pytest.approx(math.cos(t / 10000 ** (2 * i / dim)), abs=1e-12)


CONFIG = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=8, hidden_dim=16, max_seq_len=2048)
CASTS = {
    "to bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "half and back": lambda model: model.half().float(),
    "double and back": lambda model: model.double().float(),
    "to_empty": lambda model: model.to_empty(device="cpu"),
    "meta and back": lambda model: model.to("meta").to_empty(device="cpu"),
    "bfloat16, meta and back": lambda model: model.bfloat16().to("meta").to_empty(device="cpu"),
    "deepcopy": copy.deepcopy,
    "deepcopy in half": lambda model: copy.deepcopy(model.half()),
    "pickle": lambda model: pickle.loads(pickle.dumps(model.bfloat16())),
}


def fresh_tables(position, dtype=torch.float32):
    if position == "rope":
        return rope_table(CONFIG.head_dim, CONFIG.max_seq_len, dtype=dtype)
    return (sinusoidal_table(CONFIG.dim, CONFIG.max_seq_len, dtype=dtype),)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("position", ["rope", "sinusoidal"])
def test_no_cast_and_no_move_spoils_the_tables(position, cast):
    """In bfloat16 most of the first 2,048 positions would share their angle with a neighbor."""
    tables = cast(build(CONFIG.replace(position=position))).positions.tables
    for table, fresh in zip(tables, fresh_tables(position), strict=True):
        assert table.dtype == torch.float32
        assert table.device.type == "cpu"
        assert torch.equal(table, fresh)


@pytest.mark.parametrize("position", ["rope", "sinusoidal"])
def test_a_model_in_float64_has_tables_of_float64_precision(position):
    """Tables that were cast up from float32 would be wrong in the eighth digit."""
    tables = build(CONFIG.replace(position=position)).double().positions.tables
    for table, fresh in zip(tables, fresh_tables(position, float64), strict=True):
        assert torch.equal(table, fresh)


def test_float32_tables_are_exact_enough_at_the_end_of_a_long_context():
    cos, sin = rope_table(128, 8192, 500_000.0)
    exact_cos, exact_sin = rope_table(128, 8192, 500_000.0, dtype=float64)
    assert max((cos - exact_cos).abs().max(), (sin - exact_sin).abs().max()) < 1e-3
