"""The NumPy functions: values against PyTorch, gradients against autograd and central differences, in float64."""

import importlib
import inspect
import math
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig as HuggingFaceConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama_minimal import reference
from llama_minimal.config import LlamaConfig, RopeScaling, preset
from llama_minimal.reference import parallel

RNG = np.random.default_rng(0)
COS, SIN = (f(np.outer(np.arange(5), 10.0 ** -np.arange(2))) for f in (np.cos, np.sin))
MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], dtype=bool)
TOKENS = np.array([[3, 0, 3], [1, 3, 4]])
TARGETS = np.array([[3, -100, 6], [0, 2, -100]])
WEIGHTS = np.array([[0.5, 1.0, 2.0], [0.0, 1.0, 3.0]])


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


@dataclass
class Case:
    """One call of a function; ``constant`` lists the arguments that have no gradient."""

    name: str
    oracle: Callable
    args: tuple
    constant: tuple[int, ...] = ()

    def learned(self) -> list[int]:
        floats = [i for i, arg in enumerate(self.args) if isinstance(arg, np.ndarray) and arg.dtype.kind == "f"]
        return [i for i in floats if i not in self.constant]


def torch_rope(x, cos, sin):
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)).flatten(-2)


def torch_attention(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def torch_patches(images, size):
    return F.unfold(images[:, None], size, stride=size).transpose(1, 2)


def torch_patch_embedding(images, w, b, size):
    kernel = w.unflatten(1, (1, size, size))
    return F.conv2d(images[:, None], kernel, b, stride=size).flatten(2).transpose(1, 2)


def torch_places(x, where, features):
    flat = torch.cat([row[: int(places.sum())] for row, places in zip(features, where, strict=True)])
    return x.masked_scatter(where[..., None], flat)


def torch_loss(logits, targets, weights=None):
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.sum() if weights is None else (losses * weights.flatten()).sum()


def torch_chunked(x, w, targets, weights=None):
    return torch_loss(F.linear(x, w), targets, weights)


def torch_forward_kl(student, teacher, temperature=1.0):
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def torch_grouped(logits, ids, temperature):
    q = (logits / temperature).softmax(-1)
    kept = q.gather(-1, ids)
    return torch.cat((kept, 1 - kept.sum(-1, keepdim=True)), -1)


def torch_forward_kl_top(student, ids, log_probs, temperature=1.0):
    q = torch_grouped(student, ids, temperature)
    return (log_probs.exp() * (log_probs - q.log())).sum(-1)


def torch_reverse_kl_top(student, ids, log_probs, temperature=1.0):
    q = torch_grouped(student, ids, temperature)
    return (q * (q.log() - log_probs)).sum(-1)


def torch_distillation(student, teacher, targets, weight=0.5, temperature=1.0):
    kl = torch_forward_kl(student, teacher, temperature)[targets != -100].sum()
    return (1 - weight) * torch_loss(student, targets) + weight * temperature**2 * kl


def torch_hidden(student, teacher, projection=None):
    teacher = teacher if projection is None else teacher @ projection.T
    return F.mse_loss(student, teacher, reduction="none").mean(-1)


def torch_swiglu(x, w1, w2, w3, b1=None, b2=None, b3=None):
    return F.linear(F.silu(F.linear(x, w1, b1)) * F.linear(x, w3, b3), w2, b2)


def torch_ffn(activation):
    return lambda x, w1, w2, b1=None, b2=None: F.linear(activation(F.linear(x, w1, b1)), w2, b2)


def torch_gelu(x):
    return F.gelu(x, approximate="tanh")


def torch_lora(x, w, a, b, scale, keep=None):
    return F.linear(x, w) + (x if keep is None else x * keep) @ (scale * b @ a).T


def torch_lora_update(x, a, b, scale, keep=None):
    return torch_lora(x, torch.zeros(len(b), x.size(-1), dtype=x.dtype), a, b, scale, keep)


def torch_logistic(x, labels, weight, bias, decay=0.0):
    loss = F.binary_cross_entropy_with_logits(x @ weight + bias, labels.to(x.dtype), reduction="sum")
    return loss + decay / 2 * weight.square().sum()


def torch_gate(local, remembered, bias):
    return torch.lerp(local, remembered, bias.sigmoid().view(-1, 1, 1))


TOP = reference.keep_top(draw(2, 3, 7), 3, 2.0)
FFN = (draw(2, 3, 4), draw(6, 4), draw(4, 6))
KEEP = RNG.integers(0, 2, (2, 3, 4)) / 0.5
SPREAD = np.concatenate([draw(2, 7), 30 * draw(2, 7)])

CASES = [
    Case("apply_rope", torch_rope, (draw(2, 3, 5, 4), COS, SIN), (1, 2)),
    Case("embedding", lambda tokens, weight: F.embedding(tokens, weight), (TOKENS, draw(5, 4)), (0,)),
    Case("patches", torch_patches, (draw(2, 4, 6), 2)),
    Case("patch_embedding", torch_patch_embedding, (draw(2, 4, 6), draw(5, 4), draw(5), 2)),
    Case("place_features", torch_places, (draw(3, 5, 4), MASK, draw(3, 4, 4)), (1,)),
    Case("rms_norm", lambda x, w, eps: F.rms_norm(x, (4,), w, eps), (draw(2, 3, 4), draw(4), 0.1)),
    Case("layer_norm", lambda x, w, b, eps: F.layer_norm(x, (4,), w, b, eps), (draw(2, 3, 4), draw(4), draw(4), 0.1)),
    Case("linear", F.linear, (draw(2, 3, 4), draw(5, 4))),
    Case("linear", F.linear, (draw(2, 3, 4), draw(5, 4), draw(5))),
    Case("relu", F.relu, (SPREAD,)),
    Case("gelu", torch_gelu, (SPREAD,)),
    Case("silu", F.silu, (SPREAD,)),
    Case("swiglu", torch_swiglu, (*FFN, draw(6, 4))),
    Case("swiglu", torch_swiglu, (*FFN, draw(6, 4), draw(6), draw(4), draw(6))),
    Case("gelu_ffn", torch_ffn(torch_gelu), FFN),
    Case("gelu_ffn", torch_ffn(torch_gelu), (*FFN, draw(6), draw(4))),
    Case("relu_ffn", torch_ffn(F.relu), FFN),
    Case("relu_ffn", torch_ffn(F.relu), (*FFN, draw(6), draw(4))),
    Case("lora_update", torch_lora_update, (draw(2, 3, 4), draw(2, 4), draw(5, 2), 0.7)),
    Case("lora_update", torch_lora_update, (draw(2, 3, 4), draw(2, 4), draw(5, 2), 0.7, KEEP), (4,)),
    Case("lora_linear", torch_lora, (draw(2, 3, 4), draw(5, 4), draw(2, 4), draw(5, 2), 0.7)),
    Case("lora_linear", torch_lora, (draw(2, 3, 4), draw(5, 4), draw(2, 4), draw(5, 2), 0.7, KEEP), (5,)),
    Case("softmax", lambda x: F.softmax(x, dim=-1), (draw(2, 3, 5),)),
    Case("split_heads", lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2), (draw(2, 3, 8), 4)),
    Case("merge_heads", lambda x: x.transpose(1, 2).flatten(-2), (draw(2, 4, 3, 2),)),
    Case("gate_memory", torch_gate, (draw(2, 3, 5, 4), draw(2, 3, 5, 4), draw(3))),
    Case("attention", torch_attention, (draw(2, 4, 3, 4), draw(2, 4, 5, 4), draw(2, 4, 5, 4))),
    Case("attention", torch_attention, (draw(2, 4, 3, 4), draw(2, 2, 5, 4), draw(2, 2, 5, 4), MASK)),
    Case("attention", torch_attention, (draw(2, 4, 3, 4), draw(2, 1, 5, 4), draw(2, 1, 5, 4), MASK)),
    Case("next_token_loss", torch_loss, (draw(2, 3, 7), TARGETS)),
    Case("next_token_loss", torch_loss, (draw(2, 3, 7), TARGETS, WEIGHTS), (2,)),
    Case("chunked_loss", torch_chunked, (draw(2, 3, 4), draw(7, 4), TARGETS)),
    Case("chunked_loss", torch_chunked, (draw(2, 3, 4), draw(7, 4), TARGETS, WEIGHTS), (3,)),
    Case("forward_kl", torch_forward_kl, (draw(2, 3, 7), draw(2, 3, 7)), (1,)),
    Case("forward_kl", torch_forward_kl, (draw(2, 3, 7), draw(2, 3, 7), 2.5), (1,)),
    Case("reverse_kl", lambda s, t, T: torch_forward_kl(t, s, T), (draw(2, 3, 7), draw(2, 3, 7), 2.5), (1,)),
    Case("forward_kl_top", torch_forward_kl_top, (draw(2, 3, 7), *TOP, 2.0), (2,)),
    Case("reverse_kl_top", torch_reverse_kl_top, (draw(2, 3, 7), *TOP, 2.0), (2,)),
    Case("distillation_loss", torch_distillation, (draw(2, 3, 7), draw(2, 3, 7), TARGETS), (1,)),
    Case("distillation_loss", torch_distillation, (draw(2, 3, 7), draw(2, 3, 7), TARGETS, 0.3, 4.0), (1,)),
    Case("hidden_loss", torch_hidden, (draw(2, 3, 4), draw(2, 3, 4))),
    Case("hidden_loss", torch_hidden, (draw(2, 3, 4), draw(2, 3, 5), draw(4, 5))),
    Case("logistic_loss", torch_logistic, (draw(4, 3), np.array([0, 1, 1, 0]), draw(3), np.array(0.3))),
    Case("logistic_loss", torch_logistic, (draw(4, 3), np.array([1, 0, 1, 1]), draw(3), np.array(-2.0), 0.7)),
]

