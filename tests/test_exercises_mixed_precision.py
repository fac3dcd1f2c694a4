"""The exercises of chapter 09 against other evidence than their own answers, and wrong answers that must not pass."""

import math

import numpy as np
import pytest
import torch

from llama_minimal.course.exercises import diagnose, exercises
from llama_minimal.reference import decode_float, round_float
from llama_minimal.reference import store_float8 as store_float8_by_hand

EXERCISES = exercises("mixed_precision")
RNG = np.random.default_rng(0)


def right(name):
    return EXERCISES[name].right


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, (5, 10)), (torch.bfloat16, (8, 7))])
def test_values_are_pytorchs_for_every_pattern(dtype, bits):
    patterns = np.arange(2**16)
    theirs = torch.from_numpy(patterns.astype(np.uint16)).view(dtype).double().numpy()
    np.testing.assert_array_equal([right("value")(int(pattern), *bits) for pattern in patterns], theirs)


def test_whole_numbers_round_as_pytorch_casts():
    x = (RNG.normal(size=100_000) * 2.0 ** RNG.integers(-120, 120, 100_000)).astype(np.float32)
    x = np.concatenate([x, (x.view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)])  # and as many ties
    theirs = torch.from_numpy(x).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(right("bf16")(x.view(np.uint32).astype(np.int64)), theirs)


@pytest.mark.parametrize("spoiled", [None, math.inf, math.nan])
@pytest.mark.parametrize("size", [0.01, 10.0])
def test_a_step_is_that_of_pytorchs_scaler_and_clipping(spoiled, size):
    w, g = RNG.normal(size=6), size * RNG.normal(size=6)
    scaled = 1024 * g
    if spoiled is not None:
        scaled[3] = spoiled
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(1))
    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    theirs.grad = torch.from_numpy(scaled.copy())
    optimizer = torch.optim.SGD([theirs], lr=0.1)
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    scaler.step(optimizer)
    np.testing.assert_allclose(right("step")(w, scaled, 1024.0, 1.0, 0.1), theirs.detach(), rtol=1e-5)


@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3"])
def test_two_halves_remember_what_one_forgets(name):
    def rounded(x):
        return round_float(x, name)

    w, c = np.zeros(50), np.zeros(50)
    plain, total = np.zeros(50), np.zeros(50)
    for _ in range(1000):
        update = 0.002 * RNG.random(50)
        total += update
        w, c = right("two_halves")(w, c, update, rounded)
        plain = rounded(plain + update)
        np.testing.assert_array_equal(w, rounded(w))
        np.testing.assert_array_equal(c, rounded(c))
    assert np.abs(w + c - total).max() < 0.1 < np.abs(plain - total).min()


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_a_block_as_long_as_a_row_is_the_packages_storage(name):
    w = RNG.normal(size=(4, 16))
    patterns, scale = store_float8_by_hand(w, name)
    largest = float(torch.finfo({"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[name]).max)
    ours = right("blocks")(w, 16, largest, lambda x: round_float(x, name))
    np.testing.assert_allclose(ours, decode_float(patterns, name) * scale, rtol=1e-12)
    halves = [right("blocks")(half, 8, largest, lambda x: round_float(x, name)) for half in (w[:, :8], w[:, 8:])]
    np.testing.assert_array_equal(
        right("blocks")(w, 8, largest, lambda x: round_float(x, name)), np.concatenate(halves, axis=1)
    )


def test_the_scale_is_the_last_that_fits():
    for _ in range(200):
        g = RNG.normal(size=5) * 10.0 ** RNG.uniform(-9, 9)
        scale = 2.0**-60
        while np.abs(2 * scale * g).max() <= 65504:
            scale *= 2
        assert right("scale")(g, 65504.0) == scale


def with_steps(w, c, update, rounded):
    moved_to = rounded(w + update)
    return moved_to, rounded(c + update - (moved_to - w))


def kahan(w, c, update, rounded):
    owed = update - c
    return rounded(w + owed), rounded((rounded(w + owed) - w) - owed)


def clip_numbers(w, scaled, scale, max_norm, lr):
    return w if not np.isfinite(scaled).all() else w - lr * (scaled / scale).clip(-max_norm, max_norm)


def skip_numbers(w, scaled, scale, max_norm, lr):
    g = np.where(np.isfinite(scaled), scaled, 0) / scale
    return w - lr * g * min(1.0, max_norm / np.sqrt((g**2).sum()))


def sign_in_exponent(pattern, k, p):
    sign, exponent, part = -1.0 if pattern >> (k + p) else 1.0, pattern >> p, pattern % 2**p / 2**p
    if exponent == 2**k - 1:
        return sign * math.inf if part == 0 else math.nan
    bias = 2 ** (k - 1) - 1
    return sign * (part * 2.0 ** (1 - bias) if exponent == 0 else (1 + part) * 2.0 ** (exponent - bias))


READERS = [  # exercise, answer, what is said
    ("value", lambda pattern, k, p: float(pattern), "this is `pattern`"),
    ("value", lambda pattern, k, p: (1 + pattern % 2**p / 2**p) * 2.0 ** ((pattern >> p) - 2 ** (k - 1) + 1), ""),
    ("bf16", lambda patterns: patterns >> 15, "should give"),
    ("bf16", lambda patterns: patterns & 0xFFFF, "this is the lower half"),
    ("bf16", lambda patterns: patterns // 2**16, "cut off: this rounds toward zero"),
    ("step", lambda w, scaled, scale, max_norm, lr: w, "this is `w` as it was given"),
    ("step", lambda w, scaled, scale, max_norm, lr: w - lr * scaled, ""),
    ("two_halves", lambda w, c, update, rounded: rounded(w + update + c), "only a part of the answer"),
    ("two_halves", lambda w, c, update, rounded: (rounded(w + update), c), "does not depend on `c`"),
    ("two_halves", with_steps, "result 1 of 2"),
    ("blocks", lambda w, block, largest, rounded: np.zeros_like(w), "0 everywhere"),
    ("blocks", lambda w, block, largest, rounded: w.reshape(len(w), -1, block), "shape"),
    ("scale", lambda g, largest: 65536.0, "it gives 6.554e+04 everywhere"),
    ("scale", lambda g, largest: 2.0 ** int(np.log2(largest / np.abs(g).max())), "int cuts toward zero"),
    ("scale", lambda g, largest: -1.0, "everywhere"),
    ("scale", lambda g, largest: 2.0 ** np.floor(np.log2(np.abs(g).max() / largest)), "upside down"),
    ("step", clip_numbers, "each number is clipped by itself"),
    ("step", skip_numbers, "the whole step should be"),
    (
        "value",
        lambda pattern, k, p: right("value")(pattern, p, k),
        "(18048, 5, 10), it gives 9.007e+15, and should give 6.5",
    ),
    ("value", sign_in_exponent, "the sign is still in the exponent"),
    ("two_halves", kahan, "the other sign"),
]


@pytest.mark.parametrize(("name", "answer", "said"), READERS)
def test_what_a_reader_would_answer_is_refused(name, answer, said):
    verdict = diagnose(EXERCISES[name], answer)
    assert verdict
    assert said in verdict, verdict
