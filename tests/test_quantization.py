"""Quantization: the grids against NumPy and brute force, the layers against their decoded matrices, whole models."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llama_minimal import reference
from llama_minimal.checkpoint import load, load_adapter, save, save_adapter
from llama_minimal.cli import main
from llama_minimal.config import LlamaConfig
from llama_minimal.generation import generate, stream
from llama_minimal.linear import Linear, linears
from llama_minimal.lora import LoRAConfig, adapters, add_adapter, merge, remove_adapter
from llama_minimal.lora.adapters import adapter_tensors
from llama_minimal.model import build
from llama_minimal.quantization import (
    SCHEMES,
    Quantization,
    from_codes,
    gptq,
    kernels,
    pack_int4,
    quantization_of,
    quantize,
    quantized_layers,
    rounding_error,
    second_moment,
    symmetric_grid,
    to_codes,
    unpack_int4,
    weight_bytes,
    zero_point_grid,
)
from llama_minimal.quantization.layers import SideBySide
from tests.tiny_models import draw_model, make_lively

ALL = tuple(SCHEMES)
CONFIG = LlamaConfig(dim=128, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=176, vocab_size=320, max_seq_len=96)
PROMPTS = [[5, 6, 7, 8], [9]]
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-1e3, 1e3, width=32))


def make(seed=0, **changes):
    """Draw a model whose matrices fit the processor's products, though the rows of w2 are no whole groups."""
    return make_lively(build(CONFIG.replace(**changes), seed=seed).eval())


def tokens(model, prompts=PROMPTS):
    return [completion.tokens for completion in generate(model, None, prompts, max_new_tokens=12)]


def decoded(model):
    """The same model with plain layers that hold what the codes stand for."""
    plain = build(model.config, seed=None).eval()
    state = {name: p for name, p in model.named_parameters() if ".adapters." not in name}
    for name, layer in quantized_layers(model).items():
        state[f"{name.replace('tok_embeddings.table', 'tok_embeddings')}.weight"] = layer.decode().float()
    if model.config.tie_embeddings:
        state["tok_embeddings.weight"] = state["output.weight"]
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(state[name])
    return plain.to(next(iter(quantized_layers(model).values())).scale.dtype)


def nearest_of_127(x):
    """The same numbers, each token's rounded to whole 127ths of its largest."""
    step = x.float().abs().amax(-1, keepdim=True) / 127
    return ((x.float() / step).round() * step).to(x.dtype)


# Grids


@given(rows, st.integers(2, 8))
def test_grids_and_codes_are_numpys(w, bits):
    t = torch.from_numpy(w)
    scale, theirs = symmetric_grid(t, bits), reference.symmetric_grid(w, bits)
    np.testing.assert_array_equal(scale, theirs)
    codes = to_codes(t, scale, bits=bits)
    np.testing.assert_array_equal(codes, reference.to_codes(w, theirs, bits=bits))
    np.testing.assert_array_equal(from_codes(codes, scale), reference.from_codes(codes.numpy(), theirs))
    (scale, zero), theirs = zero_point_grid(t, bits), reference.zero_point_grid(w, bits)
    np.testing.assert_array_equal(torch.stack([scale, zero]), np.stack(theirs))
    codes = to_codes(t, scale, zero, bits=bits)
    np.testing.assert_array_equal(codes, reference.to_codes(w, *theirs, bits=bits))
    np.testing.assert_array_equal(from_codes(codes, scale, zero), reference.from_codes(codes.numpy(), *theirs))


