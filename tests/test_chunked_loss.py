"""The loss in chunks: the whole logits' numbers and gradients, whatever the output layer is, from less memory."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memory import live_bytes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llama_minimal.chunked_loss import chunk_rows, chunked_loss
from llama_minimal.config import LlamaConfig
from llama_minimal.linear import Linear
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.loss import IGNORE, next_token, next_token_loss
from llama_minimal.mixed_precision import Float8Linear
from llama_minimal.model import build
from llama_minimal.parallel import Mesh, parallelize
from llama_minimal.parallel.layerwise import place_layers
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

B, T, D, V = 3, 7, 8, 11
aten = torch.ops.aten


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def targets():
    targets = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
    targets[0, 2] = targets[2, -1] = IGNORE
    return targets


WEIGHTS = {"no weights": None, "weights": 2 * draw(B, T, seed=2).abs()}


def close(found, expected, tolerance):
    """Within a share of the largest number: the smallest are differences of large ones."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * max(1e-6, b.abs().max().item()))


def gradients(loss, inputs, factor=0.3):
    total, count = loss()
    return total.detach(), count, *torch.autograd.grad(factor * total, inputs)


@pytest.mark.parametrize("rows", [None, 1, 4, 7, 100])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_numbers_and_gradients_are_those_of_whole_logits(targets, weights, rows):
    x, w = (3 * draw(*shape) for shape in ((B, T, D), (V, D)))
    inputs = [x.requires_grad_(), w.requires_grad_()]
    found = gradients(lambda: chunked_loss(x, w, targets, weights, rows=rows), inputs)
    close(found, gradients(lambda: next_token_loss(F.linear(x, w), targets, weights), inputs), 1e-6)
    losses = F.cross_entropy(F.linear(x, w).flatten(0, 1), targets.flatten(), reduction="none")
    expected = (losses * (1 if weights is None else weights.flatten())).sum()
    close(found[:1], [expected.detach()], 1e-6)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_gradients_are_those_of_central_differences(targets, weights):
    """In float64. (``gradcheck`` goes backward many times through one graph.)"""
    inputs = [draw(*shape, dtype=torch.float64).requires_grad_() for shape in ((B, T, D), (V, D))]

    def loss():
        return chunked_loss(*inputs, targets, weights, rows=4)[0]

    found = torch.autograd.grad(loss(), inputs)
    with torch.no_grad():
        for values, gradient in zip(inputs, found, strict=True):
            for place in np.ndindex(*values.shape):
                ends = []
                for step in (1e-5, -1e-5):
                    values[place] += step
                    ends.append(loss())
                    values[place] -= step
                assert abs((ends[0] - ends[1]) / 2e-5 - gradient[place]) < 1e-8


def adapted(layer, **options):
    holder = nn.ModuleDict({"output": layer})
    add_adapter(holder, "one", LoRAConfig(rank=2, targets=("output",), **options))
    nn.init.normal_(layer.adapters["one"].B)
    return layer


class Tempered(Linear):
    def forward(self, x):
        return super().forward(x) / 0.7


def hooked(layer):
    layer.register_forward_hook(lambda _module, _inputs, logits: 2 * logits)
    return layer


def frozen(layer):
    return layer.requires_grad_(False)


def linear(kind=Linear, **options):
    torch.manual_seed(0)
    return kind(D, V, **options)


OUTPUTS = {
    "plain": partial(linear, bias=False),
    "PyTorch's own": partial(linear, nn.Linear, bias=False),
    "bias": linear,
    "frozen": lambda: frozen(linear(bias=False)),
    "frozen, with a bias": lambda: frozen(linear()),
    "low-rank adapter": lambda: adapted(linear(bias=False)),
    "subclass": partial(linear, Tempered, bias=False),
    "hook": lambda: hooked(linear(bias=False)),
    "8 bits": lambda: Float8Linear(linear().weight),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(linear(bias=False)),
    "two layers": lambda: nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, V)),
    "a layer without a part": lambda: nn.ModuleDict({"unused": nn.Linear(2, 2), "used": linear()})["used"],
}


@pytest.mark.parametrize("body_learns", [True, False])
@pytest.mark.parametrize("make", OUTPUTS.values(), ids=OUTPUTS)
def test_whatever_the_output_layer_is(targets, make, body_learns):
    x, output = draw(B, T, D).requires_grad_(body_learns), make()
    inputs = [p for p in (x, *output.parameters()) if p.requires_grad]
    if not inputs:
        assert not chunked_loss(x, output, targets, rows=4)[0].requires_grad
        return
    found = gradients(lambda: chunked_loss(x, output, targets, WEIGHTS["weights"], rows=4), inputs)
    close(found, gradients(lambda: next_token_loss(output(x), targets, WEIGHTS["weights"]), inputs), 1e-6)
    with torch.no_grad():
        close(chunked_loss(x, output, targets, rows=4), next_token_loss(output(x), targets), 1e-6)


