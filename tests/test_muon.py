"""Muon: against PyTorch's own, against the NumPy twin, and against the singular values that it is about."""

import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import LlamaConfig
from llama_minimal.data import Batches, make_batches
from llama_minimal.model import build
from llama_minimal.muon import QUINTIC, Muon, orthogonalize
from llama_minimal.optim import learning_rate, make_optimizer, set_learning_rate
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, hidden_dim=48, max_seq_len=32)
TOKENS = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 50).astype(np.uint16)
RECIPE = {"optimizer": "muon", "steps": 12, "batch_size": 4, "seq_len": 16, "warmup_steps": 2, "lr": 4e-3}
SHAPES = [(8, 8), (6, 14), (14, 6)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices_with_gradients():
    parameters = [torch.nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    for i, parameter in enumerate(parameters):
        parameter.grad = draw(*parameter.shape, seed=10 + i)
    return parameters


@pytest.mark.parametrize("shape", [*SHAPES, (3, 6, 14)])
def test_it_acts_on_singular_values_alone(shape):
    """Its result is U p(S) Vᵀ, with the polynomial applied five times to what an SVD finds."""
    X = draw(*shape)
    U, S, Vt = torch.linalg.svd(X, full_matrices=False)
    s = S / S.norm(dim=-1, keepdim=True)
    a, b, c = QUINTIC
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalize(X), U * s.unsqueeze(-2) @ Vt, rtol=1e-9, atol=1e-9)


def test_small_directions_come_to_count_like_large_ones():
    U, V = (torch.linalg.qr(draw(40, 40, seed=seed))[0] for seed in (1, 2))
    before = torch.logspace(0, -1.5, 40, dtype=torch.float64)  # the largest is 30 times the smallest
    after = torch.linalg.svdvals(orthogonalize(U * before @ V))
    assert 0.65 < after.min() < after.max() < 1.25


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_its_numpy_twin(shape):
    X = draw(*shape)
    np.testing.assert_allclose(orthogonalize(X), reference.orthogonalize(X.numpy()), rtol=1e-10, atol=1e-12)


def test_five_steps_are_those_of_pytorch():
    """PyTorch's Muon computes in bfloat16, so the two agree to its three digits, of updates near 0.01."""
    ours, theirs = matrices_with_gradients(), matrices_with_gradients()
    mine = Muon([{"params": ours, "orthogonal": True}], lr=0.05, weight_decay=0.1, dtype=torch.float64)
    other = torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = draw(*a.shape, seed=100 + step)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for before, a, b in zip(start, ours, theirs, strict=True):
        assert (a - b).norm() < 0.03 * (a - before).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_three_steps_are_those_of_the_numpy_twin(shape):
    parameter = torch.nn.Parameter(draw(*shape))
    matrix, m = parameter.detach().numpy().copy(), np.zeros(shape)
    optimizer = Muon([{"params": [parameter], "orthogonal": True}], lr=0.03, weight_decay=0.2, dtype=torch.float64)
    for step in range(3):
        parameter.grad = draw(*shape, seed=step)
        optimizer.step()
        matrix, m = reference.muon_step(matrix, parameter.grad.numpy(), m, lr=0.03, weight_decay=0.2)
    np.testing.assert_allclose(parameter.detach(), matrix, rtol=1e-10, atol=1e-12)


def test_an_update_has_the_size_of_adamws():
    parameter = torch.nn.Parameter(torch.zeros(300, 200, dtype=torch.float64))
    parameter.grad = draw(300, 200)
    Muon([{"params": [parameter], "orthogonal": True}], lr=1.0, dtype=torch.float64).step()
    assert 0.15 < parameter.square().mean().sqrt() < 0.25  # root mean square: 0.2 of the learning rate


def test_layer_matrices_are_muons_and_the_rest_is_adamws():
    model = build(CONFIG.replace(bias=True, tie_embeddings=True))
    optimizer = make_optimizer(model, TrainConfig(**RECIPE, embedding_lr_ratio=3.0, weight_decay=0.2))
    matrices, rest = optimizer.param_groups
    for name, parameter in model.named_parameters():
        is_muons = any(parameter is p for p in matrices["params"])
        assert is_muons == (name.startswith("layers") and parameter.ndim == 2), name
        assert is_muons != any(parameter is p for p in rest["params"]), name
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    set_learning_rate(optimizer, 0.5)
    assert (matrices["lr"], rest["lr"]) == (0.5, 1.5)


def test_the_loss_curve_is_that_of_the_numpy_twin():
    config = TrainConfig(**RECIPE, schedule="linear", min_lr_ratio=0, embedding_lr_ratio=2.0, weight_decay=0.2)
    trainer = Trainer(build(CONFIG).double(), TOKENS, config)
    params = {name: p.detach().numpy().copy() for name, p in trainer.model.named_parameters()}
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
    expected = []
    for step in range(config.steps):
        loss, grads = reference.loss_and_gradients(params, *trainer.batches.batch(step), CONFIG)
        grads, _ = reference.clip_gradients(grads, 1.0)
        lr = 4e-3 * ((step + 1) / 2 if step < 2 else (12 - step) / 10)
        for name, grad in grads.items():
            m, v = moments[name]
            if name.startswith("layers") and grad.ndim == 2:
                params[name], m = reference.muon_step(params[name], grad, m, lr=lr, weight_decay=0.2)
            else:
                params[name], m, v = reference.adamw_step(params[name], grad, m, v, step + 1, lr=2 * lr, weight_decay=0)
            moments[name] = m, v
        expected.append(loss)
    np.testing.assert_allclose([metrics["loss"] for metrics in trainer.run()], expected, rtol=1e-9)


@pytest.mark.parametrize("short_seq_len", [None, 4])
def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path, short_seq_len):
    def trainer(folder):
        config = TrainConfig(**RECIPE, snapshot_every=5, short_seq_len=short_seq_len)
        return Trainer(build(CONFIG), TOKENS, config, out=tmp_path / folder)

    unbroken, broken, resumed = trainer("a"), trainer("b"), trainer("b")
    list(unbroken.run())
    for metrics in broken.run():
        broken.stop_requested = metrics["step"] == 6
    assert resumed.resume()
    list(resumed.run())
    for name, parameter in unbroken.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name