# Held by tests/test_reference_model.py against transformers, torch.nn.TransformerEncoder and central differences.
WHOLE_MODEL = {"attention_block", "block", "feed_forward", "llama", "normalize"}
NOT_DIFFERENTIABLE = {
    "acceptance_probability": "a rule",
    "adamw_step": "an update",
    "add_gradients": "acts on gradients",
    "amplification": "a measure",
    "association": "of counts",
    "awq": "a choice",
    "best_for_mask": "a solution",
    "bind": "returns a function",
    "causal_mask": "boolean",
    "chain": "composes backwards",
    "clip_factors": "acts on gradients",
    "clip_gradients": "acts on gradients",
    "clipped_sum": "acts on gradients",
    "decode_float": "from bits",
    "document_mask": "boolean",
    "document_positions": "integers",
    "dynamic_linear": "whole numbers",
    "encode_float": "bits",
    "exit_confidence": "a measure",
    "exposure": "a rank",
    "from_codes": "from bits",
    "generate": "integers",
    "gptq": "steps",
    "init_params": "random",
    "keep_top": "a choice",
    "keep_mask": "boolean",
    "loss_and_gradients": "returns its gradients itself",
    "magnitude_mask": "boolean",
    "move_centers": "means of a choice",
    "muon_step": "an update",
    "named": "composes backwards",
    "n_of_m_mask": "boolean",
    "nearest_codes": "a choice",
    "orthogonalize": "acts on gradients",
    "outliers": "boolean",
    "output_error": "a measure",
    "pack_int4": "bits",
    "parameter_shapes": "integers",
    "positions_kept": "integers",
    "private_gradient": "acts on gradients",
    "rdp_of_step": "a measure",
    "residual": "composes backwards",
    "residual_distribution": "a rule",
    "rope_frequencies": "a table",
    "rope_table": "a table",
    "speculative_distribution": "a rule played through",
    "speculative_outcomes": "a rule played through",
    "round_float": "steps",
    "round_to_grid": "steps",
    "rounding_error": "a property of a grid",
    "sinusoidal_table": "a table",
    "sparsegpt": "a search",
    "store_float8": "bits",
    "group_shares": "a measure",
    "precision_recall": "a measure",
    "remove_directions": "an edit",
    "memory_attention": "only read",
    "nearest": "a choice",
    "neighbor_distribution": "only read",
    "recalling_attention": "only read",
    "window_attention": "only read",
    "window_begins": "integers",
    "wanda_score": "a score",
    "symmetric_grid": "a grid",
    "to_codes": "bits",
    "unpack_int4": "bits",
    "zero_point_grid": "a grid",
    "cut_frames": "read only: a sound is data",
    "dft_power": "read only",
    "hann_window": "a table",
    "hz_to_mel": "a scale",
    "inverse_frames": "read only",
    "log_mel": "read only",
    "mel_filters": "a table",
    "mel_to_hz": "a scale",
    "word_edits": "integers",
}


