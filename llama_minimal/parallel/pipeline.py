"""Pipeline parallelism: each process has some of the layers, and micro-batches pass through them one after another."""

# B sequences of a micro-batch, T time, D model width, M micro-batches

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama_minimal.loss import Batch
from llama_minimal.mixed_precision import autocast
from llama_minimal.model import Llama
from llama_minimal.parallel.data import accumulating, local
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.stages import Cut, new_groups
from llama_minimal.parallel.tensor import splits_sequences
from llama_minimal.parallel.whole import Parallel, Scale
from llama_minimal.reference.parallel import order


class Pipeline(Parallel):
    """Compute the gradients of a step, this process one stage of the model.

    The schedule is a list of what to do in which order; ``reference.parallel.order`` makes it.

    Args:
        cut: where the stages begin.
        schedule: ``"gpipe"`` or ``"1f1b"``.
        hidden_dtype: of what passes from stage to stage.
        options: as for ``Parallel``.

    Source: Huang et al. 2019, "GPipe", §2.3; Narayanan et al. 2021, "Efficient large-scale language model training on
    GPU clusters using Megatron-LM", §2.2 (1F1B with a flush).
    """

    def __init__(
        self,
        model: Llama,
        module: nn.Module,
        mesh: Mesh,
        *,
        cut: Cut,
        schedule: str,
        hidden_dtype: torch.dtype,
        **options: object,
    ) -> None:
        super().__init__(model, module, mesh, **options)
        self.schedule, self.hidden_dtype = schedule, hidden_dtype
        self.stage, self.n = mesh.rank_of("pipeline"), mesh.size_of("pipeline")
        self.is_first, self.is_last = self.stage == 0, self.stage == self.n - 1
        # Two groups: what goes forth never waits for what comes back, which over NCCL could wait for it.
        self._forth = mesh.group("pipeline")
        self._back = new_groups(mesh, [range(self.n)])[0]
        self._sent: list[tuple[dist.Work, Tensor]] = []
        shared = cut.shared()
        groups = new_groups(mesh, shared.values())
        self._shared = []
        for (unit, stages), group in zip(shared.items(), groups, strict=True):
            if self.stage in stages:
                mine = cut.parameters_of(unit, model)
                self._shared.append((mine, group))
                self.n_stages |= dict.fromkeys(mine, len(stages))

    def forward_backward(
        self, batch: Batch, *, scale: Scale, micro_batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do what ``Parallel.forward_backward`` does; only the last stage knows Σ loss, and the others return 0."""
        size = micro_batch_size or default_micro_batch_size(len(batch[0]), self.n)
        micro_batches = list(zip(*(rows.split(size) for rows in batch), strict=True))
        todo = order(self.schedule, self.n, len(micro_batches))[self.stage]
        last_backward = [m for kind, m in todo if kind == "B"][-1]
        dtype = next(self.model.parameters()).dtype
        total, count = (torch.zeros((), device=self.mesh.device, dtype=kind) for kind in (dtype, torch.float32))
        live: dict[int, list[Tensor]] = {}
        for kind, m in todo:
            if kind == "F":
                *live[m], counted = self._forward(tuple(rows.to(self.mesh.device) for rows in micro_batches[m]))
                if self.is_last:
                    total += live[m][1].detach()
                    count += counted
            else:
                with accumulating(self.module, is_last=m == last_backward):
                    self._backward(*live.pop(m), scale)
        self._finish_sending()
        self._exchange()
        return total, count

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what came into this stage, what leaves it, hidden states or Σ loss, and of the loss the count."""
        x, y, *documents = batch
        if not self.is_first:
            x = self._receive(self._hidden_shape(x), self.stage - 1).requires_grad_()
        if self.is_last:
            return x, *self._sum_loss((x, y, *documents))
        with autocast(self.precision, self.mesh.device):
            hidden = self.module(x, documents=documents[0]) if documents else self.module(x)
        self._send(hidden.detach(), self.stage + 1)
        return x, hidden, None

    def _backward(self, entered: Tensor, left: Tensor, scale: Scale) -> None:
        if self.is_last:
            scale(left).backward()
        else:
            left.backward(self._receive(left.shape, self.stage + 1))
        if not self.is_first:
            self._send(entered.grad, self.stage - 1)

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        _, *left = self._forward(batch)
        self._finish_sending()
        return tuple(left) if self.is_last else None

    def _hidden_shape(self, x: Tensor) -> tuple[int, int, int]:
        parts = self.mesh.size_of("tensor") if splits_sequences(self.model.config) else 1
        return x.size(0), x.size(1) // parts, self.model.config.dim

    def _send(self, tensor: Tensor, stage: int) -> None:
        self._sent = [(work, kept) for work, kept in self._sent if not work.is_completed()]
        tensor = tensor.to(self.hidden_dtype).contiguous()
        group = self._forth if stage > self.stage else self._back
        self._sent.append((dist.isend(tensor, group_dst=stage, group=group), tensor))  # kept until it has left

    def _receive(self, shape: tuple[int, ...], stage: int) -> Tensor:
        tensor = torch.empty(shape, dtype=self.hidden_dtype, device=self.mesh.device)
        group = self._forth if stage < self.stage else self._back
        dist.irecv(tensor, group_src=stage, group=group).wait()
        return tensor

    def _finish_sending(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

    def _exchange(self) -> None:
        """Add up the gradients of what several stages have: a tied embedding, a shared layer."""
        super()._exchange()
        for parameters, group in self._shared:
            for parameter in parameters:
                dist.all_reduce(local(parameter.grad), group=group)


def default_micro_batch_size(n_rows: int, n_stages: int) -> int:
    """Return a size that gives four micro-batches for each stage, where there are so many sequences."""
    return max(1, n_rows // (4 * n_stages))
