"""Activations computed anew: the same numbers, from less memory."""

import pytest
import torch
from memory import live_bytes
from torch.utils.checkpoint import checkpoint

from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import preset
from llama_minimal.model import build
from llama_minimal.parallel import Mesh, parallelize

SHAPE = {"vocab_size": 64, "n_layers": 6, "dim": 64, "hidden_dim": 160, "n_heads": 4, "n_kv_heads": 2}
B, T, D = 4, 64, 64
X = torch.arange(B * T).view(B, T) * 7 % 64
Y = torch.arange(B * T).view(B, T) * 11 % 64


def parallel(**options):
    model = build(preset("tiny", **SHAPE))
    return parallelize(model, Mesh(device=torch.device("cpu")), **options)


def gradients(found):
    total, _ = found.forward_backward((X, Y), scale=lambda part: part / Y.numel(), micro_batch_size=2)
    return total, {name: parameter.grad for name, parameter in found.model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_and_gradients_are_the_same_bit_for_bit(precision):
    total, kept = gradients(parallel(precision=precision))
    again, anew = gradients(parallel(precision=precision, activation_checkpointing=True))
    assert torch.equal(total, again)
    assert all(torch.equal(kept[name], anew[name]) for name in kept)


def test_the_names_of_the_parameters_stay():
    plain = [name for name, _ in parallel().model.named_parameters()]
    assert [name for name, _ in parallel(activation_checkpointing=True).model.named_parameters()] == plain


def kept_after_forward(found):
    with live_bytes() as counter:
        loss, _ = found._sum_loss((X, Y))
        return counter.now, loss


def test_each_layer_keeps_its_input_alone():
    """Beyond the first layer, B·T·D numbers a layer; without it at least 15 times as many (SwiGLU alone keeps 4F/D)."""
    few, many = (dict(SHAPE, n_layers=n) for n in (2, 6))

    def growth(**options):
        kept = []
        for shape in (few, many):
            model = build(preset("tiny", **shape))
            kept.append(kept_after_forward(parallelize(model, Mesh(device=torch.device("cpu")), **options))[0])
        return (kept[1] - kept[0]) / 4 / (4 * B * T * D)

    assert growth(activation_checkpointing=True) == pytest.approx(1, rel=0.02)  # and a few bytes of random state
    assert growth() > 15


def test_the_bytes_are_those_of_torch_utils_checkpoint():
    """The oracle: PyTorch's function around each block, written out."""

    def written_out(model):
        x = model.tok_embeddings(X)
        rope = tuple(table.unsqueeze(-2) for table in model.positions(torch.arange(T)[None]))
        for layer in model.layers.values():
            x = checkpoint(layer, x, rope, use_reentrant=False)
        return chunked_loss(model.norm(x), model.output, Y)[0]

    model = build(preset("tiny", **SHAPE))
    with live_bytes() as counter:
        expected = written_out(model)
        theirs = counter.now
    ours, loss = kept_after_forward(parallel(activation_checkpointing=True))
    assert torch.equal(loss, expected)
    assert ours == pytest.approx(theirs, rel=0.01)
