"""The training loop: against the NumPy twin, against itself after an interruption, against bad luck."""

import json
import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import LlamaConfig
from llama_minimal.metrics import MetricsLog, read_metrics
from llama_minimal.model import build
from llama_minimal.optim import learning_rate, make_adamw
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import snapshots
from llama_minimal.training import Trainer, TrainingDivergedError
from llama_minimal.training_checks import check_finite

CONFIG = LlamaConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, hidden_dim=48, max_seq_len=32)
# Each token is 1 to 3 more than the one before, modulo 50: something to learn, and something to guess.
TOKENS = (np.random.default_rng(0).integers(1, 4, 2000).cumsum() % 50).astype(np.uint16)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """That the waiting is asked for shows in test_files.py."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


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


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("fp32", "Try a lower learning rate or a longer warm-up"),
        ("bf16", "Try a lower learning rate, a longer warm-up or --precision fp32"),
        ("fp16", "Try a lower learning rate, a longer warm-up or --precision bf16 or fp32"),
    ],
)
def test_whose_loss_is_lost_hears_of_wider_formats_than_its_own(precision, advice):
    with pytest.raises(TrainingDivergedError) as error:
        check_finite(math.inf, 1.0, 3, 1e6, precision, snapshots_in=None)
    assert str(error.value).endswith(advice)
    check_finite(1.0, math.inf if precision == "fp16" else 2.0, 3, 1e6, precision, snapshots_in=None)


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


def test_metrics_stay_json_when_a_value_is_not_finite(tmp_path):
    """JSON has no NaN and no infinity, which other readers refuse; here an overflowing step under float16."""
    trainer = make_trainer(tmp_path, precision="fp16", steps=3, warmup_steps=0, snapshot_every=1)
    trainer.scaler.scale(torch.zeros(1))
    trainer.scaler._scale.fill_(2.0**60)
    losses(trainer)
    make_trainer(tmp_path, precision="fp16", steps=3, warmup_steps=0).resume()

    def refuse(constant):
        raise AssertionError(constant)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0], parse_constant=refuse)["grad_norm"] is None
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["grad_norm"])
    MetricsLog(tmp_path).forget_after(2)  # writes the lines anew
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:2]


def test_metrics_that_a_crash_left_damaged_do_not_stop_a_run(tmp_path):
    losses(make_trainer(tmp_path))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([whole[0], b"\0" * 40, whole[1], b"[]", b"\xff}", whole[2], whole[3][:-20] + b"}"]))
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    make_trainer(tmp_path).resume()
    MetricsLog(tmp_path).forget_after(2)
    assert path.read_bytes().splitlines() == whole[:2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_refused(dtype):
    with pytest.raises(ValueError, match=r"weights are \w+16.*dtype=torch.float32.*precision='bf16'"):
        make_trainer(model=build(CONFIG).to(dtype))
    mixed = build(CONFIG)
    mixed.norm.to(dtype)
    with pytest.raises(ValueError, match="weights are"):
        make_trainer(model=mixed)


@pytest.mark.parametrize("wrong", [50, -1, 60_000])
def test_a_token_that_the_model_does_not_know_is_refused(wrong):
    """In the last place, too, where it is only a target."""
    tokens = np.arange(17) % 50
    tokens[16] = wrong
    config = TrainConfig(steps=1, batch_size=1, seq_len=16, warmup_steps=0)
    with pytest.raises(ValueError, match=f"token id {wrong}, but the model's ids are 0 to 49"):
        losses(Trainer(build(CONFIG), tokens, config))
    with pytest.raises(ValueError, match=f"the validation text holds token id {wrong}"):
        Trainer(build(CONFIG), TOKENS, config, validation=tokens).validate()


def test_two_runs_do_not_mix_in_one_folder(tmp_path):
    losses(make_trainer(tmp_path))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"step-00000012 of another run; call resume\(\)"):
        next(make_trainer(tmp_path, seed=1).run())
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_run_that_was_never_saved_leaves_no_lines_behind(tmp_path):
    for metrics in make_trainer(tmp_path, snapshot_every=99, validate_every=99).run():
        if metrics["step"] == 3:
            break
    losses(make_trainer(tmp_path))
    assert [metrics["step"] for metrics in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))


# ------------------------------------------------------------- the best so far


class Scripted(Trainer):
    """A run whose validation losses are given, by step; it notes the weights at every validation."""

    def __init__(self, out, curve, *, model=None, **changes):
        self.curve, self.seen = curve, {}
        recipe = {"batch_size": 2, "seq_len": 8, "warmup_steps": 1, "validate_every": 1, "snapshot_every": 4}
        config = TrainConfig(**({"steps": len(curve)} | recipe | changes))
        super().__init__(model or build(CONFIG), TOKENS, config, out=out, validation=TOKENS[:50])

    def validate(self):
        self.seen[self.step] = [p.detach().clone() for p in self.model.parameters()]
        return self.curve[self.step - 1]


CURVES = [
    [5, 4, 3, 4, 5, 6, 7, 8, 9, 10],
    [5, 4, 3, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1],
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    [math.nan, 4, math.nan, 3, math.inf, 3, 3, 9, 3, 4],
]


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_the_best_weights_are_kept_exactly_wherever_the_run_was_cut(tmp_path, curve):
    best = min(range(1, 11), key=lambda step: (curve[step - 1] if curve[step - 1] == curve[step - 1] else 99, step))
    for cut in (0, 1, 3, 4, 6, 9):
        out = tmp_path / str(cut)
        first = Scripted(out, curve)
        for metrics in first.run():
            if metrics["step"] == cut:
                break  # as if killed
        run = Scripted(out, curve, model=build(CONFIG, seed=9))
        run.resume()
        losses(run)
        assert run.load_best() == run.best.step == best
        exact = (first.seen | run.seen)[best]
        assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), exact, strict=True))
        kept = {int(path.name[5:]) for path in snapshots(out / "snapshots")}
        assert best in kept
        assert len(kept) <= 3
        assert 10 in kept


@pytest.mark.parametrize("curve", CURVES, ids=str)
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_ends_at_the_same_step_wherever_the_run_was_cut(tmp_path, curve, patience):
    lowest, bad, end = math.inf, 0, 10
    for step, loss in enumerate(curve, start=1):
        bad, lowest = (0, loss) if loss < lowest else (bad + 1, lowest)
        if bad == patience:
            end = step
            break
    for cut in {0, 1, end - 1, end}:
        out = tmp_path / str(cut)
        for metrics in Scripted(out, curve, patience=patience, snapshot_every=1).run():
            if metrics["step"] == cut:
                break
        run = Scripted(out, curve, patience=patience)
        run.resume()
        losses(run)
        assert run.finished
        assert run.step == end
        again = Scripted(out, curve, patience=patience)
        assert again.resume()
        assert again.finished
        assert losses(again) == []


def test_without_keep_best_only_the_newest_stay(tmp_path):
    run = Scripted(tmp_path, CURVES[0], keep_best=False)
    losses(run)
    assert [path.name for path in snapshots(tmp_path / "snapshots")] == ["step-00000008", "step-00000010"]
    assert run.load_best() is None
    # Whoever wants the best from now on gets the best from now on.
    run = Scripted(tmp_path, [*CURVES[0], 7, 6, 9])
    run.resume()
    losses(run)
    assert run.load_best() == 12


def test_patience_needs_a_validation_text():
    with pytest.raises(ValueError, match="give a validation text"):
        Trainer(build(CONFIG), TOKENS, TrainConfig(patience=2, seq_len=8))


def test_a_longer_run_goes_on_along_the_cosine_of_its_length(tmp_path):
    losses(make_trainer(tmp_path))
    run = make_trainer(tmp_path, steps=20)
    assert run.resume()
    rates = [metrics["lr"] for metrics in run.run()]
    assert rates == [learning_rate(step, lr=2e-3, steps=20, warmup_steps=2) for step in range(12, 20)]
    with pytest.raises(ValueError, match="20 steps already, more than steps=19"):
        make_trainer(tmp_path, steps=19).resume()


# ------------------------------------------- what each part of a snapshot is for


def test_what_is_drawn_at_random_goes_on_where_it_was(tmp_path):
    """Dropout draws from torch's generator: a resumed run must draw what an unbroken one would have drawn."""

    def with_dropout(out=None, **changes):
        trainer = make_trainer(out, **changes)
        trainer.model.norm.register_forward_hook(lambda module, args, out: torch.nn.functional.dropout(out, 0.5))
        return trainer

    torch.manual_seed(5)
    unbroken = losses(with_dropout())
    torch.manual_seed(5)
    first = with_dropout(tmp_path)
    start = []
    for metrics in first.run():
        start.append(metrics["loss"])
        first.stop_requested = len(start) == 4
    torch.manual_seed(6)  # another process
    second = with_dropout(tmp_path)
    second.resume()
    assert start + losses(second) == unbroken


