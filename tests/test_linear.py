"""Linear layers a few tokens at a time: against PyTorch's product, and through every change of a packed weight."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_lively
from torch import nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from llama_minimal import compiling, generation, native
from llama_minimal.compiling import LARGE, compiling_pays, plain_weights
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate
from llama_minimal.linear import Linear, linear, linears
from llama_minimal.lora import LoRAConfig, add_adapter, merge_and_unload
from llama_minimal.model import build
from llama_minimal.packed_weights import PackedWeight, can_pack
from llama_minimal.quantization import quantize
from llama_minimal.quantization.schemes import SCHEMES

CONFIG = LlamaConfig(dim=256, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=512, vocab_size=300, max_seq_len=64)
PROMPTS = [[5, 6, 7, 8], [9]]
needs_packing = pytest.mark.skipif(not can_pack(), reason="oneDNN packs no bfloat16 on this processor")


def make(dtype=torch.bfloat16, **changes):
    """Draw a model whose matrices are large enough for the ways of linear.py, and whose text is lively."""
    return make_lively(build(CONFIG.replace(**changes), seed=0).to(dtype))


def tokens(model, prompts=PROMPTS):
    return [completion.tokens for completion in generate(model, None, prompts, max_new_tokens=12)]


def is_packed(model):
    return [name for name, parameter in model.named_parameters() if type(parameter) is PackedWeight]


def plainly(model, monkeypatch, prompts=PROMPTS):
    """What a model writes with PyTorch's own product in every layer."""
    with monkeypatch.context() as patch:
        patch.setattr("llama_minimal.linear.in_one_product", lambda x, layers: None)
        patch.setattr("llama_minimal.attention.in_one_product", lambda x, layers: None)
        return tokens(copy.deepcopy(model), prompts)


@given(
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.sampled_from([1, 8]),
    st.sampled_from([33, 256, 1000]),
    st.sampled_from([(1,), (1, 1), (8,), (3, 1), (2, 4), (9,), (5, 0)]),
)
def test_any_shape_gives_pytorchs_product(dtype, outs, multiple, n_in, shape):
    torch.manual_seed(0)
    layers = [Linear(n_in, out * multiple, bias=False).to(dtype) for out in outs]
    x = torch.randn(*shape, n_in).to(dtype)
    expected = [F.linear(x.double(), layer.weight.double()) for layer in layers]
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    with torch.inference_mode():
        for _ in range(2):  # laid out anew, then read as laid out
            for out, right in zip(linears(x, *layers), expected, strict=True):
                assert out.dtype == dtype
                assert out.shape == right.shape
                torch.testing.assert_close(out.double(), right, rtol=tolerance, atol=tolerance)


def test_what_is_no_plain_layer_is_for_itself():
    layers = [Linear(256, 512, bias=False), nn.Linear(256, 512), torch.randn(512, 256), Linear(256, 512)]
    x, seen = torch.randn(1, 256), []
    layers[0].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        outs = linears(x, *layers)
        assert seen == [1]
        for out, layer in zip(outs, layers, strict=True):
            torch.testing.assert_close(out, linear(x, layer))


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"share_layers": 2}, {"bias": True}], ids=str)
def test_float32_text_is_what_pytorchs_own_products_write(changes, monkeypatch):
    model = make(torch.float32, **changes)
    assert tokens(model) == plainly(model, monkeypatch) == tokens(model)
    assert len({token for row in tokens(model) for token in row}) > 4