@given(rows, st.integers(2, 8))
def test_every_number_goes_to_the_nearest_of_its_grid(w, bits):
    t = torch.from_numpy(w)
    for grid, first in (((symmetric_grid(t, bits), None)), 1 - 2 ** (bits - 1)), (zero_point_grid(t, bits), 0):
        scale, zero = grid
        last = 2 ** (bits - 1) - 1 if zero is None else 2**bits - 1
        all_codes = torch.arange(first, last + 1).expand(len(t), -1)
        numbers = from_codes(all_codes, scale, zero)  # (rows, numbers of the grid)
        least = (t[..., None] - numbers[:, None]).abs().amin(-1)
        rounded = from_codes(to_codes(t, scale, zero, bits=bits), scale, zero)
        torch.testing.assert_close((t - rounded).abs(), least, rtol=1e-9, atol=1e-9)
        assert (least <= scale * (0.5 if zero is None else 1) + 1e-9).all()


def test_zero_stays_zero():
    w = torch.tensor([[0.0, 0.3, 0.7], [-0.9, 0.0, -0.2], [0.0, 0.0, 0.0]])
    for grid in ((symmetric_grid(w, 3), None), zero_point_grid(w, 3)):
        assert from_codes(to_codes(w, *grid, bits=3), *grid)[w == 0].eq(0).all()


def test_the_error_of_rounding_is_that_of_the_formula():
    w = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None] - 0.5
    for bits in (3, 4, 8):
        scale = symmetric_grid(w, bits)
        error = (w - from_codes(to_codes(w, scale, bits=bits), scale)).square().mean()
        torch.testing.assert_close(error, rounding_error(scale)[0, 0], rtol=0.02, atol=0)
    np.testing.assert_array_equal(rounding_error(scale), reference.rounding_error(scale.numpy()))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.integers(0, 15)))
