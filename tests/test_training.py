"""The training loop: against the NumPy twin, against itself after an interruption, against bad luck."""

import json
import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import LlamaConfig
from llama_minimal.metrics import read_metrics
from llama_minimal.model import build
from llama_minimal.optim import learning_rate, make_adamw
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import snapshots
from llama_minimal.training import Trainer, TrainingDivergedError

CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, hidden_dim=48, max_seq_len=32)
# Each token is 1 to 3 more than the one before, modulo 50: something to learn, and something to guess.
TOKENS = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 50).astype(np.uint16)


def make_trainer(out=None, *, model=None, **changes):
    recipe = {"steps": 12, "batch_size": 4, "seq_len": 16, "warmup_steps": 2, "snapshot_every": 5, "validate_every": 6}
    config = TrainConfig(**(recipe | changes))
    model = model or build(CONFIG, seed=config.seed)
    return Trainer(model, TOKENS, config, out=out, validation=TOKENS[:200])


def losses(trainer):
    return [metrics["loss"] for metrics in trainer.run()]


def test_the_loss_curve_is_that_of_the_numpy_twin():
    """Same weights, same batches, gradients by hand, AdamW by hand: the same ten losses in float64."""
    trainer = make_trainer(model=build(CONFIG).double(), steps=10, micro_batch_size=3)
    params = {name: p.detach().numpy().copy() for name, p in trainer.model.named_parameters()}
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}
    expected = []
    for step in range(10):
        inputs, targets = trainer.batches.batch(step)
        loss, grads = reference.loss_and_gradients(params, inputs, targets, CONFIG)
        grads, _ = reference.clip_gradients(grads, trainer.config.clip_norm)
        lr = learning_rate(step, lr=trainer.config.lr, steps=10, warmup_steps=2)
        for name, grad in grads.items():
            decay = trainer.config.weight_decay if grad.ndim >= 2 else 0.0
            params[name], *moments[name] = reference.adamw_step(
                params[name], grad, *moments[name], step + 1, lr=lr, weight_decay=decay
            )
        expected.append(loss)
    np.testing.assert_allclose(losses(trainer), expected, rtol=1e-9)


def test_aligned_sequences_begin_with_documents():
    tokens = np.concatenate([[0, *range(1, n)] for n in (9, 30, 5, 12, 40, 20, 3, 50)])
    trainer = Trainer(
        build(CONFIG), tokens, TrainConfig(steps=5, batch_size=4, seq_len=16, warmup_steps=1, align_documents=True)
    )
    for step in range(5):
        inputs, targets = trainer.batches.batch(step)
        assert (inputs[:, 0] == 0).all()
        assert ((targets == inputs + 1) | (targets == 0)).all()


def test_compiling_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, such as g\+\+"):
        make_trainer(compile=True)