@needs_packing
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"share_layers": 2}], ids=str)
def test_packed_text_is_what_plain_weights_write(changes, monkeypatch):
    model = make(**changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = plainly(model, monkeypatch)
    assert tokens(model) == expected
    packed = is_packed(model)
    assert "layers.0.attention.wk.weight" in packed
    assert "layers.0.feed_forward.w2.weight" in packed
    assert "output.weight" in packed or "tok_embeddings.weight" in packed
    assert tokens(model) == expected
    assert is_packed(model) == packed
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert is_packed(model) == []
    assert tokens(model) == expected


def step_of_an_optimizer(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.tensor(PROMPTS[:1])).float().square().mean().backward()
    optimizer.step()


def merged_adapter(model):
    add_adapter(model, "one", LoRAConfig(rank=2, targets=("wq", "w1", "output")), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    merge_and_unload(model)


def pruned(model):
    prune.l1_unstructured(model.layers["0"].attention.wq, "weight", amount=0.5)
    prune.remove(model.layers["0"].attention.wq, "weight")


def from_another(model):
    model.load_state_dict(build(CONFIG, seed=3).state_dict())


@torch.no_grad()
def in_place(model):
    model.layers["1"].feed_forward.w1.weight.mul_(-1)


def through_data(model):
    model.layers["1"].feed_forward.w1.weight.data.mul_(-1)


def new_data(model):
    model.layers["1"].attention.wv.weight.data = torch.ones(128, 256, dtype=torch.bfloat16)


def new_parameter(model):
    model.layers["1"].attention.wv.weight = nn.Parameter(torch.ones(128, 256, dtype=torch.bfloat16))


@torch.no_grad()
def from_a_vector(model):
    vector_to_parameters(parameters_to_vector(model.parameters()).flip(0), model.parameters())


@torch.no_grad()
def foreach(model):
    torch._foreach_mul_([p for p in model.parameters() if p.ndim == 2], -0.5)


def initialized(model):
    nn.init.constant_(model.layers["0"].feed_forward.w3.weight, 0.01)


CHANGES = [step_of_an_optimizer, merged_adapter, pruned, from_another, in_place, through_data, new_data]
CHANGES += [new_parameter, from_a_vector, foreach, initialized]


@needs_packing
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_a_packed_weight_is_seen(change, monkeypatch):
    model, untouched = make(), make()
    first = tokens(model)
    assert is_packed(model)
    assert not is_packed(untouched)
    change(model)
    change(untouched)
    assert tokens(model) == plainly(untouched, monkeypatch) != first
    assert parameters_to_vector(model.parameters()).equal(parameters_to_vector(untouched.parameters()))


@needs_packing
@pytest.mark.parametrize("shape", [(300, 256), (2048, 64), (1025, 130)], ids=str)
def test_rows_of_a_packed_table_are_looked_up_as_they_are(shape):
    table, layer = nn.Embedding(*shape).bfloat16(), Linear(*reversed(shape), bias=False)
    layer.weight, layer.is_table = table.weight, True
    ids, expected = torch.randint(shape[0], (3, 50)), table.weight.detach().clone()
    ids[0, :2] = torch.tensor([0, shape[0] - 1])
    with torch.no_grad():
        layer(torch.ones(1, shape[1]).bfloat16())
        assert table(ids).equal(expected[ids])
        assert (type(table.weight) is PackedWeight) == layer.packs
        assert layer.packs or shape[1] % 64
        for wrong in (-1, shape[0]):
            with pytest.raises(IndexError):
                table(torch.tensor([[0, wrong]]))
    assert table(ids).equal(expected[ids])
    assert type(table.weight) is nn.Parameter


@needs_packing
def test_who_held_the_weight_before_still_holds_it():
    model = make()
    weight, values = model.layers["0"].attention.wo.weight, model.layers["0"].attention.wo.weight.tolist()
    tokens(model)
    assert type(weight) is PackedWeight
    assert weight.shape == (256, 256)
    assert weight.dtype == torch.bfloat16
    assert weight.requires_grad
    assert weight.grad is None
    assert weight.device.type == "cpu"
    assert weight.numel() == 65536
    assert type(weight) is PackedWeight, "a question about its shape must not unpack it"
    assert weight.tolist() == values
    assert type(weight) is nn.Parameter


@needs_packing
def test_memory_that_others_can_write_is_not_packed():
    model = make()
    state = model.state_dict()
    first = tokens(model)
    assert is_packed(model) == []
    state["layers.0.attention.wo.weight"].neg_()
    assert tokens(model) != first


@needs_packing
def test_a_graph_that_waits_for_its_backward_pass_keeps_its_weights():
    layer, x = Linear(256, 512, bias=False).bfloat16(), torch.randn(1, 256).bfloat16()
    expected = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)[0]
    out = layer(x).sum()
    with torch.no_grad():
        layer(x)
    assert torch.autograd.grad(out, x)[0].equal(expected)


@needs_packing
@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: torch.load(_saved(model), weights_only=False),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_of_a_packed_model_is_a_model(copied):
    model = make()
    first = tokens(model)
    twin = copied(model)
    in_place(twin)
    assert tokens(model) == first != tokens(twin)
    assert model.float().layers["0"].attention.wq.weight.dtype == torch.float32


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


MEMORY = """
import torch
from llama_minimal.linear import Linear
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024
def one_token(layers):
    with torch.no_grad():
        for layer in layers:
            layer(torch.ones(1, 2048, dtype=torch.bfloat16))
one_token([Linear(2048, 512, bias=False).bfloat16()])
empty = resident()
layers = [Linear(2048, 2048, bias=False, dtype=torch.bfloat16) for _ in range(16)]
plain = resident() - empty
one_token(layers)
print((resident() - empty) / plain, type(layers[0].weight).__name__)
"""


@needs_packing
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_packed_weights_take_no_more_memory():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=True)
    ratio, name = done.stdout.split()
    assert name == "PackedWeight"
    assert float(ratio) <= 1.1