def test_two_codes_in_a_byte_come_back(codes):
    packed = pack_int4(torch.from_numpy(codes))
    assert packed.shape == (len(codes), -(-codes.shape[1] // 2))
    np.testing.assert_array_equal(packed, reference.pack_int4(codes))
    np.testing.assert_array_equal(unpack_int4(packed, codes.shape[1]), codes)
    np.testing.assert_array_equal(reference.unpack_int4(packed.numpy(), codes.shape[1]), codes)


@pytest.mark.parametrize("bits", [0, 1, 9, 4.0, True])
def test_bits_are_checked(bits):
    with pytest.raises(ValueError, match="bits="):
        symmetric_grid(torch.ones(1, 2), bits)


# Layers


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("n_in", [64, 43, 176])
def test_a_layer_holds_its_matrix_within_half_a_step(scheme, n_in):
    w = torch.randn(64, n_in, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 1, 64)[:, None]
    w[5] = 0
    group = 32 if scheme == "int4" else None
    layer = SCHEMES[scheme].from_weight(w, group_size=group, dtype=torch.float32)
    if scheme.startswith("int8"):
        allowed = w.abs().amax(1, keepdim=True) / 127 / 2
    elif scheme == "int4":
        wide = F.pad(w, (0, -n_in % 32)).unflatten(1, (-1, 32))
        width = wide.amax(-1).clamp(min=0) - wide.amin(-1).clamp(max=0)
        allowed = (width / 15).repeat_interleave(32, 1)[:, :n_in]  # the zero point rounds, too
    else:
        allowed = torch.maximum(w.abs() / 16, w.abs().amax(1, keepdim=True) / 448 / 1024)
    assert ((layer.decode() - w).abs() <= allowed * 1.001 + 1e-12).all()
    some = torch.tensor([[7, 0], [5, 63]])
    assert layer.decode(some.flatten()).equal(layer.decode()[some.flatten()])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("n_in", [64, 176])
@pytest.mark.parametrize("n_out", [128, 172, 65])
@pytest.mark.parametrize("shape", [(1, 1), (3,), (2, 5), (64,), (65,), (0, 2)])
def test_the_processors_product_is_that_of_the_decoded_matrix(scheme, n_in, n_out, shape):
    torch.manual_seed(0)
    group = 32 if scheme == "int4" else None
    layer = SCHEMES[scheme].from_weight(torch.randn(n_out, n_in), torch.randn(n_out), group_size=group)
    x = torch.randn(*shape, n_in).bfloat16()
    before = layer.decode()
    expected = F.linear(x.double(), before.double(), layer.bias.double())
    with torch.inference_mode():
        out = layer(x)
        torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.15)
        assert layer.is_laid_out == (None if x.numel() in (0, 65 * n_in) else True)
        assert layer.decode().equal(before)
        assert layer.decode(torch.tensor([3, 60])).equal(before[[3, 60]])
    assert out.dtype == torch.bfloat16
    state = layer.state_dict()
    assert (tuple(state["weight"].shape), tuple(state["scale"].shape)) == layer._shapes()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_table_has_no_rows_behind_the_last(scheme):
    """Layers get some for the processor's product; of a table one might be looked up."""
    tied = draw_model(tie_embeddings=True, vocab_size=90, dim=64, hidden_dim=172)
    model = quantize(tied, scheme)
    with torch.inference_mode():
        model(TOKENS[:, :1])
        assert model.output.padded_scale is None
        assert model.layers["0"].feed_forward.w1.padded_scale is not None
        with pytest.raises(ValueError, match="token id 91 is not among the model's ids 0 to 89"):
            model(torch.tensor([[91]]))


def test_the_layout_of_this_processor_is_the_one_pytorch_makes():
    layout = kernels.int4_layout()
    if layout is None:
        pytest.skip("this processor's int4 product has another order, or there is none")
    codes = torch.randint(0, 16, (192, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1).view(192, -1)
    assert layout.lay_out(codes).equal(theirs)
    assert layout.take(theirs).equal(codes)
    assert layout.take_rows(theirs, torch.tensor([0, 65, 191, 40])).equal(codes[[0, 65, 191, 40]])


def test_gradients_reach_the_input():
    layer = SCHEMES["int8"].from_weight(torch.randn(64, 64), dtype=torch.float32)
    x = torch.randn(2, 64, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.decode().sum(0).expand(2, -1))


def test_layers_side_by_side_give_what_each_gives():
    for scheme, group in (("int8", None), ("int4", 32)):
        layers = [SCHEMES[scheme].from_weight(torch.randn(n, 176), group_size=group) for n in (128, 64, 64)]
        x = torch.randn(2, 1, 176).bfloat16()
        with torch.inference_mode():
            alone = [copy.deepcopy(layer)(x) for layer in layers]
            for _ in range(2):
                for out, right in zip(linears(x, *layers), alone, strict=True):
                    torch.testing.assert_close(out, right)
            assert type(layers[0].together) is SideBySide
            layers[1].load_state_dict(SCHEMES[scheme].from_weight(torch.ones(64, 176), group_size=group).state_dict())
            alone[1] = copy.deepcopy(layers[1])(x)
            for out, right in zip(linears(x, *layers), alone, strict=True):
                torch.testing.assert_close(out, right)
            layers[1].register_forward_hook(lambda *args: args[2] * 0)
            assert linears(x, *layers)[1].eq(0).all()


# Whole models


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_computes_what_its_decoded_matrices_compute(scheme, dtype, switches):
    model = quantize(draw_model(**switches), scheme, dtype=dtype)
    plain = decoded(model)
    if scheme == "int8-dynamic":  # what each layer reads is rounded, too
        for layer in plain.modules():
            if isinstance(layer, Linear):
                layer.register_forward_pre_hook(lambda _, inputs: nearest_of_127(*inputs))
    tolerance = 1e-5 if dtype == torch.float32 else 0.3
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), plain(TOKENS), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"share_layers": 2}, {"bias": True}], ids=str)
def test_text_streaming_and_batches(scheme, changes, monkeypatch):
    model = quantize(make(**changes), scheme)
    text = tokens(model)
    assert tokens(model) == text == [tokens(model, [prompt])[0] for prompt in PROMPTS]
    assert len({token for row in text for token in row}) > 2
    with torch.no_grad():  # a token at a time is what all at once would be
        whole = torch.tensor([PROMPTS[0] + text[0]])
        logits = model(whole)[0, len(PROMPTS[0]) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(text[0])[:, None])[:, 0]
        assert (chosen >= logits.amax(1) - 0.15 * logits.std()).all()


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.28), ("int4", 0.17), ("fp8", 0.28)])
@pytest.mark.parametrize("tied", [False, True])
def test_bytes_in_memory(scheme, most, tied):
    model = build(LlamaConfig(dim=256, n_layers=2, n_heads=4, vocab_size=2048, tie_embeddings=tied))
    before = weight_bytes(model)
    assert before == 4 * sum(p.numel() for p in model.parameters())
    quantize(model, scheme)
    assert weight_bytes(model) <= most * before
    tokens(model)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in all_tensors(model)}
    assert sum(storages.values()) <= most * before, "what the processor's order needs counts, too"