def test_an_overflow_of_float16_leaves_everything_as_it_was():
    model = build(CONFIG)
    optimizer = make_optimizer(model, TrainConfig(**RECIPE, precision="fp16"))
    scaler = torch.amp.GradScaler("cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.layers["1"].attention.wq.weight.grad[3, 5] = math.inf
    scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_it_learns_more_in_as_many_steps_than_adamw():
    """A property of this toy at the best of three rates each, with three seeds."""

    def best(optimizer):
        return [min(last_loss(optimizer, lr, seed) for lr in (1e-3, 4e-3, 1.6e-2)) for seed in range(3)]

    def last_loss(optimizer, lr, seed):
        config = TrainConfig(optimizer=optimizer, lr=lr, seed=seed, steps=60, batch_size=8, seq_len=16, warmup_steps=5)
        curve = [metrics["loss"] for metrics in Trainer(build(CONFIG, seed=seed), TOKENS, config).run()]
        return sum(curve[-10:]) / 10

    assert max(best("muon")) < min(best("adamw"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd' .*'adamw', 'muon'"),
        ({"schedule": "step"}, "schedule='step' .*'cosine', 'linear'"),
        ({"embedding_lr_ratio": 0}, "embedding_lr_ratio=0"),
        ({"optimizer": "adamw", "embedding_lr_ratio": 2}, "embedding_lr_ratio=2.* is for optimizer='muon'"),
        ({"short_seq_len": 5}, "short_seq_len=5 must be a smaller divisor of seq_len=16, such as 8"),
        ({"short_seq_len": 16}, "short_seq_len=16 must be a smaller divisor"),
        ({"short_seq_len": 8, "short_share": 1.0}, "short_share=1.0"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**(RECIPE | changes))


def test_short_sequences_come_first_and_a_step_has_as_many_tokens():
    config = TrainConfig(**RECIPE, short_seq_len=4, short_share=0.5)
    batches = make_batches(TOKENS, config)
    shapes = [batches.batch(step)[0].shape for step in range(12)]
    assert shapes == [(16, 4)] * 6 + [(4, 16)] * 6
    assert [batches.seq_len_at(step) for step in range(12)] == [4] * 6 + [16] * 6
    whole = {"batch_size": 4, "seq_len": 16}
    for step in (6, 11):  # afterwards they are what they would have been without the first stage
        for ours, plain in zip(batches.batch(step), Batches(TOKENS, **whole).batch(step), strict=True):
            np.testing.assert_array_equal(ours, plain)
    shared = [make_batches(TOKENS, config, rank=rank, world_size=2).batch(3)[1] for rank in (0, 1)]
    np.testing.assert_array_equal(np.stack(shared, axis=1).reshape(16, 4), batches.batch(3)[1])


def test_a_line_ends_at_zero_after_the_last_step():
    rates = [
        learning_rate(step, lr=1.0, steps=10, warmup_steps=2, min_lr_ratio=0, schedule="linear") for step in range(11)
    ]
    assert rates[:3] == [0.5, 1.0, 1.0]
    np.testing.assert_allclose(np.diff(rates[2:]), -1 / 8)
    assert rates[10] == 0
    floor = [learning_rate(s, lr=1.0, steps=10, warmup_steps=2, min_lr_ratio=0.2, schedule="linear") for s in range(10)]
    assert floor[-1] == pytest.approx(0.2)