def identify(case: Case) -> str:
    return case.name + "-" + "x".join("none" if not hasattr(arg, "ndim") else str(arg.shape) for arg in case.args)


every_case = pytest.mark.parametrize("case", CASES, ids=identify)


def value(case: Case, args: Sequence) -> np.ndarray:
    """Call the function; of the loss's pair take the total, which alone has a gradient."""
    out = getattr(reference, case.name)(*args)
    return out[0] if isinstance(out, tuple) else out


def gradients(case: Case, args: Sequence, d_out: np.ndarray) -> dict[int, np.ndarray]:
    """Call the twin's backward; return the gradients by the position of their argument."""
    _, backward = getattr(reference, f"{case.name}_vjp")(*args)
    returned = backward(d_out)
    returned = returned if isinstance(returned, tuple) else (returned,)
    present = [gradient for gradient in returned if gradient is not None]
    return dict(zip(case.learned(), present, strict=True))


def cotangent(out: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(size=np.shape(out)).astype(np.asarray(out).dtype)


@every_case
def test_value_and_gradients_equal_pytorch(case):
    args = [torch.from_numpy(arg) if isinstance(arg, np.ndarray) else arg for arg in case.args]
    for i in case.learned():
        args[i] = args[i].clone().requires_grad_()
    expected = case.oracle(*args)
    out = value(case, case.args)
    np.testing.assert_allclose(out, expected.detach(), rtol=1e-12, atol=1e-13)

    d_out = cotangent(out)
    autograd = torch.autograd.grad(expected, [args[i] for i in case.learned()], torch.as_tensor(d_out))
    for gradient, wanted in zip(gradients(case, case.args, d_out).values(), autograd, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-11, atol=1e-12)


@every_case
def test_gradients_equal_central_differences(case):
    step = 1e-6  # error step² + 1e-16/step: about 1e-10
    d_out = cotangent(value(case, case.args))
    for i, gradient in gradients(case, case.args, d_out).items():
        differences = np.zeros_like(case.args[i])
        for entry in np.ndindex(differences.shape):
            sides = []
            for sign in (1, -1):
                moved = case.args[i].copy()
                moved[entry] += sign * step
                sides.append((d_out * value(case, (*case.args[:i], moved, *case.args[i + 1 :]))).sum())
            differences[entry] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-7)