def all_tensors(model):
    for layer in quantized_layers(model).values():
        yield from (layer.weight, layer.scale)
        if "together" in layer.__dict__:
            yield from (layer.together.codes, layer.together.scale)
    yield from model.parameters()


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"share_layers": 2}, {"bias": True}], ids=str)
def test_saved_and_loaded(scheme, changes, tmp_path):
    model = quantize(make(**changes), scheme, skip=("wv",))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = tokens(model)
    save(model, tmp_path / "model")
    again, _ = load(tmp_path / "model")
    assert quantization_of(again) == quantization_of(model)
    assert tokens(again) == text == tokens(model)
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        state = other.state_dict()
        assert state.keys() == before.keys()
        assert all(state[name].equal(tensor) for name, tensor in before.items())
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size < weight_bytes(model) + 20_000


def test_a_damaged_folder_is_refused_in_words(tmp_path):
    save(quantize(make(), "int8"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for how, message in (({"scheme": "int3"}, "int3"), ({"scheme": "int8", "skip": ["w9"]}, "w9"), ({}, "scheme")):
        path.write_text(json.dumps(config | {"quantization": how}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    path.write_text(json.dumps(config | {"quantization": {"scheme": "int4"}}))
    with pytest.raises(ValueError, match="shape"):
        load(tmp_path)
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "quantization"}))
    with pytest.raises(ValueError, match=r"torch\.int8"):
        load(tmp_path)


@pytest.mark.parametrize("scheme", ALL)
def test_an_adapter_on_a_quantized_base(scheme, tmp_path):
    model = quantize(make(), scheme)
    base = tokens(model)
    add_adapter(model, "one", LoRAConfig(rank=4, targets=("wq", "w1", "output")))
    assert tokens(model) == base
    loss = F.cross_entropy(model(TOKENS)[0].float(), TOKENS[0])
    loss.backward()
    moved = [p for p in model.parameters() if p.grad is not None]
    assert len(moved) == 2 * 5
    with torch.no_grad():
        for p in adapter_tensors(model, "one").values():
            p.add_(0.3)
    text = tokens(model)
    assert text != base
    with pytest.raises(ValueError, match="no update can be added"):
        merge(model)
    save(model, tmp_path / "both")
    assert tokens(load(tmp_path / "both")[0]) == text
    save_adapter(model, tmp_path / "one", format="native")
    again = quantize(make(), scheme)
    load_adapter(again, tmp_path / "one")
    assert tokens(again) == text
    with pytest.raises(ValueError, match="another base model"):
        load_adapter(quantize(make(seed=1), scheme), tmp_path / "one")
    remove_adapter(model, "one")
    assert tokens(model) == base


def test_the_base_of_an_adapter_is_quantized():
    model = make()
    add_adapter(model, "one", LoRAConfig(rank=4, targets=("wq", "w2")))
    with torch.no_grad():
        for p in adapter_tensors(model, "one").values():
            p.add_(0.3)
    plain = model(TOKENS)
    quantize(model, "int8", dtype=torch.float32)
    assert list(adapters(model)) == ["one"]
    assert (model(TOKENS) - plain).abs().mean() < 0.02 * plain.std()
    assert {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad} == {"A", "B"}


def test_what_cannot_be_is_refused_in_words(tmp_path):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused = [
        (("int5",), {}, "int8"),
        (("int4",), {"group_size": 48}, "group_size=48"),
        (("int8",), {"group_size": 0}, "group_size=0"),
        (("fp8",), {"group_size": 32}, "leave group_size out"),
        (("int8",), {"skip": ("wx",)}, "'wx'"),
        (("int8",), {"skip": "wq"}, "skip='wq'"),
        (("int8",), {"dtype": "int8"}, "dtype"),
    ]
    for args, options, message in refused:
        with pytest.raises(ValueError, match=message):
            quantize(model, *args, **options)
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())
    with pytest.raises(ValueError, match="meta device"):
        quantize(build(CONFIG, device="meta"), "int8")
    quantize(model, "int8")
    with pytest.raises(ValueError, match=r"once more.*int8"):
        quantize(model, "int4")
    for format in ("huggingface", "meta"):
        with pytest.raises(ValueError, match="no place for weights in int8"):
            save(model, tmp_path / "there", format=format)
    assert not (tmp_path / "there").exists()
    broken = make()
    broken.layers["1"].attention.wo.weight.data[3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"layers.1.attention.wo holds NaN"):
        quantize(broken, "int8")