def test_a_parameter_that_an_output_layer_does_not_use_has_no_gradient(targets):
    output = linear(bias=False)
    output.spare = nn.Parameter(torch.ones(3))
    output.register_forward_hook(lambda _module, _inputs, logits: logits)
    chunked_loss(draw(B, T, D), output, targets, rows=4)[0].backward()
    assert output.spare.grad is None
    assert output.weight.grad.any()


@pytest.mark.parametrize("kind", ["plain", "bias", "low-rank adapter"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_as_it_does_with_whole_logits(targets, kind, dtype):
    """Against float64, no further off than the whole logits are, but for the order of sums; all in float32 at last."""
    x, output = draw(B, T, D).requires_grad_(), OUTPUTS[kind]()
    inputs = [p for p in (x, *output.parameters()) if p.requires_grad]
    with torch.autocast("cpu", dtype):
        found = gradients(lambda: chunked_loss(x, output, targets, rows=4), inputs)
        rounded = gradients(lambda: next_token_loss(output(x), targets), inputs)
    exact = gradients(lambda: next_token_loss(output(x), targets), inputs)
    for a, b, c in zip(found, rounded, exact, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert (a - c).norm() <= 1.5 * (b - c).norm() + 1e-3 * c.norm()


def test_gradients_of_many_chunks_are_added_up_in_float32():
    """4,096 chunks of one token in bfloat16: a sum in 8 bits would stop growing after some 256 equal parts."""
    n = 4096
    x, w = torch.ones(1, n, 2, dtype=torch.bfloat16), torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    total, _ = chunked_loss(x, w, torch.zeros(1, n, dtype=torch.long), rows=1)
    total.backward()
    assert w.grad.tolist() == [[-n / 2] * 2, [n / 2] * 2]


def test_an_ignored_target_costs_nothing_whatever_its_logits(targets):
    """It has to name some column, whose logit may be −∞: 0 · ∞ would spoil the sum."""
    x, w = draw(B, T, D).abs(), draw(V, D)
    w[0] = -torch.inf
    targets = targets.clamp(min=1).masked_fill(targets == IGNORE, IGNORE)
    total, count = chunked_loss(x, w, targets, rows=4)
    assert total.isfinite()
    close((total, count), next_token_loss(F.linear(x, w), targets), 1e-6)


def test_a_batch_without_targets_costs_nothing_and_has_no_gradient():
    x, w = draw(1, T, D).requires_grad_(), draw(V, D).requires_grad_()
    total, count = chunked_loss(x, w, torch.full((1, T), IGNORE), rows=4)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert not x.grad.any()
    assert not w.grad.any()


@pytest.mark.parametrize("kind", ["plain", "bias"])
@pytest.mark.parametrize("wrong", [V, -1, 10**6])
def test_a_target_that_is_no_token_is_named(targets, wrong, kind):
    targets[1, 3] = wrong
    with pytest.raises(ValueError, match=f"target {wrong} is not among the ids 0 to {V - 1}"):
        chunked_loss(draw(B, T, D), OUTPUTS[kind](), targets, rows=4)


def test_the_backward_pass_cannot_be_gone_through_twice(targets):
    x, w = draw(B, T, D).requires_grad_(), draw(V, D).requires_grad_()
    total, _ = chunked_loss(x, w, targets)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


# Memory and work

MANY, WIDE = 512, 8192


@pytest.mark.parametrize("kind", [Linear, Tempered])
@pytest.mark.parametrize("learns", [True, False])
def test_the_logits_are_never_whole(kind, learns):
    """Of 16 MB of logits, two or three chunks of 1/8 are there at a time, beside the gradients."""
    output, x = kind(D, WIDE, bias=False), draw(1, MANY, D).requires_grad_()
    with live_bytes() as counter, torch.set_grad_enabled(learns):
        total, _ = chunked_loss(x, output, torch.arange(MANY)[None], rows=MANY // 8)
        if learns:
            total.backward()
    assert counter.peak < MANY * WIDE * 4 / 8 * 3.5 + 3 * output.weight.nbytes


class Products(TorchDispatchMode):
    """Count the multiplications of matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (aten.mm, aten.addmm, aten.addmm_):
            a, b = args[-2:]
            self.count += a.size(0) * b.numel()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["plain", "bias"])
def test_no_product_is_computed_twice(kind):
    x, output, targets = draw(1, MANY, D).requires_grad_(), OUTPUTS[kind](), torch.zeros(1, MANY, dtype=torch.long)
    with Products() as products:
        chunked_loss(x, output, targets, rows=100)[0].backward()
    assert products.count == 3 * MANY * D * V  # z = x wᵀ, dx = d w, dw = dᵀ x
    with Products() as products, torch.no_grad():
        chunked_loss(x, output, targets, rows=100)
    assert products.count == MANY * D * V


@pytest.mark.parametrize("shape", [(2048, 288, 32_000), (8192, 4096, 128_256), (3, 8, 11), (0, 8, 5)])
def test_chunks_are_about_equal_and_small_beside_what_is_there(shape):
    (n, dim, vocab_size), rows = shape, chunk_rows(*shape)
    assert rows >= 1
    assert rows * vocab_size <= max(2**21, n * dim, vocab_size * dim / 4)
    assert n % rows == 0 or rows - n % rows <= -(-n // rows)


# In training

SHAPE = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=WIDE, max_seq_len=64, tie_embeddings=True)
RECIPE = TrainConfig(steps=3, batch_size=16, seq_len=64, warmup_steps=1, lr=1e-3, validate_every=3)
TOKENS = np.random.default_rng(0).integers(0, WIDE, 3000)


def test_training_takes_chunks_unless_an_objective_says_otherwise():
    curves, peaks = [], []
    for objective in (None, next_token):
        trainer = Trainer(build(SHAPE), TOKENS, RECIPE, validation=TOKENS[:1100], objective=objective)
        with live_bytes() as counter:
            curves.append([(m["loss"], m["grad_norm"], m.get("validation_loss", 0)) for m in trainer.run()])
        peaks.append(counter.peak)
    np.testing.assert_allclose(*curves, rtol=1e-6)
    logits = 16 * 64 * WIDE * 4
    assert peaks[1] > 2 * logits
    assert peaks[0] < logits


CASES = {
    "llama": {},
    "tied": {"tie_embeddings": True},
    "labels": {"labels": ("a", "b", "c")},
    "transformer": {"norm_placement": "post", "norm": "layer", "ffn": "relu", "position": "sinusoidal", "bias": True},
}
SMALL = LlamaConfig(dim=16, n_layers=2, n_heads=2, vocab_size=V, max_seq_len=T)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_models_gradients(targets, changes, documents):
    model = build(SMALL.replace(**changes), dtype=torch.float64)
    inputs = torch.arange(B * T).view(B, T) % V
    targets = targets.clamp(max=2) if "labels" in changes else targets
    batch = (inputs, targets, *([inputs // 4] if documents else []))
    chunks = partial(chunked_loss, rows=4)
    found, expected = (
        gradients(lambda loss=loss: next_token(model, batch, loss=loss), list(model.parameters()))
        for loss in (chunks, None)
    )
    close(found, expected, 1e-9)


def test_layers_on_several_devices(targets):
    model = place_layers(build(SMALL.replace(tie_embeddings=True), dtype="float64"), ["cpu", "cpu"])
    batch, chunks = (torch.arange(B * T).view(B, T) % V, targets), partial(chunked_loss, rows=4)
    parameters = list(model.parameters())
    found = gradients(lambda: next_token(model, batch, loss=chunks), parameters)
    close(found, gradients(lambda: next_token(model, batch), parameters), 1e-9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_micro_batches_add_up(targets, precision):
    batch = (torch.arange(B * T).view(B, T) % V, targets)
    sums = []
    for options in ({}, {"activation_checkpointing": True}):
        for size in (None, 1):
            mesh = Mesh(device=torch.device("cpu"))
            found = parallelize(build(SMALL), mesh, precision=precision, **options)
            total, count = found.forward_backward(batch, scale=lambda part: part / 19, micro_batch_size=size)
            sums.append([total, count, *(p.grad for p in found.model.parameters())])
    for other in sums[1:]:
        close(other, sums[0], 2e-6 if precision == "fp32" else 3e-2)


@pytest.mark.parametrize("apart", [0.0, 1e-3, 5.0, 20.0, 88.0, 104.0, 1e4])
def test_a_loss_is_right_however_sure_or_wrong_a_model_is(apart):
    """Of the wrong ones the probability is 0 in float32."""
    x, matrix, targets = torch.tensor([[[apart]] * 2]), torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[0, 1]])
    for one in range(2):
        parts = [part.clone().requires_grad_() for part in (x[:, one], matrix)]
        wide = [part.double().detach().requires_grad_() for part in parts]
        total, _ = chunked_loss(*parts, targets[:, one])
        expected, _ = next_token_loss(F.linear(*wide), targets[:, one])
        assert total.item() == pytest.approx(expected.item(), rel=1e-6, abs=3e-7)
        for found, right in zip(torch.autograd.grad(total, parts), torch.autograd.grad(expected, wide), strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-6)