@every_case
def test_the_twin_returns_the_value_of_the_function(case):
    out, _ = getattr(reference, f"{case.name}_vjp")(*case.args)
    plain = getattr(reference, case.name)(*case.args)
    np.testing.assert_array_equal(out, plain)


@every_case
def test_float32_stays_float32(case):
    args = list(case.args)
    for i in case.learned():
        args[i] = args[i].astype(np.float32)
    out = value(case, args)
    assert out.dtype == np.float32
    assert {gradient.dtype for gradient in gradients(case, args, cotangent(out)).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "shapes", "n_none"),
    [
        ("linear", [(2, 4), (5, 4)], 1),
        ("swiglu", [(2, 4), (6, 4), (4, 6), (6, 4)], 3),
        ("gelu_ffn", [(2, 4), (6, 4), (4, 6)], 2),
        ("relu_ffn", [(2, 4), (6, 4), (4, 6)], 2),
    ],
)
def test_a_bias_left_out_has_the_gradient_none(name, shapes, n_none):
    out, backward = getattr(reference, f"{name}_vjp")(*(draw(*shape) for shape in shapes))
    returned = backward(out)
    assert [gradient is None for gradient in returned] == [False] * len(shapes) + [True] * n_none


def test_every_public_name_is_covered():
    public = set(reference.__all__)
    functions = {name for name in public if not name.endswith("_vjp")}
    assert functions == {case.name for case in CASES} | WHOLE_MODEL | set(NOT_DIFFERENTIABLE)
    assert {f"{name}_vjp" for name in functions - set(NOT_DIFFERENTIABLE)} == public - functions