def test_unknown_tokens_are_refused_as_before():
    for scheme in ALL:
        model = quantize(make(tie_embeddings=True), scheme)
        for _ in range(2):
            for wrong in (320, -1):
                with pytest.raises(ValueError, match=f"token id {wrong}"), torch.no_grad():
                    model(torch.tensor([[1, wrong]]))
            tokens(model)


def test_a_model_that_has_written_is_quantized_as_one_that_has_not():
    written, fresh = make(tie_embeddings=True).bfloat16(), make(tie_embeddings=True).bfloat16()
    tokens(written)
    assert tokens(quantize(written, "int4")) == tokens(quantize(fresh, "int4"))


def test_skipped_layers_stay():
    model = quantize(make(tie_embeddings=True), "int4", skip=("output", "layers.0.attention.wq"))
    assert type(model.output) is Linear
    assert model.output.weight is model.tok_embeddings.weight
    assert type(model.layers["0"].attention.wq) is Linear
    assert type(model.layers["1"].attention.wq) is SCHEMES["int4"]
    assert set(quantization_of(model).skip) == {"output", "layers.0.attention.wq"}
    assert Quantization(**quantization_of(model).to_dict()) == quantization_of(model)


def test_orders_hold_on_the_course_model():
    """Compare: int8 is nearly free, int4 costs more, and more without groups."""
    model, tokenizer = load("course", dtype="float32")
    text = generate(model, tokenizer, ["Once upon a time", "One day"], max_new_tokens=150)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.tokens[:120]) for row in text], batch_first=True)

    @torch.no_grad()
    def off(**options):
        other = quantize(copy.deepcopy(model), dtype="float32", **options)
        a, b = model(ids).log_softmax(-1), other(ids).log_softmax(-1)
        return (a.exp() * (a - b)).sum(-1).mean().item()

    int8, groups, per_row = off(scheme="int8"), off(scheme="int4"), off(scheme="int4", group_size="row")
    assert 0 <= 10 * int8 < groups < per_row


def test_on_the_command_line(tmp_path, capsys):
    folder = str(tmp_path / "small")
    main(["convert", "course", folder, "--quantize", "int8"])
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization"]["scheme"] == "int8"
    write = ["-p", "One day", "--max-new-tokens", "8", "--temperature", "0", "--device", "cpu"]
    capsys.readouterr()
    main(["generate", folder, *write])
    from_folder = capsys.readouterr().out
    main(["generate", "course", *write, "--quantize", "int8"])
    assert capsys.readouterr().out == from_folder
    text = tmp_path / "text.txt"
    text.write_text("One day a small fox went to the river.")
    main(["evaluate", "course", "--corpus", str(text), "--quantize", "int4", "--device", "cpu"])
    assert "perplexity" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["convert", folder, str(tmp_path / "other"), "--format", "huggingface"])
    assert "native" in capsys.readouterr().err
    model, tokenizer = load(folder)
    assert "".join(stream(model, tokenizer, "One day", max_new_tokens=8)) in from_folder


