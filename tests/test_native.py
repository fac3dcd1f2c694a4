"""Products of matrices and a few vectors in C++: the right sums, made once, and missed by nobody without a compiler."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal import attention as attention_module
from llama_minimal import compiling, generation, native
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate
from llama_minimal.model import build
from llama_minimal.quantization import quantize

SIZES = st.integers(1, 150)


@pytest.fixture(autouse=True)
def built():
    assert native.build()


KINDS = [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")]
VECTORS = st.integers(1, 9)


@given(st.lists(SIZES, min_size=1, max_size=4), SIZES, VECTORS, st.sampled_from(KINDS), st.data())
@settings(max_examples=100, deadline=None)
def test_products_are_those_of_the_numbers(n_outs, n_in, n_vectors, kinds, data):
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    dtype, of_vectors = (getattr(torch, name) for name in kinds)
    weights = [(torch.randn(n, n_in, generator=draw) * 20).clamp(-127, 127).to(dtype) for n in n_outs]
    scales = [torch.rand(n, generator=draw) for n in n_outs]
    x = torch.randn(n_vectors, n_in, generator=draw).to(of_vectors)
    expected = [x.double() @ w.double().t() for w in weights]
    if dtype == torch.int8:
        expected = [scale.double() * out for scale, out in zip(scales, expected, strict=True)]
    out = native.vector_products(weights, scales if dtype == torch.int8 else [], x)
    assert out.dtype == torch.float32
    assert torch.allclose(out.double(), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-3)


@given(st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 19), st.sampled_from([32, 64, 128]), VECTORS)
@settings(max_examples=60, deadline=None)
def test_products_of_int4_are_those_of_what_the_codes_stand_for(n_outs, n_groups, group, n_vectors):
    draw = torch.Generator().manual_seed(sum(n_outs))
    halves = n_groups * group // 2
    codes = [torch.randint(0, 256, (n, halves), generator=draw, dtype=torch.uint8) for n in n_outs]
    grids = [torch.randn(n, 2, n_groups, generator=draw) for n in n_outs]
    x = torch.randn(n_vectors, n_groups * group, generator=draw)
    numbers = torch.stack([torch.stack((c & 15, c >> 4), dim=-1).flatten() for c in torch.cat(codes)])
    steps, offsets = (part.repeat_interleave(group, dim=1).double() for part in torch.cat(grids).unbind(1))
    expected = x.double() @ (steps * numbers + offsets).t()
    # The vector may be rounded to 16 bits, in blocks of 32; the rest is float32's.
    largest = x.abs().view(n_vectors, -1, 32).amax(2).repeat_interleave(32, dim=1).double()
    rounding = largest @ (steps * numbers).abs().t() / 65534
    rounding += x.abs().double() @ (steps.abs() * 15 + offsets.abs()).t() / 2**20
    assert ((native.vector_products(codes, grids, x) - expected).abs() <= rounding + 1e-6).all()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_in_a_vector_stays_none_beside_codes_of_4_bits(number):
    x = torch.ones(1, 64)
    x[0, 40] = number
    out = native.vector_products([torch.full((3, 32), 17, dtype=torch.uint8)], [torch.rand(3, 2, 2)], x)
    assert not out.isfinite().any()


def test_what_is_no_number_stays_none():
    w = torch.ones(3, 40)
    w[0, 33], w[1, 2] = float("nan"), float("inf")
    assert native.vector_products([w], [], torch.ones(1, 40)).isfinite().tolist() == [[False, False, True]]


def test_the_smallest_numbers_are_kept_after_loading():
    """A library that gcc links with ``-ffast-math`` makes them zeros in the whole process."""
    program = "import torch; from llama_minimal import native; native.build(); print(torch.tensor(1e-40).mul(1).item())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) > 0


def test_a_processor_without_its_instructions_gets_the_same_sums(tmp_path):
    program = """