@pytest.mark.parametrize("package", [reference, parallel], ids=lambda package: package.__name__)
def test_every_twin_is_public(package):
    """The processes played through in lists have names of their own, which tests/test_reference_*parallel.py walk."""
    defined = set()
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not module.ispkg:
            members = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
            own = [name for name, function in members if function.__module__.startswith(package.__name__)]
            defined |= {name for name in own if name.endswith("_vjp") and not name.startswith("_")}
    assert defined == {name for name in package.__all__ if name.endswith("_vjp")}


def test_the_reference_does_not_import_torch():
    code = "import sys, llama_minimal.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Attention and softmax


def test_softmax_is_stable_for_huge_scores():
    x = np.array([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4, -1e4]])
    with np.errstate(all="raise", under="ignore"):
        p, backward = reference.softmax_vjp(x)
        gradient = backward(np.eye(3)[:2])
    np.testing.assert_allclose(p, torch.softmax(torch.from_numpy(x), -1), rtol=1e-12)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_activations_are_stable_for_huge_inputs(name):
    x = np.array([-1e4, -800.0, 800.0, 1e4])
    with np.errstate(all="raise", under="ignore"):
        out, backward = getattr(reference, f"{name}_vjp")(x)
        np.testing.assert_allclose(out, [0, 0, 800, 1e4], atol=1e-12)
        np.testing.assert_allclose(backward(np.ones(4)), [0, 0, 1, 1], atol=1e-12)


@given(n_new=st.integers(1, 6), n_past=st.integers(0, 6))
def test_causal_mask_shows_the_past_and_the_token_itself(n_new, n_past):
    mask = reference.causal_mask(n_new, n_past + n_new)
    assert mask.dtype == bool
    for t in range(n_new):
        assert [bool(sees) for sees in mask[t]] == [s <= n_past + t for s in range(n_past + n_new)]


def test_a_hidden_key_has_no_influence():
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4)
    mask = np.array([True, True, False, True, True])
    k_without, v_without = np.delete(k, 2, axis=2), np.delete(v, 2, axis=2)
    expected = reference.attention(q, k_without, v_without)
    np.testing.assert_allclose(reference.attention(q, k, v, mask), expected, rtol=1e-13)
    d_q, d_k, d_v = reference.attention_vjp(q, k, v, mask)[1](np.ones((1, 2, 3, 4)))
    assert not d_k[:, :, 2].any()
    assert not d_v[:, :, 2].any()
    assert d_q.all()


# Loss


def test_loss_counts_its_targets():
    logits = draw(2, 3, 7)
    assert reference.next_token_loss(logits, TARGETS)[1] == 4
    assert reference.next_token_loss(logits, TARGETS, WEIGHTS)[1] == 5.5 - 1.0 - 3.0 + 2.0 - 0.0


def test_loss_is_stable_for_huge_logits():
    logits, targets = np.array([[1e4, 0.0, -1e4]]), np.array([2])
    assert reference.next_token_loss(logits, targets)[0] == 2e4


# Positions


def hugging_face_frequencies(kind: str, seq_len: int | None = None, **values) -> np.ndarray:
    rope = {"rope_type": kind, "rope_theta": 500_000.0, **values}
    config = HuggingFaceConfig(
        hidden_size=256, num_attention_heads=2, max_position_embeddings=8192, rope_parameters=rope
    )
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)[0].numpy()


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, lambda: hugging_face_frequencies("linear", factor=1.0)),
        (RopeScaling(kind="linear", factor=4.0), lambda: hugging_face_frequencies("linear", factor=4.0)),
        (
            RopeScaling(kind="llama3", original_max_seq_len=8192, **LLAMA3),
            lambda: hugging_face_frequencies("llama3", original_max_position_embeddings=8192, **LLAMA3),
        ),
        # At twice its length, "dynamic" with factor 3 is plain NTK with factor 3·2 − (3 − 1) = 4.
        (RopeScaling(kind="ntk", factor=4.0), lambda: hugging_face_frequencies("dynamic", seq_len=16384, factor=3.0)),
    ],
    ids=["none", "linear", "llama3", "ntk"],
)
def test_rope_frequencies_equal_transformers(scaling, expected):
    frequencies = reference.rope_frequencies(128, 500_000.0, scaling)
    assert frequencies.dtype == np.float64
    # Theirs are float32: 2e-6 leaves room for the rounding of a power.
    np.testing.assert_allclose(frequencies, expected(), rtol=2e-6)