def test_layers_of_one_vector_share_memory_after_the_first_token_and_are_saved_as_before(tmp_path):
    from llama_minimal.checkpoint import load, save

    model = make(torch.float32)
    save(model, tmp_path / "before")
    tokens(model)
    parts = model.layers["0"].attention
    assert parts.wq.weight.untyped_storage().data_ptr() == parts.wv.weight.untyped_storage().data_ptr()
    save(model, tmp_path / "after")
    files = [sorted(path.rglob("*.safetensors")) for path in (tmp_path / "before", tmp_path / "after")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert tokens(load(tmp_path / "after")[0]) == tokens(model)


def test_compiling_pays_for_a_few_texts_or_a_tiny_model(monkeypatch):
    assert compiling_pays(build(CONFIG.replace(dim=32, hidden_dim=64, head_dim=8)), n_rows=20)
    int4, short = (quantize(make(torch.bfloat16), "int4", group_size=size) for size in (32, 16))
    for model, few in ((make(), 8), (make(torch.bfloat16), 8), (make(torch.float16), 0), (int4, 4), (short, 0)):
        assert compiling_pays(model, n_rows=1)
        assert few == 0 or compiling_pays(model, n_rows=few)
        said = f"pays for {max(few, 1)} of .* there are {few + 2} here, .* fewer than {LARGE:,} numbers"
        with pytest.warns(UserWarning, match=said):
            assert not compiling_pays(model, n_rows=few + 2)
    monkeypatch.setattr(compiling.native, "build", lambda: False)
    with pytest.warns(UserWarning, match="not compiled"):
        assert not compiling_pays(make(), n_rows=2)


def test_a_compiled_layer_multiplies_a_vector_by_what_its_codes_stand_for():
    torch.manual_seed(0)
    plain = [Linear(96, 40, bias=b).to(dtype) for b in (False, True) for dtype in (torch.float32, torch.bfloat16)]
    kinds = [("int8", None), ("int8", 32), ("int4", 32), ("int4", 16), ("int4", 64), ("fp8", None)]  # 64: a short group
    coded = [
        SCHEMES[kind].from_weight(torch.randn(40, 96), torch.randn(40), group_size=size, dtype=dtype)
        for kind, size in kinds
        for dtype in (torch.float32, torch.bfloat16)
    ]
    layers = nn.ModuleList(plain + coded)
    x = torch.randn(1, 1, 96)

    @torch.compile(fullgraph=True)
    def products(x):
        return [layer(x.to(layer.bias.dtype if layer.bias is not None else layer.weight.dtype)) for layer in layers]

    with torch.no_grad(), plain_weights(layers):
        for layer in coded:
            assert layer.scheme != "int4" or (layer.grids is not None) == (layer.group_size in (16, 32))
        for layer, out in zip(layers, products(x), strict=True):
            matrix = layer.weight if type(layer) is Linear else layer.decode()
            bias = None if layer.bias is None else layer.bias.double()
            exact = F.linear(x.to(matrix.dtype).double(), matrix.double(), bias)
            rounding = 1e-6 if out.dtype == torch.float32 else 1e-2
            torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=10 * rounding)
    assert all(layer.packs for layer in layers)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_codes_in_the_order_of_the_processor_are_not_taken_for_plain_ones_in_code_that_a_user_compiles(kind):
    assert native.build()
    layer = SCHEMES[kind].from_weight(torch.randn(512, 256), group_size=32 if kind == "int4" else None)
    x = torch.randn(1, 256, dtype=torch.bfloat16)
    layer.prepare()
    with torch.no_grad():
        layer(x)  # lays them out
        found = torch.compile(layer, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(found.float(), F.linear(x.float(), layer.decode().float()), rtol=2e-2, atol=0.2)


def test_grids_of_compiled_code_are_made_once_and_anew_when_they_change():
    layer = SCHEMES["int4"].from_weight(torch.randn(40, 96), group_size=32)
    layer.prepare()
    first = layer.grids
    layer.restore()
    layer.prepare()
    assert layer.grids is first
    with torch.no_grad():
        layer.scale.mul_(2)
    layer.prepare()
    assert layer.grids[0].equal(2 * first[0])
    layer.load_state_dict(SCHEMES["int4"].from_weight(torch.randn(40, 96), group_size=32).state_dict())
    layer.prepare()
    assert layer.grids[:, 0].equal(layer.scale.float()[..., 0].t())
    assert "grids" not in layer.__getstate__()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_a_compiled_step_reads_plain_weights_and_leaves_them_to_be_packed_again(kind, monkeypatch):
    """Compiled, but not by the slow part of the compiler."""
    compile = torch.compile
    plainly = {"backend": "eager", "mode": None, "options": None}
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile(f, **(how | plainly)))
    generation._compiled_step.cache_clear()
    model = make(torch.float32 if kind == "float32" else torch.bfloat16, tie_embeddings=True)
    if kind.startswith("int"):
        quantize(model, kind)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = tokens(model, PROMPTS[:1])
    steps = generate(model, None, PROMPTS[:1], max_new_tokens=12, compile=True)
    generation._compiled_step.cache_clear()
    n_certain = 12 if kind == "float32" else 3  # other sums are rounded to bfloat16
    assert steps[0].tokens[:n_certain] == before[0][:n_certain]
    assert tokens(model, PROMPTS[:1]) == before
    assert bool(is_packed(model)) == (kind == "bfloat16" and can_pack())
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