import torch
from llama_minimal import native
native._FLAGS = tuple(flag for flag in native._FLAGS if flag != "-march=native")
assert native.build()
torch.manual_seed(0)
x, grids = torch.randn(3, 96), torch.rand(5, 2, 3)
codes = torch.randint(0, 256, (5, 48), dtype=torch.uint8)
numbers = torch.stack((codes & 15, codes >> 4), dim=-1).view(5, 3, 32) * grids[:, 0, :, None] + grids[:, 1, :, None]
half = torch.randn(5, 96).bfloat16()
found = [native.vector_products([codes], [grids], x), native.vector_products([half, half], [], x)]
torch.testing.assert_close(torch.cat(found, dim=1), x @ torch.cat((numbers.flatten(1), *[half.float()] * 2)).t())
q, k, v, mask = torch.randn(2, 6, 1, 9), torch.randn(2, 3, 50, 9), torch.randn(2, 3, 50, 9), torch.randn(2, 1, 1, 50)
expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
torch.testing.assert_close(native.vector_attention(q, k, v, mask), expected)
"""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=env, timeout=240, check=True)


def test_the_library_is_made_once_for_a_cache_folder_and_nothing_else_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = native._compiled(native.compiler())
    assert list((tmp_path / "llama_minimal").iterdir()) == [path]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("made again"))
    assert native._compiled(native.compiler()) == path


@pytest.mark.parametrize("what", ["no compiler", "a compiler that fails", "a cache that is a file"])
def test_without_the_library_there_is_a_warning_and_nothing_is_left(what, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if what == "no compiler":
        monkeypatch.setattr(native, "compiler", lambda: None)
    elif what == "a compiler that fails":
        monkeypatch.setattr(native, "compiler", lambda: "false")
    else:
        (tmp_path / "llama_minimal").write_text("mine")
    native._is_loaded.cache_clear()
    try:
        with pytest.warns(UserWarning, match="products in C\\+\\+ could not be made"):
            assert not native.build()
        assert not native.knows([torch.ones(2, 2)], [])
        assert not list(tmp_path.glob("**/*.so"))
    finally:
        native._is_loaded.cache_clear()


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [4, 5], [6]]])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_a_compiled_step_uses_it_and_writes_the_same_text(kind, prompts, monkeypatch):
    """Compiled, but not by the slow part of the compiler."""
    config = LlamaConfig(dim=256, n_layers=2, n_heads=4, vocab_size=300, hidden_dim=512, max_seq_len=64)
    model = build(config, seed=0).eval()
    if kind != "float32":
        model.bfloat16()
    if kind.startswith("int"):
        quantize(model, kind, **({"group_size": 32} if kind == "int4" else {}))
    compile, found = torch.compile, []

    def run_as_it_is(graph, _):
        ours = [node for node in graph.graph.nodes if "vector_products" in str(node.target)]
        found.extend(node.args[0][0].meta["example_value"].dtype for node in ours)
        assert sum("vector_attention" in str(node.target) for node in graph.graph.nodes) == config.n_layers
        return graph.forward

    plainly = {"backend": run_as_it_is, "mode": None, "options": None}
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile(f, **(how | plainly)))
    generation._compiled_step.cache_clear()
    with_it = generate(model, None, prompts, max_new_tokens=8, compile=True)
    generation._compiled_step.cache_clear()
    # In each of two layers: queries, keys and values in one call, gate and value in one; then the output.
    assert found == [torch.uint8 if kind == "int4" else getattr(torch, kind)] * (2 * 4 + 1)
    if kind == "float32":
        assert with_it == generate(model, None, prompts, max_new_tokens=8)
    assert compiling.LARGE <= 256 * 256


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_that_is_exported_calls_none_and_takes_any_number_of_texts(strict):
    config = LlamaConfig(dim=256, n_layers=1, n_heads=4, vocab_size=300, hidden_dim=512, max_seq_len=64)
    model, any_size = build(config, seed=0).eval(), torch.export.Dim.DYNAMIC
    examples, sizes = (torch.zeros(2, 2, dtype=torch.long),), ({0: any_size, 1: any_size},)
    with torch.no_grad():
        program = torch.export.export(model, examples, dynamic_shapes=sizes, strict=strict)
        assert not [node for node in program.graph.nodes if "llama_minimal" in str(node.target)]
        tokens = torch.randint(300, (5, 3))
        torch.testing.assert_close(program.module()(tokens), model(tokens))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), SIZES, st.integers(1, 70), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_attention_is_that_of_pytorch_and_what_is_hidden_at_both_ends_is_not_read(
    n_rows, n_kv_heads, group, n_slots, width, is_each, data
):
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q = 4 * torch.randn(n_rows, n_kv_heads * group, 1, width, generator=draw)
    k, v = torch.randn(2, n_rows, n_kv_heads, n_slots, width, generator=draw)
    n_masks = n_rows if is_each else 1
    ends = torch.randint(1, n_slots + 1, (n_masks, 1), generator=draw)
    begins = (torch.rand(n_masks, 1, generator=draw) * ends).long()
    visible = (torch.arange(n_slots) >= begins) & (torch.arange(n_slots) < ends)
    holes = torch.rand(n_masks, n_slots, generator=draw) < 0.2
    added = torch.where(
        holes & (torch.arange(n_slots) != begins), float("-inf"), torch.rand(n_masks, n_slots, generator=draw) - 0.5
    )
    mask = torch.where(visible, added, float("-inf"))[:, None, None]
    expected = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v, mask)), enable_gqa=True)
    for x in (k, v):
        x.masked_fill_(~visible[:, None, :, None], float("nan"))
    found = native.vector_attention(q, k, v, mask)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_to_what_is_no_number_is_none_and_so_is_attention_to_nothing():
    q, k, v, nothing = (
        torch.ones(1, 1, 1, 8),
        torch.ones(1, 1, 40, 8),
        torch.ones(1, 1, 40, 8),
        torch.zeros(1, 1, 1, 40),
    )
    assert native.vector_attention(q, k, v, nothing).isfinite().all()
    assert native.vector_attention(q, k, v, nothing - float("inf")).isnan().all()
    for x in (k, v):
        for number in (float("nan"), float("inf")):
            x[0, 0, 33, 0] = number
            assert not native.vector_attention(q, k, v, nothing).isfinite().all()
        x.fill_(1)


@pytest.mark.parametrize("difference", [0.0, 1e-3, 1.0, 20.0, 86.0, 88.0, 200.0, 1e30])
def test_weights_are_right_however_far_scores_are_apart(difference):
    scores = torch.tensor([[0.0], [-difference]])
    k, v = scores[None, None], torch.eye(2)[None, None, :, :1]
    found = native.vector_attention(torch.ones(1, 1, 1, 1), k, v, torch.zeros(1, 1, 1, 2)).item()
    assert found == pytest.approx(1 / (1 + math.exp(-difference)), rel=3e-7)


@pytest.mark.parametrize("is_built", [False, True])
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "added", "boolean", "of each head"])
def test_attention_of_one_query_is_the_same_in_compiled_code(is_built, n_rows, n_kv_heads, kind, monkeypatch):
    monkeypatch.setattr(native, "is_built", is_built)
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(n_rows, 4, 1, 8, generator=draw)
    k, v = torch.randn(2, n_rows, n_kv_heads, 9, 8, generator=draw)
    visible = torch.arange(9) < 6 + torch.arange(n_rows)[:, None, None, None]
    added = torch.where(visible, 0.0, float("-inf"))
    mask = {
        "none": None,
        "boolean": visible,
        "added": added,
        "of each head": added + torch.randn(4, 1, 1, generator=draw),
    }[kind]
    found = attention_module._of_one_query(q, k, v, mask)
    assert torch.allclose(found, attention_module.attention(q, k, v, mask), atol=1e-6)


def test_attention_of_several_queries_is_not_written_out_in_code_that_a_user_compiles():
    q, k, v = torch.randn(3, 1, 4, 5, 8)
    mask = attention_module.causal_mask(5, 5)[None, None]
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(attention_module.attention, backend="eager", fullgraph=True)(q, k, v, mask)
    assert torch.allclose(found, attention_module.attention(q, k, v, mask), atol=1e-6)
