"""Products of a matrix and a vector in C++: the right sums, made once, and missed by nobody who has no compiler."""

import subprocess
import sys

import pytest
import torch
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


@given(SIZES, SIZES, st.sampled_from([torch.float32, torch.bfloat16, torch.int8]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_product_is_that_of_the_numbers(n_out, n_in, dtype, seed):
    numbers = torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed)) * 20
    w, x = numbers.clamp(-127, 127).to(dtype), numbers.flip(0)[0] / 20
    expected = w.double() @ x.double()
    assert torch.allclose(native.vector_product(w, x).double(), expected, rtol=1e-5, atol=1e-3)


@given(SIZES, st.integers(1, 5), st.sampled_from([32, 64, 128]))
@settings(max_examples=40, deadline=None)
def test_a_product_of_int4_is_that_of_what_the_codes_stand_for(n_out, n_groups, group):
    draw = torch.Generator().manual_seed(n_out)
    codes = torch.randint(0, 256, (n_out, n_groups * group // 2), generator=draw, dtype=torch.uint8)
    grids = torch.randn(n_out, n_groups, 2, generator=draw)
    x = torch.randn(n_groups * group, generator=draw)
    w = [
        [
            float((codes[r, c // 2] >> (4 * (c % 2))) & 15) * float(grids[r, c // group, 0])
            + float(grids[r, c // group, 1])
            for c in range(len(x))
        ]
        for r in range(min(n_out, 3))
    ]
    found = native.int4_vector_product(codes, grids, x)[:3]
    assert torch.allclose(found.double(), torch.tensor(w, dtype=torch.double) @ x.double(), rtol=1e-5, atol=1e-3)


def test_what_is_no_number_stays_none():
    w = torch.ones(3, 40)
    w[0, 33], w[1, 2] = float("nan"), float("inf")
    assert native.vector_product(w, torch.ones(40)).isfinite().tolist() == [False, False, True]


def test_the_smallest_numbers_are_kept_after_loading():
    """A library that gcc links with ``-ffast-math`` makes them zeros in the whole process."""
    program = "import torch; from llama_minimal import native; native.build(); print(torch.tensor(1e-40).mul(1).item())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) > 0


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
    native._functions.cache_clear()
    try:
        with pytest.warns(UserWarning, match="products in C\\+\\+ could not be made"):
            assert not native.build()
        assert not native.knows(torch.ones(2, 2))
        assert not list(tmp_path.glob("**/*.so"))
    finally:
        native._functions.cache_clear()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_a_compiled_step_uses_it_and_writes_the_same_text(kind, monkeypatch):
    """Compiled, but not by the slow part of the compiler."""
    config = LlamaConfig(dim=256, n_layers=2, n_heads=4, vocab_size=300, hidden_dim=512, max_seq_len=64)
    model = build(config, seed=0).eval()
    if kind != "float32":
        model.bfloat16()
    if kind.startswith("int"):
        quantize(model, kind, **({"group_size": 32} if kind == "int4" else {}))
    compile, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile(f, **(how | {"backend": "eager", "mode": None})))
    real = native._functions()

    class Counting:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(real, name)

    monkeypatch.setattr(native, "_functions", Counting)
    generation._compiled_step.cache_clear()
    with_it = generate(model, None, [[1, 2, 3]], max_new_tokens=8, compile=True)
    generation._compiled_step.cache_clear()
    assert {name.split("_")[0] for name in calls} == {kind}
    if kind == "float32":
        assert with_it == generate(model, None, [[1, 2, 3]], max_new_tokens=8)
    assert compiling.LARGE <= 256 * 256


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "added", "boolean"])
def test_attention_of_one_query_is_the_same_written_out(n_kv_heads, kind):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 1, 8, generator=draw)
    k, v = torch.randn(2, 1, n_kv_heads, 9, 8, generator=draw)
    visible = torch.arange(9)[None, None, None] < 6
    mask = {"none": None, "boolean": visible, "added": torch.where(visible, 0.0, float("-inf"))}[kind]
    written = attention_module._written_out(q, k, v, mask)
    assert torch.allclose(written, attention_module.attention(q, k, v, mask), atol=1e-6)