def test_micro_batches_change_nothing_but_rounding():
    np.testing.assert_allclose(losses(make_trainer(micro_batch_size=1)), losses(make_trainer()), rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_repeats_the_unbroken_one_bit_by_bit(tmp_path, precision):
    unbroken = losses(make_trainer(precision=precision))
    first = make_trainer(tmp_path, precision=precision)
    start = []
    for metrics in first.run():
        start.append(metrics["loss"])
        first.stop_requested = len(start) == 6  # ends after the seventh step, which no snapshot_every asks for
    assert len(start) == 7
    second = make_trainer(tmp_path, precision=precision, model=build(CONFIG, seed=99))
    assert second.resume()
    assert start + losses(second) == unbroken
    assert [metrics["step"] for metrics in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_resuming_forgets_metrics_after_the_snapshot(tmp_path):
    trainer = make_trainer(tmp_path)
    for metrics in trainer.run():
        if metrics["step"] == 8:
            break  # as if killed: the newest snapshot is of step 5
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # killed while writing a line
    trainer = make_trainer(tmp_path)
    trainer.resume()
    losses(trainer)
    assert [metrics["step"] for metrics in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_only_the_last_snapshots_are_kept(tmp_path):
    losses(make_trainer(tmp_path, steps=20, snapshot_every=3, keep_snapshots=2))
    assert [path.name for path in snapshots(tmp_path / "snapshots")] == ["step-00000018", "step-00000020"]
    assert len(list((tmp_path / "snapshots").iterdir())) == 2  # no temporary folders


def test_resuming_without_a_snapshot_says_so(tmp_path):
    assert not make_trainer(tmp_path).resume()


def test_resuming_with_another_configuration_is_refused(tmp_path):
    losses(make_trainer(tmp_path))
    trainer = make_trainer(tmp_path, lr=1e-4, beta2=0.99)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(ValueError, match=r"lr was 0.002, is 0.0001; beta2 was 0.95, is 0.99"):
        trainer.resume()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_resuming_with_another_model_is_refused(tmp_path):
    losses(make_trainer(tmp_path))
    with pytest.raises(ValueError, match="dim was 32, is 64"):
        make_trainer(tmp_path, model=build(CONFIG.replace(dim=64))).resume()


def test_what_no_loss_depends_on_may_change_when_resuming(tmp_path):
    losses(make_trainer(tmp_path))
    assert make_trainer(tmp_path, keep_snapshots=7, validate_every=3, micro_batch_size=2).resume()


def test_nan_stops_the_run_and_spares_weights_and_snapshots(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(TrainingDivergedError, match=r"loss nan .* at step 8, learning rate .*step-00000006") as error:
        for metrics in trainer.run():
            if metrics["step"] == 7:
                trainer.model.norm.weight.data[3] = math.nan
                before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    assert "lower learning rate" in str(error.value)
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p.nan_to_num(), before[name].nan_to_num())
    assert make_trainer(tmp_path).resume()


def test_float16_scales_the_loss_and_learns():
    trainer = make_trainer(precision="fp16", steps=30, lr=3e-3)
    curve = losses(trainer)
    assert trainer.scaler.get_scale() > 1
    assert np.mean(curve[-5:]) < curve[0] - 0.05


def test_weight_decay_spares_norms_and_biases():
    model = build(CONFIG.replace(bias=True, norm="layer"))
    groups = make_adamw(model, lr=1e-3, weight_decay=0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in decayed) == (p.ndim == 2), name


def test_the_learning_rate_rises_peaks_and_falls_to_its_floor():
    rates = [learning_rate(step, lr=1.0, steps=100, warmup_steps=10, min_lr_ratio=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    halfway = rates[10 + 89 // 2]
    assert halfway == pytest.approx(0.55, abs=0.01)  # a cosine is halfway between peak and floor at half time


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"micro_batch_size": 0}, "micro_batch_size=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"warmup_steps": 99}, "warmup_steps=99"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"seq_len": 33}, "max_seq_len=32"),
        ({"seq_len": 0}, "seq_len=0"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**changes)


def test_text_too_short_is_refused():
    with pytest.raises(ValueError, match="10 tokens"):
        Trainer(build(CONFIG), TOKENS[:10], TrainConfig(seq_len=16))


def test_metrics_also_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    trainer = Trainer(
        build(CONFIG), TOKENS, TrainConfig(steps=2, seq_len=8, warmup_steps=1), out=tmp_path, tensorboard=True
    )
    losses(trainer)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_full_disk_leaves_the_older_snapshots(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        for metrics in trainer.run():
            if metrics["step"] == 6:
                monkeypatch.setattr("llama_minimal.snapshot.write_safetensors", no_space)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["step-00000005", "step-00000006"]
    assert make_trainer(tmp_path).resume()


@pytest.mark.parametrize("victim", ["model.safetensors", "trainer.safetensors", "trainer.json"])
def test_a_damaged_snapshot_is_named(tmp_path, victim):
    losses(make_trainer(tmp_path))
    path = snapshots(tmp_path / "snapshots")[-1] / victim
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=victim):
        make_trainer(tmp_path).resume()


def test_metrics_are_one_json_object_a_line(tmp_path):
    losses(make_trainer(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[5].keys() == {"step", "loss", "lr", "grad_norm", "tokens_per_second", "validation_loss"}