def test_the_loss_scale_goes_on_where_it_was(tmp_path):
    """A step that overflows halves the scale; the resumed run must not begin at the old one, and overflow again."""
    first = make_trainer(tmp_path, precision="fp16", snapshot_every=1)
    first.scaler.scale(torch.zeros(1))
    first.scaler._scale.fill_(2.0**60)
    for metrics in first.run():
        if metrics["step"] == 3:
            break
    assert first.scaler.get_scale() == 2.0**57
    second = make_trainer(tmp_path, precision="fp16")
    second.resume()
    assert second.scaler.get_scale() == 2.0**57


def test_an_overflowing_step_changes_no_weight_and_no_moment():
    trainer = make_trainer(precision="fp16", warmup_steps=0)
    trainer.scaler.scale(torch.zeros(1))
    trainer.scaler._scale.fill_(2.0**60)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train_step()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), before, strict=True))
    assert all(not state["exp_avg"].any() and state["step"] == 0 for state in trainer.optimizer.state.values())


def moments(trainer):
    """Return the first moments after one step as one vector: (1 − β₁) times the clipped gradient."""
    trainer.train_step()
    state = trainer.optimizer.state
    return torch.cat([state[p]["exp_avg"].flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("clip_norm", [0.01, 1e9])
def test_the_gradient_that_is_clipped_is_the_true_one(precision, clip_norm):
    """Under loss scaling it must be unscaled first. Adam hides it: its steps do not depend on the gradient's size."""
    trainer = make_trainer(precision=precision, clip_norm=clip_norm)
    inputs, targets = map(torch.from_numpy, trainer.batches.batch(0))
    twin = build(CONFIG, seed=0).double()
    torch.nn.functional.cross_entropy(twin(inputs).flatten(0, 1), targets.flatten()).backward()
    true = torch.cat([p.grad.flatten() for p in twin.parameters()])
    expected = 0.1 * true * min(1, clip_norm / true.norm().item())
    error = (moments(trainer) - expected).norm() / expected.norm()
    assert error < {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.05}[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_norm_in_the_metrics_is_that_before_clipping(precision):
    free, clipped = (make_trainer(precision=precision, clip_norm=c).train_step()["grad_norm"] for c in (1e9, 0.01))
    assert clipped == pytest.approx(free)
    assert free == pytest.approx(make_trainer().train_step()["grad_norm"], rel=0.02)


def test_a_decayed_matrix_and_a_free_norm_move_as_they_should():
    """With lr·decay = 1/2 and no gradient to speak of, matrices halve and norms stay."""
    model = build(CONFIG)
    optimizer = make_adamw(model, lr=0.5, weight_decay=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.5 if p.ndim == 2 else 1))


def test_a_validation_in_the_middle_changes_nothing():
    """Neither the mode of the model, nor a gradient, nor a later loss."""
    trainer = make_trainer(validate_every=1)
    trainer.model.train()
    assert losses(trainer) == losses(make_trainer(validate_every=12))
    assert trainer.model.training
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_the_validation_loss_is_the_mean_over_every_target(micro_batch_size):
    trainer = make_trainer(micro_batch_size=micro_batch_size)
    text = torch.from_numpy(TOKENS[:200].astype(np.int64))
    total = 0.0
    for start in range(0, 199, 16):
        piece = text[start : start + 17]
        logits = trainer.model(piece[None, :-1])[0]
        total += torch.nn.functional.cross_entropy(logits, piece[1:], reduction="sum").item()
    assert trainer.validate() == pytest.approx(total / 199, rel=1e-6)
