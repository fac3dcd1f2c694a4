"""The training loop: gradients from micro-batches, one optimizer step, snapshots, validation."""

# B batch, T time

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from llama_minimal.data.mixture import Text, Texts
from llama_minimal.data.stages import make_batches, validation_batches
from llama_minimal.evaluation import BestLoss
from llama_minimal.loss import Objective
from llama_minimal.metrics import MetricsLog
from llama_minimal.mixed_precision import grad_scaler
from llama_minimal.model import Llama
from llama_minimal.observing import learning
from llama_minimal.optim import learning_rate, make_optimizer, scale_gradients, set_learning_rate
from llama_minimal.parallel import Mesh, parallelize
from llama_minimal.run_folder import SNAPSHOTS
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import (
    check_same_run,
    load_snapshot,
    load_weights,
    read_state,
    save_snapshot,
    snapshots,
    whole_model,
)
from llama_minimal.training_checks import (
    TrainingDivergedError,
    check_finite,
    check_later,
    check_layout,
    check_texts,
    check_trainable,
    describe_run,
)

__all__ = ["Trainer", "TrainingDivergedError"]


class Trainer:
    """Train a model on text, or on examples.

    Args:
        model: on its device, with float32 or float64 weights.
        tokens: ids of the training text, (n,); a memory-mapped file will do, a tensor or a list. Or packed examples.
            Or several of them by name, which ``config.weights`` mixes. To align documents, each text must begin with
            the same token, as ``encode_corpus`` writes them.
        config: how to train.
        out: folder for ``snapshots/`` and ``metrics.jsonl``; None keeps nothing.
        validation: ids of the validation text, or several by name; each has its own loss then, beside the whole.
        mesh: the processes that take part.
        tensorboard: also write TensorBoard's event files to ``out``.
        objective: what to make smaller, ``(model, batch) -> (sum, count)``; None is the next token's, in chunks.
        after_step: makes from the model, before the first step and after ``resume``, what is called after every step,
            such as ``pruning.keep_zeros``.

    Raises:
        ValueError: if model, text and config do not fit each other.

    Example:
        >>> tokens = np.arange(1000) % 7
        >>> config = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=7)
        >>> trainer = Trainer(build(config), tokens, TrainConfig(steps=5, seq_len=8, warmup_steps=1))
        >>> [metrics["step"] for metrics in trainer.run()]
        [1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        model: Llama,
        tokens: Texts,
        config: TrainConfig,
        *,
        out: str | Path | None = None,
        validation: Texts | None = None,
        mesh: Mesh | None = None,
        tensorboard: bool = False,
        objective: Objective | None = None,
        after_step: Callable[[Llama], Callable[[], None]] | None = None,
    ) -> None:
        self.model, self.config, self.validation = model, config, validation
        self.mesh = mesh or Mesh(device=next(model.parameters()).device)
        check_trainable(model, config, has_validation=validation is not None)
        check_layout(model.config, config, self.mesh)
        tokens = check_texts(model.config, tokens, what="training text")
        if validation is not None:
            self.validation = check_texts(model.config, validation, what="validation text")
        out = Path(out).expanduser() if out else None
        n, rank = self.mesh.size_of("data"), self.mesh.rank_of("data")
        self.batches = make_batches(tokens, config, rank=rank, world_size=n)
        self.scaler = grad_scaler(config.precision, self.mesh.device)
        names = ("shard", "balance", "activation_checkpointing", "compile", "precision")
        layout = {name: getattr(config, name) for name in names} | {"objective": objective}
        self.parallel = parallelize(model, self.mesh, schedule=config.pipeline_schedule, **layout)
        self.optimizer = make_optimizer(model, config)  # of this process's part
        self.step = 0  # steps done
        self.stop_requested = False  # set it, from a signal handler say, to end after the current step
        self._stopping = False  # what all processes have agreed on
        self.validation_loss: float | None = None  # the latest
        self.source_losses: dict[str, float] = {}  # of the latest validation, where there are several sources
        self.best = BestLoss()
        self._make_after_step, self._after_step = after_step or (lambda model: lambda: None), None
        self._description = describe_run(model, config, tokens, after_step)
        self.snapshot_folder = out / SNAPSHOTS if out else None
        self._log = MetricsLog(out, tensorboard=tensorboard) if out and self.mesh.is_main else None

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end, or until ``stop_requested``; yield each step's metrics, snapshot on the way.

        Raises:
            TrainingDivergedError: if loss or gradients stop being finite.
            OSError: if a snapshot cannot be written; the older ones are untouched.
            ValueError: if a token is outside the model's vocabulary, or ``out`` holds another run.
        """
        check_later(self._snapshots(), self.step)
        if self._log:
            self._log.forget_after(self.step)  # lines of steps that will be done again
        while not self.finished:
            metrics = self.train_step()
            is_best = self._validate_if_due(metrics)
            if self._log:
                self._log.write(metrics)
            due = self.step % self.config.snapshot_every == 0
            if due or (is_best and self.config.keep_best) or self.finished or self._stopping:
                self.save()
            yield metrics
            if self._stopping:
                break

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the patience is at its end."""
        patience = self.config.patience
        return self.step >= self.config.steps or (patience is not None and self.best.since >= patience)

    def train_step(self) -> dict[str, float]:
        """Do one optimizer step and return its metrics; loss in nats per token."""
        started = time.perf_counter()
        self._after_step = self._after_step or self._make_after_step(self.model)
        batch = tuple(map(torch.from_numpy, self.batches.batch(self.step)))  # inputs, targets …, (B, T)
        n_tokens = float(batch[0].numel() * self.mesh.size_of("data"))
        # Gradients are averaged along ``data``; we want their sum. How many targets count is not known yet.
        factor = self.mesh.size_of("data") / n_tokens
        micro = self.config.micro_batch_size
        with learning(self.model):  # adapters may have dropout
            sums = self.parallel.forward_backward(
                batch, scale=lambda part: self.scaler.scale(part * factor), micro_batch_size=micro
            )
        total, count = self.mesh.sum_of_data(*sums)
        loss, count = (total / count, count) if count else (float("nan"), 1.0)  # nan: nothing to learn, no loss
        self._stopping = self.mesh.sum(float(self.stop_requested))[0] > 0
        self.scaler.unscale_(self.optimizer)
        scale_gradients(self.model.parameters(), n_tokens / count)
        norm = self.parallel.clip_gradients(self.config.clip_norm)
        names = ("lr", "steps", "warmup_steps", "min_lr_ratio", "schedule")
        lr = learning_rate(self.step, **{name: getattr(self.config, name) for name in names})
        check_finite(total / count, norm, self.step + 1, lr, self.config.precision, snapshots_in=self.snapshot_folder)
        set_learning_rate(self.optimizer, lr)
        self.scaler.step(self.optimizer)  # skips the step if float16 gradients overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._after_step()
        self.step += 1
        speed = n_tokens / (time.perf_counter() - started)
        return {"step": self.step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_second": speed}

    def validate(self) -> float:
        """Return the mean loss over the validation text, in nats per token, in sequences as long as the last ones.

        Of several sources each token counts once; ``source_losses`` then holds the loss of each.
        """
        texts = self.validation if isinstance(self.validation, Mapping) else {"": self.validation}
        sums = {name: self._sum_loss(text) for name, text in texts.items()}
        self.source_losses = {name: total / count for name, (total, count) in sums.items() if name}
        return sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values())

    def _sum_loss(self, text: Text) -> tuple[float, float]:
        """Return the summed loss over a text and the number of its targets, of all processes together."""
        batch_size = self.config.micro_batch_size or self.config.batch_size
        seq_len = self.batches.seq_len_at(max(0, self.step - 1))
        return self.parallel.evaluate(validation_batches(text, batch_size=batch_size, seq_len=seq_len))

    def _validate_if_due(self, metrics: dict[str, float]) -> bool:
        """Add the validation loss to the metrics if it is time; return whether it is the lowest so far."""
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        if self.validation is None or not due:
            return False
        metrics["validation_loss"] = self.validation_loss = self.validate()
        metrics |= {f"validation_loss/{name}": loss for name, loss in self.source_losses.items()}
        return self.best.update(self.step, self.validation_loss)

    def save(self) -> None:
        """Write a snapshot, together with the other processes."""
        if self.snapshot_folder:
            save_snapshot(
                self.snapshot_folder,
                self.step,
                self.model,
                self.optimizer,
                self.scaler,
                run=self._description,
                keep=self.config.keep_snapshots,
                best=asdict(self.best),
                spare=self.best.step if self.config.keep_best else None,
                mesh=self.mesh,
            )

    def resume(self) -> bool:
        """Go on from the newest snapshot; return False if there is none.

        Raises:
            ValueError: if the snapshot was made with another configuration, or is damaged.
        """
        saved = self._snapshots()
        if not saved:
            return False
        state = read_state(saved[-1])
        check_same_run(state, self._description, steps=self.config.steps)
        self.mesh.every(lambda: load_snapshot(saved[-1], self.model, self.optimizer, self.scaler, self.mesh))
        self.step, self.best, self._after_step = state["step"], BestLoss(**state.get("best", {})), None
        if self.config.keep_best and not self._best_snapshot():
            self.best = BestLoss(since=self.best.since)  # it was not kept, so the next best is looked for
        return True

    def load_best(self) -> int | None:
        """Put the weights with the lowest validation loss into the model, when training is over.

        Returns:
            Their step, or None if no such snapshot was kept; the model then stays as it is.
        """
        path = self._best_snapshot()
        if path:
            self.mesh.every(lambda: load_weights(path, self.model, self.mesh))
        return self.best.step if path else None

    def whole_model(self, step: int | None = None) -> Llama:
        """Return the trained model whole; one that is spread over processes as it was saved after a step, or last."""
        return whole_model(self.model, self.mesh, self.snapshot_folder, step)

    def _snapshots(self) -> list[Path]:
        return snapshots(self.snapshot_folder) if self.snapshot_folder else []

    def _best_snapshot(self) -> Path | None:
        return next((path for path in self._snapshots() if path.name == f"step-{self.best.step or 0:08d}"), None)
