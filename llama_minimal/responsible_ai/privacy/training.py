"""Differentially private training (DP-SGD) through the one training loop: Poisson batches, clipping, noise."""

# N examples, B examples of a step, T time, C clipping length, σ noise

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llama_minimal.config.checks import check_integer, is_number
from llama_minimal.data.batches import Ids
from llama_minimal.data.packing import EncodedExample, PackedExamples
from llama_minimal.loss import Batch, next_token
from llama_minimal.model import Llama
from llama_minimal.prompts import IGNORE
from llama_minimal.responsible_ai.privacy.accounting import epsilon
from llama_minimal.responsible_ai.privacy.gradients import Gradients, clipped_sum, example_gradients
from llama_minimal.settings import TrainConfig
from llama_minimal.training import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """Say how private a training is."""

    noise: float
    """σ: the noise's standard deviation in units of ``clip``; 0 is clipping alone, which promises nothing."""
    clip: float = 1.0
    """C: the largest length of one example's gradient."""
    seed: int | None = None
    """Of the draws and of the noise. None takes them from the operating system: who knows the seed can subtract the
    noise, so a number is for lessons and tests."""
    at_once: int = 64
    """Examples whose gradients are in memory at the same time; a step has as many as it draws."""

    def __post_init__(self) -> None:
        if not is_number(self.noise) or not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise!r} must be 0 or a positive number, such as 1.0; noise_for finds one")
        if not is_number(self.clip) or not 0 < self.clip < math.inf:
            raise ValueError(f"clip={self.clip!r} must be a positive number, such as 1.0")
        if self.seed is not None:
            check_integer("seed", self.seed, at_least=0)
        check_integer("at_once", self.at_once)


class PoissonBatches:
    """Give batches into which every example comes by itself with probability q = batch_size / N.

    So B varies from step to step, and may be 0: the batch then is one row without targets, and the step is noise
    alone. That batches have a fixed size, or that an epoch shows each example once, would not be what is accounted.

    Args:
        examples: one in a row.
        batch_size: the expected number of examples in a step.
        seed: None draws one that nobody knows.
    """

    def __init__(self, examples: PackedExamples, *, batch_size: int, seed: int | None = None) -> None:
        n = len(examples.inputs)
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size={batch_size} must be from 1 to the number of examples, {n}")
        self.examples, self.batch_size, self.windows_per_epoch = examples, batch_size, n
        self.rate, self.step = batch_size / n, 0
        self._seed = np.random.SeedSequence(seed).entropy

    def batch(self, step: int) -> tuple[Ids, Ids]:
        """Return inputs and targets of one step, each (B, T)."""
        self.step = step
        random = np.random.Generator(np.random.PCG64([self._seed, step, 0]))
        inputs, targets, _ = self.examples.rows(np.flatnonzero(random.random(self.windows_per_epoch) < self.rate))
        if len(inputs) == 0:
            inputs, targets = self.examples.inputs[:1] * 0, np.full_like(self.examples.targets[:1], IGNORE)
        return inputs, targets

    def noise_source(self, device: torch.device) -> torch.Generator:
        """Return what draws the noise of the latest step: never the same twice, also when a run is resumed."""
        state = np.random.SeedSequence([self._seed, self.step, 1]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(state[0]))

    def seq_len_at(self, step: int) -> int:
        """Return how long the rows of a step are, in tokens."""
        return self.examples.seq_len

    def epochs(self, step: int) -> float:
        """Return how often each example was drawn on average in ``step`` steps."""
        return step * self.rate


class PrivateObjective:
    """Be an objective whose gradient is (Σ clipped gradients + σ·C·noise) / (expected B).

    Divided is by the *expected* number of examples: the true one says how many were drawn. Without gradients (for
    validation) it is the plain next-token loss. Of a step that drew no example the count is 0, and its loss in the
    metrics nan.

    Source: Abadi et al. 2016, algorithm 1; Mironov et al. 2019 for Poisson sampling.
    """

    def __init__(self, batches: PoissonBatches, config: PrivacyConfig) -> None:
        self.batches, self.config = batches, config

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return next_token(model, batch)
        count = torch.tensor(float(self.batches.batch_size), device=batch[0].device)
        gradients, loss = self.noisy_sum(model, batch)
        # A sum whose derivative by each parameter is what was computed, and whose value is the loss.
        slope = sum((p * gradients[name]).sum() for name, p in model.named_parameters() if name in gradients)
        slope = slope - slope.detach()
        if (batch[1] == IGNORE).all():  # the gradient is divided here, and by nothing later: there is no loss to divide
            return slope / count, torch.zeros_like(count)
        return slope + loss * count, count

    def noisy_sum(self, model: nn.Module, batch: Batch) -> tuple[Gradients, Tensor]:
        """Return Σ clipped gradients + σ·C·noise, and the mean loss of the examples drawn (which is *not* private)."""
        sums: Gradients = {}
        losses = []
        for part in zip(*(rows.split(self.config.at_once) for rows in batch), strict=True):
            gradients, loss = example_gradients(model, part)
            losses.append(loss)
            for name, clipped in clipped_sum(gradients, self.config.clip).items():
                sums[name] = sums[name] + clipped if name in sums else clipped
        if self.config.noise:
            source = self.batches.noise_source(batch[0].device)
            scale = self.config.noise * self.config.clip
            for total in sums.values():
                total += scale * torch.randn(total.shape, dtype=total.dtype, device=total.device, generator=source)
        return sums, torch.cat(losses).mean()