# GPTQ


def correlated(n_in, n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, n_in)) @ rng.standard_normal((n_in, n_in)) + rng.standard_normal(n_in)


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_is_the_step_by_step_elimination(bits, group_size):
    w, x = np.random.default_rng(1).standard_normal((5, 12)), correlated(12)
    hessian = second_moment(torch.from_numpy(x))
    np.testing.assert_allclose(hessian, 2 * x.T @ x / len(x))
    codes, scale, zero = gptq(torch.from_numpy(w), hessian, bits, group_size=group_size)
    wide = [part.repeat_interleave(group_size or 12, dim=1) for part in (scale, zero)]
    ours = from_codes(codes, *wide)
    np.testing.assert_allclose(ours, reference.gptq(w, hessian.numpy(), bits, group_size), rtol=1e-8, atol=1e-8)


def output_error(w, rounded, x):
    return float(((w - rounded) @ x.T).square().mean())


def test_gptq_lies_between_rounding_and_the_best_of_all_choices():
    """Try all 4⁶ choices of codes on the grid that rounding has, for each row."""
    x = torch.from_numpy(correlated(6))
    w = torch.from_numpy(np.random.default_rng(2).standard_normal((24, 6)))
    hessian = second_moment(x)
    codes, scale, zero = gptq(w, hessian, 2, damping=0.0)
    choices = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 6)
    sums = np.zeros(3)  # the best, GPTQ, rounding
    for row in range(24):
        numbers = from_codes(choices, scale[row], zero[row])
        best = ((w[row] - numbers) @ x.T).square().mean(1).min().item()
        ours = output_error(w[row], from_codes(codes[row], scale[row], zero[row]), x)
        nearest = from_codes(to_codes(w[row], scale[row], zero[row], bits=2), scale[row], zero[row])
        assert best <= ours + 1e-12
        sums += (best, ours, output_error(w[row], nearest, x))
    assert sums[0] < sums[1] < 0.9 * sums[2]


def test_one_column_after_another_is_answered_as_well_as_can_be():
    """With one number left to round, those after it take the least squares answer."""
    x = torch.from_numpy(correlated(5))
    w = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 5)))
    fixed = torch.zeros_like(w)
    fixed[0, 0] = 0.3
    answer = torch.linalg.lstsq(x[:, 1:], x @ (w - fixed)[0]).solution
    inverse = torch.linalg.inv(second_moment(x))
    moved = w[0, 1:] - (w[0, 0] - 0.3) * inverse[0, 1:] / inverse[0, 0]
    torch.testing.assert_close(moved, answer)


def test_a_feature_that_never_comes_does_no_harm():
    x = torch.from_numpy(correlated(6)).float()
    x[:, 2] = 0
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    codes, scale, zero = gptq(w, second_moment(x), 4)
    assert output_error(w, from_codes(codes, scale, zero), x) < 0.1 * (w @ x.T).square().mean()
    with pytest.raises(ValueError, match="more, such as"):
        gptq(w, torch.zeros(6, 6) - 1, 4, damping=0.0)
    with pytest.raises(ValueError, match="hessian of shape"):
        gptq(w, second_moment(x)[:5], 4)
    codes, scale, zero = gptq(w, second_moment(x), 4, group_size=4)
    assert scale.shape == zero.shape == (4, 2), "the last group is shorter"
    with pytest.raises(ValueError, match="group_size=1"):
        gptq(w, second_moment(x), 4, group_size=1)
