"""DP-SGD: each example's gradient, its length, the draw, the noise, and what would break the promise."""

import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import LlamaConfig
from llama_minimal.data.packing import EncodedExample, PackedExamples
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.loss import next_token
from llama_minimal.metrics import MetricsLog, read_metrics
from llama_minimal.model import build
from llama_minimal.prompts import IGNORE
from llama_minimal.responsible_ai.privacy import (
    PoissonBatches,
    PrivacyConfig,
    PrivateObjective,
    clip_factors,
    clipped_sum,
    epsilon,
    example_gradients,
    gradient_norms,
    one_per_row,
    private_trainer,
    spent,
)
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer

BASE = LlamaConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=23, hidden_dim=24, max_seq_len=16)
SHAPES = [
    {},
    {"tie_embeddings": True},
    {"share_layers": 2, "tie_embeddings": True},
    {"bias": True, "norm": "layer", "ffn": "gelu", "position": "sinusoidal"},
    {"norm_placement": "post", "ffn": "relu"},
]


def lively(**changes):
    model = build(BASE.replace(**changes), seed=0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    return model


def rows(n, *, T=9, seed=0, short=True):
    """Examples of random tokens, some of them shorter than a row, so that their targets end early."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, T + 2, size=n) if short else [T + 1] * n
    found = [rng.integers(0, 23, size=length).tolist() for length in lengths]
    return one_per_row([EncodedExample(ids, [True] * len(ids)) for ids in found], seq_len=T)


def batch_of(examples):
    return torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets)


def by_loop(model, batch):
    """One backward pass for each example."""
    found = []
    for row in zip(*batch, strict=True):
        model.zero_grad()
        total, count = next_token(model, tuple(part[None] for part in row))
        (total / count).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_the_gradient_of_each_example_is_that_of_a_backward_pass_of_its_own(changes):
    model, batch = lively(**changes).double(), batch_of(rows(5))
    before = dict(model.named_parameters(remove_duplicate=False))
    gradients, losses = example_gradients(model, batch)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is p for name, p in before.items())  # the model has its own parameters again
    expected = by_loop(model, batch)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-9)
    for loss, *row in zip(losses, *batch, strict=True):
        total, count = next_token(model, tuple(part[None] for part in row))
        assert loss.item() == pytest.approx((total / count).item(), rel=1e-5)


def test_only_what_learns_has_gradients():
    model = lively()
    add_adapter(model, "mine", LoRAConfig(rank=2))
    batch = batch_of(rows(3))
    gradients, _ = example_gradients(model, batch)
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) < len(list(model.parameters()))
    for name, expected in by_loop(model, batch).items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}], ids=str)
def test_opacus_finds_the_same_gradients(changes):
    opacus = pytest.importorskip("opacus.grad_sample")
    model, batch = lively(**changes), batch_of(rows(4, short=False))
    gradients, _ = example_gradients(model, batch)
    wrapped = opacus.GradSampleModule(model, loss_reduction="sum", strict=False)
    total, count = next_token(wrapped, batch)
    (total / (count / len(batch[0]))).backward()
    for name, p in model.named_parameters():
        sample = p.grad_sample
        sample = sum(sample) if isinstance(sample, list) else sample
        torch.testing.assert_close(sample, gradients[name], rtol=1e-4, atol=2e-6, msg=name)


def test_clipping_is_the_one_by_hand_and_leaves_short_gradients_alone():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(6, 35)) * np.array([0, 1e-3, 0.1, 1, 3, 100])[:, None]
    parts = {"a": torch.from_numpy(flat[:, :20].reshape(6, 4, 5)), "b": torch.from_numpy(flat[:, 20:])}
    norms = gradient_norms(parts)
    np.testing.assert_allclose(norms, np.linalg.norm(flat, axis=1), rtol=1e-12)
    np.testing.assert_allclose(clip_factors(norms, 0.7), reference.clip_factors(norms.numpy(), 0.7))
    assert clip_factors(norms, 0.7)[:2].tolist() == [1, 1]
    total = clipped_sum(parts, 0.7)
    joined = np.concatenate([total["a"].numpy().ravel(), total["b"].numpy()])
    np.testing.assert_allclose(joined, reference.clipped_sum(flat, 0.7), rtol=1e-12)


def gradient_of(objective, model, batch):
    model.zero_grad()
    total, count = objective(model, batch)
    (total / (count or 1)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def objective_of(n=6, **settings):
    batches = PoissonBatches(rows(n), batch_size=n, seed=0)
    return PrivateObjective(batches, PrivacyConfig(**{"noise": 0.0, "clip": 0.3, "seed": 0} | settings))


def test_no_example_moves_the_gradient_by_more_than_the_clipping_length():
    """What the noise has to hide. Clipping the mean instead, or dividing by the drawn examples, fails here."""
    model, examples, objective = lively(), rows(6), objective_of()
    whole = gradient_of(objective, model, batch_of(examples))
    longest = 0.0
    for gone in range(6):
        left = batch_of(PackedExamples(*(np.delete(x, gone, 0) for x in examples.rows(slice(None)))))
        longest = max(longest, (gradient_of(objective, model, left) - whole).norm().item() * 6)
    assert longest == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("at_once", [1, 4, 6, 100])
def test_how_many_gradients_are_held_at_once_changes_nothing(at_once):
    model, batch = lively(), batch_of(rows(6))
    expected = gradient_of(objective_of(noise=0.5), model, batch)
    torch.testing.assert_close(gradient_of(objective_of(noise=0.5, at_once=at_once), model, batch), expected)


def test_the_noise_has_its_size_whatever_was_drawn():
    model, objective = lively(), objective_of(noise=2.0)
    empty = torch.zeros(1, 9, dtype=torch.int64), torch.full((1, 9), IGNORE)
    noise = gradient_of(objective, model, empty) * 6 / (2.0 * 0.3)  # N(0, 1)
    assert noise.mean().abs() < 4 / len(noise) ** 0.5
    assert noise.std().item() == pytest.approx(1, abs=4 / (2 * len(noise)) ** 0.5)
    batch = batch_of(rows(6))
    signal = gradient_of(objective_of(), model, batch)
    # The same step has the same noise, with examples or without.
    difference = gradient_of(objective, model, batch) - signal
    torch.testing.assert_close(difference * 6 / 0.6, noise, rtol=1e-3, atol=1e-4)
    objective.batches.batch(1)
    later = gradient_of(objective, model, empty) * 6 / 0.6
    assert abs(torch.corrcoef(torch.stack([noise, later]))[0, 1]) < 5 / len(noise) ** 0.5


def test_the_value_of_the_objective_is_the_mean_loss_and_validation_is_the_plain_one():
    model, batch = lively(), batch_of(rows(6))
    total, count = objective_of(noise=1.0)(model, batch)
    assert (total / count).item() == pytest.approx(example_gradients(model, batch)[1].mean().item(), rel=1e-5)
    with torch.no_grad():
        assert objective_of()(model, batch)[1] == (batch[1] != IGNORE).sum()


def test_examples_are_drawn_one_by_one_with_the_same_probability():
    batches = PoissonBatches(rows(40, T=4), batch_size=10, seed=3)
    key = {row.tobytes(): i for i, row in enumerate(batches.examples.inputs)}
    assert len(key) > 35
    drawn = np.zeros((2000, 40))
    for step in range(2000):
        for row in batches.batch(step)[0]:
            drawn[step, key[row.tobytes()]] += 1
    unique = [i for i in range(40) if sum((batches.examples.inputs == batches.examples.inputs[i]).all(1)) == 1]
    shares = drawn[:, unique].mean(axis=0)
    assert np.abs(shares - 0.25).max() < 5 * (0.25 * 0.75 / 2000) ** 0.5
    sizes = drawn.sum(axis=1)
    assert sizes.var() == pytest.approx(40 * 0.25 * 0.75, rel=0.15)  # a fixed size would have none
    together = np.corrcoef(drawn[:, unique].T)[np.triu_indices(len(unique), 1)]
    assert np.abs(together).max() < 6 / 2000**0.5
    assert batches.rate == 0.25
    assert batches.epochs(8) == 2.0


def test_an_empty_draw_is_a_row_without_targets_and_a_step_is_the_same_when_asked_again():
    batches = PoissonBatches(rows(5), batch_size=1, seed=0)
    found = [batches.batch(step) for step in range(60)]
    assert any((targets == IGNORE).all() and len(targets) == 1 for _, targets in found)
    for step in (7, 3):
        again = batches.batch(step)
        assert all(np.array_equal(a, b) for a, b in zip(again, found[step], strict=True))
    unknown = [PoissonBatches(rows(40), batch_size=20).batch(0)[0] for _ in range(2)]
    assert not np.array_equal(*unknown)


CONFIG = TrainConfig(steps=4, batch_size=8, seq_len=9, warmup_steps=1, lr=1e-2, clip_norm=1e9, seed=0)


def test_without_noise_and_clipping_it_is_the_training_that_stands():
    """Every example drawn in every step, all equally long: then the two losses are the same."""
    examples = rows(8, short=False)
    private = private_trainer(lively(), examples, CONFIG, PrivacyConfig(noise=0.0, clip=1e6, seed=0))
    plain = Trainer(lively(), examples, CONFIG)
    for one, other in zip(private.run(), plain.run(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    for p, q in zip(private.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_a_step_that_draws_nothing_is_noise_of_the_same_size_and_has_no_loss(tmp_path):
    config = CONFIG.__class__(**{name: getattr(CONFIG, name) for name in CONFIG.__slots__} | {"batch_size": 1})
    trainer = private_trainer(lively(), rows(5), config, PrivacyConfig(noise=3.0, seed=0))
    log, found, empty = MetricsLog(tmp_path), [], []
    for metrics in trainer.run():
        empty.append(bool((trainer.batches.batch(metrics["step"] - 1)[1] == IGNORE).all()))
        found.append(metrics)
        log.write(metrics)
    assert set(empty) == {True, False}
    assert [math.isnan(metrics["loss"]) for metrics in found] == empty
    assert [math.isnan(metrics["loss"]) for metrics in read_metrics(log.path)] == empty
    size = sum(p.numel() for p in trainer.model.parameters()) ** 0.5
    for metrics, is_empty in zip(found, empty, strict=True):
        if is_empty:
            assert metrics["grad_norm"] == pytest.approx(3.0 * size, rel=0.05)


def test_a_run_that_was_stopped_goes_on_with_the_same_draws_and_noise(tmp_path):
    examples, privacy = rows(30), PrivacyConfig(noise=1.0, seed=5)
    config = CONFIG.__class__(**{name: getattr(CONFIG, name) for name in CONFIG.__slots__} | {"snapshot_every": 2})
    whole = private_trainer(lively(), examples, config, privacy)
    losses = [metrics["loss"] for metrics in whole.run()]
    first = private_trainer(lively(), examples, config, privacy, out=tmp_path)
    for metrics in first.run():
        first.stop_requested = metrics["step"] == 1
    second = private_trainer(lively(), examples, config, privacy, out=tmp_path)
    assert second.resume()
    rest = [metrics["loss"] for metrics in second.run()]
    assert rest == losses[-len(rest) :]
    for p, q in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_would_break_the_promise_is_refused_in_words():
    model, examples, privacy = lively(), rows(8), PrivacyConfig(noise=1.0)
    packed = PackedExamples.pack([EncodedExample([1, 2, 3], [True] * 3)] * 4, seq_len=9)
    for given, words in (
        (np.arange(100), "no examples to protect"),
        ({"a": examples}, "no examples to protect"),
        (packed, "clipping the row bounds none of them"),
    ):
        with pytest.raises(ValueError, match=words):
            private_trainer(model, given, CONFIG, privacy)
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__slots__}
    for name, value in {
        "micro_batch_size": 2,
        "precision": "bf16",
        "compile": True,
        "activation_checkpointing": True,
        "shard": True,
        "seq_len": 5,
    }.items():
        with pytest.raises(ValueError, match=f"{name}="):
            private_trainer(model, examples, TrainConfig(**fields | {name: value}), privacy)
    for name in ("mesh", "objective"):
        with pytest.raises(ValueError, match=name):
            private_trainer(model, examples, CONFIG, privacy, **{name: object()})
    with pytest.raises(ValueError, match="number of examples, 8"):
        private_trainer(model, examples, TrainConfig(**fields | {"batch_size": 9}), privacy)
    for wrong in ({"noise": -1.0}, {"noise": 1.0, "clip": 0.0}, {"noise": 1.0, "at_once": 0}, {"noise": "1"}):
        with pytest.raises(ValueError):
            PrivacyConfig(**wrong)
    with pytest.raises(ValueError, match="at least one"):
        one_per_row([], seq_len=4)


def test_what_a_run_spends_is_the_epsilon_of_its_numbers():
    config = TrainConfig(steps=50, batch_size=8, seq_len=9)
    expected = epsilon(rate=0.02, noise=1.5, steps=50, delta=1e-5)
    assert spent(config, PrivacyConfig(noise=1.5), 400, delta=1e-5) == expected
    assert spent(config, PrivacyConfig(noise=1.5), 400, delta=1e-5, copies=3) > 2 * expected
    assert spent(config, PrivacyConfig(noise=0.0), 400, delta=1e-5) == float("inf")
    for n, words in ((0, "n_examples=0 must be"), (7, "batch_size=8 is more than n_examples=7; give")):
        with pytest.raises(ValueError, match=words):
            spent(config, PrivacyConfig(noise=1.5), n, delta=1e-5)