def private_trainer(
    model: Llama, examples: PackedExamples, config: TrainConfig, privacy: PrivacyConfig, **options: Any
) -> Trainer:
    """Return the trainer whose steps are private: what it learns hardly depends on any one example.

    Optimizer, learning rate, snapshots and validation are those of ``Trainer``; what only reads the noisy gradient
    cannot undo the noise. Not private are the losses in the metrics, so keep them to yourself.

    Args:
        examples: one in a row (``one_per_row``): whom the promise is for. A person with r examples has about r·ε.
        config: ``batch_size`` is the expected number of examples of a step.
        options: of ``Trainer``, such as ``validation`` (whose text is not protected) and ``out``.

    Raises:
        ValueError: naming what would break the promise, and what to give instead.
    """
    check_private(examples, config, options)
    batches = PoissonBatches(examples, batch_size=config.batch_size, seed=privacy.seed)
    trainer = Trainer(model, examples, config, objective=PrivateObjective(batches, privacy), **options)
    trainer.batches = batches
    return trainer


def check_private(examples: Any, config: TrainConfig, options: dict[str, Any]) -> None:
    """Raise ValueError if text or recipe would break what is promised to each example."""
    if not isinstance(examples, PackedExamples):
        raise ValueError(
            "a row of tokens has no examples to protect: windows cut them anywhere, and one text is in several; give "
            "examples, one_per_row([...], seq_len=...)"
        )
    if examples.documents.max() > 1:
        raise ValueError(
            "a row holds several examples, and clipping the row bounds none of them: without one, its neighbors count "
            "for more; give one_per_row([...], seq_len=...)"
        )
    wrong = {
        "micro_batch_size": (
            config.micro_batch_size is not None,
            "would add the noise once for each part; leave it "
            "out, and set at_once of the PrivacyConfig, which sums before the noise",
        ),
        "precision": (config.precision != "fp32", "rounds the gradients that are clipped; give 'fp32'"),
        "compile": (config.compile, "cannot give each example's gradient; leave it out"),
        "activation_checkpointing": (
            config.activation_checkpointing,
            "cannot give each example's gradient; leave it out, and lower at_once",
        ),
        "shard": (config.shard, "spreads gradients over processes that each would add noise; leave it out"),
        "seq_len": (config.seq_len != examples.seq_len, f"is not that of the examples, {examples.seq_len}"),
    }
    for name, (is_wrong, why) in wrong.items():
        if is_wrong:
            raise ValueError(f"{name}={getattr(config, name)!r} {why}")
    if options.get("mesh") is not None:
        raise ValueError("a mesh of processes would clip and add noise in each of them; train privately in one process")
    if options.get("objective") is not None:
        raise ValueError("private training has an objective of its own, the next token's; leave objective out")


def spent(config: TrainConfig, privacy: PrivacyConfig, n_examples: int, *, delta: float, copies: int = 1) -> float:
    """Return ε after all steps of a run, of an example that the text holds so many times; infinite without noise."""
    if check_integer("n_examples", n_examples) < config.batch_size:
        raise ValueError(
            f"batch_size={config.batch_size} is more than n_examples={n_examples}; give the number of all examples"
        )
    rate = config.batch_size / n_examples
    return epsilon(rate=rate, noise=privacy.noise, steps=config.steps, delta=delta, copies=copies)


def one_per_row(examples: list[EncodedExample], *, seq_len: int, pad_id: int = 0) -> PackedExamples:
    """Return examples in rows of their own, in their order, filled up with ``pad_id``.

    Raises:
        ValueError: as ``PackedExamples.pack`` does, of the first example that it refuses.
    """
    rows = [PackedExamples.pack([example], seq_len=seq_len, pad_id=pad_id) for example in examples]
    if not rows:
        raise ValueError("there is no example; give at least one")
    return PackedExamples(
        *(np.concatenate([getattr(row, name) for row in rows]) for name in ("inputs", "targets", "documents"))
    )