def test_rope_table_holds_the_angles_of_each_position():
    cos, sin = reference.rope_table(6, 4, 100.0)
    for t in range(4):
        for i in range(3):
            angle = t / 100 ** (2 * i / 6)
            assert math.isclose(cos[t, i], math.cos(angle), abs_tol=1e-15)
            assert math.isclose(sin[t, i], math.sin(angle), abs_tol=1e-15)


@settings(deadline=None, max_examples=30)
@given(m=st.integers(0, 20), n=st.integers(0, 20), shift=st.integers(0, 40), seed=st.integers(0, 100))
def test_rotated_products_depend_on_the_distance_alone(m, n, shift, seed):
    q, k = np.random.default_rng(seed).normal(size=(2, 8))
    cos, sin = reference.rope_table(8, 64)

    def product(i, j):
        at_i, at_j = (reference.apply_rope(x[None], cos[[t]], sin[[t]])[0] for x, t in ((q, i), (k, j)))
        return at_i @ at_j

    assert math.isclose(product(m, n), product(m + shift, n + shift), abs_tol=1e-12)


def test_sinusoidal_table_follows_the_paper():
    table = reference.sinusoidal_table(6, 50)
    for t in range(50):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], atol=1e-13)


def test_sinusoidal_table_shifts_by_one_matrix():
    # The paper's reason for sines: PE[t + k] is the same linear function of PE[t] for every t.
    table = reference.sinusoidal_table(6, 50)
    matrix = np.linalg.lstsq(table[:10], table[7:17], rcond=None)[0]
    np.testing.assert_allclose(table[:43] @ matrix, table[7:], atol=1e-9)


# Parameters and their updates


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-30b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
    ],
)
def test_parameter_shapes_add_up_to_the_published_sizes(name, count):
    assert sum(math.prod(shape) for shape in reference.parameter_shapes(preset(name)).values()) == count


def test_init_params_draws_the_deviations_it_promises():
    config = LlamaConfig(dim=128, n_layers=8, n_heads=4, vocab_size=300, norm="layer", bias=True)
    params = reference.init_params(config, 0)
    for name, array in params.items():
        if name.endswith("bias"):
            assert not array.any()
        elif "norm" in name:
            assert (array == 1).all()
        else:
            expected = 0.02 / 4 if name.endswith(("wo.weight", "w2.weight")) else 0.02
            # 16,384 draws or more: the sample deviation is within 3 % of the true one, five sigma.
            assert abs(array.std() / expected - 1) < 0.03, name
            assert abs(array.mean()) < 5 * expected / math.sqrt(array.size), name


def test_init_params_depends_on_the_seed_alone():
    config = preset("tiny")
    first, again, other = (reference.init_params(config, seed)["output.weight"] for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_pytorch_over_twenty_steps(weight_decay):
    start, grads = draw(3, 4), draw(20, 3, 4) * np.logspace(-6, 2, 20)[:, None, None]
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    param, m, v = start, np.zeros_like(start), np.zeros_like(start)
    for step, grad in enumerate(grads, start=1):
        theirs.grad = torch.from_numpy(grad)
        optimizer.step()
        param, m, v = reference.adamw_step(param, grad, m, v, step, lr=0.03, weight_decay=weight_decay)
        np.testing.assert_allclose(param, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_adamw_leaves_its_arguments_and_their_dtype_alone():
    arrays = [draw(3).astype(np.float32) for _ in range(3)] + [np.ones(3, np.float32)]
    copies = [array.copy() for array in arrays]
    assert {out.dtype for out in reference.adamw_step(*arrays, 1, lr=0.1)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays, copies)


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clip_gradients_equals_pytorch(max_norm):
    grads = {"a": draw(3, 4), "b": draw(5)}
    theirs = [torch.nn.Parameter(torch.zeros(grad.shape, dtype=torch.float64)) for grad in grads.values()]
    for param, grad in zip(theirs, grads.values(), strict=True):
        param.grad = torch.from_numpy(grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    clipped, norm = reference.clip_gradients(grads, max_norm)
    assert math.isclose(norm, expected, rel_tol=1e-12)
    for param, grad in zip(theirs, clipped.values(), strict=True):
        np.testing.assert_allclose(grad, param.grad, rtol=1e-12)
