"""The training loop: gradients from micro-batches, one optimizer step, snapshots, validation."""

# B batch, T time

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_minimal.data.batches import Batches, sequential_batches
from llama_minimal.evaluation import sum_loss
from llama_minimal.loss import next_token_loss
from llama_minimal.metrics import MetricsLog
from llama_minimal.model import Llama
from llama_minimal.optim import clip_gradients, learning_rate, make_adamw, set_learning_rate
from llama_minimal.parallel import Mesh, parallelize
from llama_minimal.precision import autocast, grad_scaler
from llama_minimal.prompts import check_tokens
from llama_minimal.settings import TrainConfig
from llama_minimal.snapshot import load_snapshot, read_state, save_snapshot, snapshots

# What may differ between a snapshot and the run that goes on from it, because no loss depends on it.
_FREE = {"micro_batch_size", "compile", "validate_every", "snapshot_every", "keep_snapshots"}


class TrainingDivergedError(RuntimeError):
    """Say that loss or gradients are no longer finite; the weights are those before the step."""


class Trainer:
    """Train a model on a file of tokens.

    Args:
        model: on its device, float32.
        tokens: ids of the training text, (n,); a memory-mapped file will do. To align documents, each must begin with
            the same token, as ``encode_corpus`` writes them.
        config: how to train.
        out: folder for ``snapshots/`` and ``metrics.jsonl``; None keeps nothing.
        validation: ids of the validation text.
        mesh: the processes that take part.
        tensorboard: also write TensorBoard's event files to ``out``.

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
        tokens: np.ndarray,
        config: TrainConfig,
        *,
        out: Path | None = None,
        validation: np.ndarray | None = None,
        mesh: Mesh | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.model, self.config, self.validation = model, config, validation
        self.mesh = mesh or Mesh(device=next(model.parameters()).device)
        if config.seq_len > model.config.max_seq_len:
            raise ValueError(
                f"seq_len={config.seq_len} is longer than the model's max_seq_len={model.config.max_seq_len}"
            )
        check_tokens(model.config, tokens, what="training text")
        if validation is not None:
            check_tokens(model.config, validation, what="validation text")
        self.batches = Batches(
            tokens,
            batch_size=config.batch_size,
            seq_len=config.seq_len,
            document_start=int(tokens[0]) if config.align_documents else None,
            seed=config.seed,
            rank=self.mesh.rank,
            world_size=self.mesh.size,
        )
        self.optimizer = make_adamw(
            model, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
        )
        self.scaler = grad_scaler(config.precision, self.mesh.device)
        self.parallel_model = parallelize(model, self.mesh, compile=config.compile)
        self.step = 0  # steps done
        self.stop_requested = False  # set it, from a signal handler say, to end after the current step
        self._stopping = False  # what all processes have agreed on
        self.validation_loss: float | None = None  # the latest
        self.snapshot_folder = out / "snapshots" if out else None
        self._log = MetricsLog(out, tensorboard=tensorboard) if out and self.mesh.is_main else None

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end, or until ``stop_requested``; yield each step's metrics, snapshot on the way.

        Raises:
            TrainingDivergedError: if loss or gradients stop being finite.
            OSError: if a snapshot cannot be written; the older ones are untouched.
        """
        while self.step < self.config.steps:
            metrics = self.train_step()
            done = self.step == self.config.steps
            if self.validation is not None and (self.step % self.config.validate_every == 0 or done):
                metrics["validation_loss"] = self.validation_loss = self.validate()
            if self._log:
                self._log.write(metrics)
            if self.step % self.config.snapshot_every == 0 or done or self._stopping:
                self.save()
            yield metrics
            if self._stopping:
                break

    def train_step(self) -> dict[str, float]:
        """Do one optimizer step and return its metrics; loss in nats per token."""
        started = time.perf_counter()
        inputs, targets = (torch.from_numpy(part) for part in self.batches.batch(self.step))  # (B, T)
        (count,) = self.mesh.sum(targets.numel())
        total = self._backward(inputs, targets, count)
        total, wishes_to_stop = self.mesh.sum(total, float(self.stop_requested))
        self._stopping = wishes_to_stop > 0
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.config.clip_norm).item()
        lr = self._learning_rate()
        self._check_finite(total / count, norm, lr)
        set_learning_rate(self.optimizer, lr)
        self.scaler.step(self.optimizer)  # skips the step if float16 gradients overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        seconds = time.perf_counter() - started
        speed = count / seconds
        return {"step": self.step, "loss": total / count, "lr": lr, "grad_norm": norm, "tokens_per_second": speed}

    def _backward(self, inputs: torch.Tensor, targets: torch.Tensor, count: float) -> torch.Tensor:
        """Add up the gradients of Σ loss / count over this process's micro-batches; return Σ loss."""
        size = self.config.micro_batch_size or len(inputs)
        total = torch.zeros((), device=self.mesh.device, dtype=next(self.model.parameters()).dtype)
        for start in range(0, len(inputs), size):
            x, y = (part[start : start + size].to(self.mesh.device) for part in (inputs, targets))
            is_last = start + size >= len(inputs)
            # Processes exchange gradients once, with the last micro-batch.
            with nullcontext() if is_last or self.mesh.size == 1 else self.parallel_model.no_sync():
                with autocast(self.config.precision, self.mesh.device):
                    part_total, _ = next_token_loss(self.parallel_model(x), y)
                # DistributedDataParallel averages over processes; we want the sum.
                self.scaler.scale(part_total * (self.mesh.size / count)).backward()
            total += part_total.detach()
        return total

    def _learning_rate(self) -> float:
        c = self.config
        return learning_rate(
            self.step, lr=c.lr, steps=c.steps, warmup_steps=c.warmup_steps, min_lr_ratio=c.min_lr_ratio
        )

    def _check_finite(self, loss: float, norm: float, lr: float) -> None:
        # Under loss scaling an infinite gradient is normal: the scaler skips the step and scales less.
        if math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled()):
            return
        saved = snapshots(self.snapshot_folder) if self.snapshot_folder else []
        last = f"the last good snapshot is {saved[-1]}" if saved else "no snapshot was saved"
        raise TrainingDivergedError(
            f"loss {loss:g} with gradient norm {norm:g} at step {self.step + 1}, learning rate {lr:.3g}; {last}. "
            f"Try a lower learning rate, a longer warm-up or --precision bf16 or fp32"
        )

    def validate(self) -> float:
        """Return the mean loss over the validation text, in nats per token."""
        batch_size = self.config.micro_batch_size or self.config.batch_size
        batches = sequential_batches(self.validation, batch_size=batch_size, seq_len=self.config.seq_len)
        mine = islice(batches, self.mesh.rank, None, self.mesh.size)
        with autocast(self.config.precision, self.mesh.device):
            total, count = self.mesh.sum(*sum_loss(self.model, mine, device=self.mesh.device))
        return total / count

    def save(self) -> None:
        """Write a snapshot; the first process does, the others wait for it."""
        if self.snapshot_folder and self.mesh.is_main:
            save_snapshot(
                self.snapshot_folder,
                self.step,
                self.model,
                self.optimizer,
                self.scaler,
                run=self._run_description(),
                keep=self.config.keep_snapshots,
            )
        self.mesh.wait()

    def resume(self) -> bool:
        """Go on from the newest snapshot; return False if there is none.

        Raises:
            ValueError: if the snapshot was made with another configuration, or is damaged.
        """
        saved = snapshots(self.snapshot_folder) if self.snapshot_folder else []
        if not saved:
            return False
        state = read_state(saved[-1])
        _check_same_run(state["run"], self._run_description())
        load_snapshot(saved[-1], self.model, self.optimizer, self.scaler)
        self.step = state["step"]
        if self._log:
            self._log.forget_after(self.step)
        return True

    def _run_description(self) -> dict[str, Any]:
        train = {name: value for name, value in asdict(self.config).items() if name not in _FREE}
        return {"model": self.model.config.to_dict(), "train": train, "data": {"n_tokens": len(self.batches.tokens)}}


def _check_same_run(saved: dict[str, Any], current: dict[str, Any]) -> None:
    differences = [
        f"{name} was {old!r}, is {current[part][name]!r}"
        for part in ("model", "train", "data")
        for name, old in saved[part].items()
        if current[part][name] != old
    ]
    if differences:
        raise ValueError(
            f"cannot resume with another configuration: {'; '.join(differences)}. "
            f"Resume with the old values, or start a new run in another folder"
        )
