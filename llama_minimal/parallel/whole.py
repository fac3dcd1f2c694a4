"""What a process does in a step when it has all layers, or a part of each of them."""

# B batch, T time

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import Precision
from llama_minimal.loss import IGNORE, Batch, Objective, next_token
from llama_minimal.mixed_precision import autocast
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.optim import clip_gradients
from llama_minimal.parallel.data import accumulating, average_gradients, let_go
from llama_minimal.parallel.gradients import add_up_partial_gradients, clip_spread_gradients
from llama_minimal.parallel.loss import parallel_chunked_loss
from llama_minimal.parallel.mesh import Mesh

Scale = Callable[[Tensor], Tensor]
Arrays = tuple[np.ndarray, ...]  # a batch before it goes to the device


class Parallel:
    """Compute the gradients of a step together with the other processes of a mesh.

    Args:
        model: this process's part; its parameters have the names that they have in a whole model.
        module: what to call; ``model`` itself, or a wrapper around it that exchanges gradients.
        averages_itself: whether calling ``module`` exchanges gradients along ``data``.
        objective: what a step makes smaller; None means the next-token loss, in chunks (``chunked_loss``).

    Raises:
        ValueError: if another objective cannot be computed from a part of the logits.
    """

    def __init__(
        self,
        model: Llama,
        module: nn.Module,
        mesh: Mesh,
        *,
        precision: Precision,
        averages_itself: bool,
        objective: Objective | None = None,
    ) -> None:
        self.model, self.module, self.mesh, self.precision = model, module, mesh, precision
        self.averages_itself = averages_itself
        self.n_stages: dict[nn.Parameter, int] = {}
        if objective is not None and mesh.size_of("tensor") * mesh.size_of("pipeline") > 1:
            raise ValueError(
                "an objective of your own needs a model that gives it all logits, and tensor and pipeline do not; "
                "divide the work by sequences alone (data, shard)"
            )
        loss = parallel_chunked_loss if mesh.size_of("tensor") > 1 else chunked_loss
        self.objective = objective or partial(next_token, loss=loss)

    def forward_backward(
        self, batch: Batch, *, scale: Scale, micro_batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add up the gradients of this step, and return Σ loss of this process's sequences, and their count.

        Args:
            batch: this process's share.
            scale: what to differentiate, given Σ loss of a micro-batch. Gradients are averaged along ``data``.
            micro_batch_size: sequences to hold in memory at once; None means all.
        """
        size = micro_batch_size or len(batch[0])
        dtype = next(self.model.parameters()).dtype
        total, count = (torch.zeros((), device=self.mesh.device, dtype=kind) for kind in (dtype, torch.float32))
        for start in range(0, len(batch[0]), size):
            part = tuple(rows[start : start + size].to(self.mesh.device) for rows in batch)
            with accumulating(self.module, is_last=start + size >= len(batch[0])):
                part_total, part_count = self._sum_loss(part)
                scale(part_total).backward()
            total += part_total.detach()
            count += part_count
        self._exchange()
        return total, count

    def _sum_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(self.precision, self.mesh.device):
            return self.objective(self.module, batch)

    def _exchange(self) -> None:
        """Complete the gradients, where the backward pass left each process a part of a sum."""
        if self.mesh.size_of("tensor") > 1:
            add_up_partial_gradients(self.model.parameters())
        if self.mesh.size_of("data") > 1 and not self.averages_itself:
            average_gradients(self.model.parameters(), self.mesh.group("data"))

    def evaluate(self, batches: Iterable[Arrays]) -> tuple[float, float]:
        """Return the summed loss, of the next token in nats, and the number of targets, over all processes.

        Args:
            batches: all of them, on every process; each takes its share.
        """
        total, count = 0.0, 0.0
        try:
            with reading(self.model):
                for batch in self._share(batches):
                    rows = tuple(torch.from_numpy(part).to(self.mesh.device) for part in batch)
                    if part := self._evaluate(rows):
                        total, count = total + part[0].item(), count + float(part[1])
        finally:
            let_go(self.model)
        total, count = self.mesh.sum_of_data(total, count)
        return total, count

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Return Σ loss and count of a batch, or None if another process computes it."""
        return self._sum_loss(batch)

    def _share(self, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """Yield this process's batches, as many as the others': a missing one is another's, with nothing to learn."""
        n, rank = self.mesh.size_of("data"), self.mesh.rank_of("data")
        batches = iter(batches)
        while group := list(islice(batches, n)):
            inputs, targets, *more = group[min(rank, len(group) - 1)]
            yield inputs, targets if rank < len(group) else np.full_like(targets, IGNORE), *more

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients of all processes so that their common norm is at most ``max_norm``; return the former."""
        if self.mesh.size == 1 or self.module is not self.model:
            return clip_gradients(self.model.parameters(), max_norm).item()
        return clip_spread_gradients(list(self.model.parameters()), max_norm, self.mesh, n_stages=self.n_stages)
