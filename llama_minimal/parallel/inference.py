"""Inference by several processes: each holds a part of the model, and all choose the same token.

What differs from one process is what the decoding loop asks of a model: a cache, and the logits of the next token.
"""

# B batch, T time, D model width, V vocabulary, P processes

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama_minimal.checkpoint import load
from llama_minimal.checkpoint.tensors import Slot, Slots, tensors_of
from llama_minimal.kv_cache import KVCache, LayeredCache
from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.slices import Slices, check_groups, keep_slices
from llama_minimal.parallel.stages import make_cut, whole_name
from llama_minimal.parallel.tensor import check_divisible
from llama_minimal.quantization import Quantization, quantized_tensors
from llama_minimal.settings import Scheme
from llama_minimal.tokenizer import TextCodec


class Distributed(nn.Module):
    """Be a whole model to whoever calls it, with the same input on every process; all get the same logits.

    Args:
        part: what this process has of the model: some of its layers, a slice of their matrices, or both.
    """

    def __init__(self, part: Llama, mesh: Mesh) -> None:
        super().__init__()
        self.part, self.mesh, self.config = part, mesh, part.config
        self.stage, self.n_stages = mesh.rank_of("pipeline"), mesh.size_of("pipeline")
        self.train(part.training)

    @property
    def eos_ids(self) -> tuple[int, ...] | None:
        """The tokens that end a text, where a checkpoint names them."""
        return self.part.eos_ids

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out."""
        return self.mesh.device

    def make_cache(self, **options: Any) -> KVCache | LayeredCache:
        """Build a cache for this process's layers and its own kv heads, K / P of them."""
        n_kv_heads = self.config.n_kv_heads // self.mesh.size_of("tensor")
        return self.part.make_cache(n_kv_heads=n_kv_heads, **options)

    def forward(
        self, tokens: Tensor, *, positions: Tensor | None = None, cache: KVCache | LayeredCache | None = None
    ) -> Tensor:
        """Return the logits of each next token, (B, T, V), as ``Llama.forward``."""
        shape = (*tokens.shape, self.config.vocab_size)
        return self._through(tokens, self.part, shape, positions=positions, cache=cache)

    def next_logits(
        self,
        tokens: Tensor,
        last: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KVCache | LayeredCache | None = None,
    ) -> Tensor:
        """Return the logits of what follows each row, (B, V), as ``Llama.next_logits``."""
        finish = partial(self.part.next_logits, last=last)
        return self._through(tokens, finish, (len(tokens), self.config.vocab_size), positions=positions, cache=cache)

    def _through(self, x: Tensor, finish: Callable[..., Tensor], shape: tuple[int, ...], **where: object) -> Tensor:
        """Hand hidden states from stage to stage; what the last one makes of them goes to all."""
        if self.n_stages == 1:
            return finish(x, **where)
        group, like = self.mesh.group("pipeline"), next(self.part.parameters())
        if self.stage > 0:
            x = torch.empty(*x.shape, self.config.dim, dtype=like.dtype, device=like.device)  # (B, T, D)
            dist.recv(x, group_src=self.stage - 1, group=group)
        if self.stage == self.n_stages - 1:
            logits = finish(x, **where).contiguous()
        else:
            dist.send(self.part(x, **where).contiguous(), group_dst=self.stage + 1, group=group)
            logits = torch.empty(shape, dtype=like.dtype, device=like.device)
        dist.broadcast(logits, group_src=self.n_stages - 1, group=group)
        return logits


def distribute(model: Llama, mesh: Mesh, *, balance: Sequence[int] | None = None) -> Distributed:
    """Leave in a model, in place, what this process computes, and return the whole that the processes form.

    ``generate``, ``stream``, ``beam_search`` and ``sum_loss`` take it as they take a model, called on every process.
    For training there is ``parallelize``.

    Args:
        model: the same on every process; its matrices may be in few bits, and each keeps its part of the codes.
        mesh: of ``tensor × pipeline`` processes.
        balance: layers of each stage of the pipeline; None means stages of about as many parameters.

    Raises:
        ValueError: if the model cannot be split so; the message says how it can.
    """
    _keep_part(model, mesh, balance)
    return Distributed(model.to(mesh.device), mesh)


def load_distributed(
    path_or_id: str | Path,
    mesh: Mesh,
    *,
    dtype: torch.dtype | str | None = None,
    max_seq_len: int | None = None,
    quantize: Scheme | Quantization | None = None,
    balance: Sequence[int] | None = None,
) -> tuple[Distributed, TextCodec | None]:
    """Load of a model what this process computes; of the rest, nothing is held in memory.

    Args:
        path_or_id, dtype, max_seq_len, quantize: as for ``checkpoint.load``.
        mesh, balance: as for ``distribute``.

    Raises:
        FileNotFoundError, ValueError: as ``checkpoint.load`` and ``distribute``.
    """

    def place(model: Llama) -> Slots:
        slices = _keep_part(model, mesh, balance)
        model.to_empty(device=mesh.device)
        coded = quantized_tensors(model)
        return {
            whole_name(name, model.config, is_quantized=name in coded): Slot(tensor, *slices[name])
            for name, tensor in tensors_of(model).items()
        }

    model, tokenizer = load(path_or_id, dtype=dtype, max_seq_len=max_seq_len, quantize=quantize, place=place)
    return Distributed(model, mesh), tokenizer


def _keep_part(model: Llama, mesh: Mesh, balance: Sequence[int] | None) -> Slices:
    """Leave in a model this process's layers and slices; return which part of each tensor that is."""
    if mesh.size_of("data") > 1:
        raise ValueError(
            f"{mesh.size} processes are more than tensor={mesh.size_of('tensor')} × pipeline="
            f"{mesh.size_of('pipeline')}, and the others would have nothing to do; start only so many"
        )
    check_divisible(model.config, mesh.size_of("tensor"))  # before anything is changed
    check_groups(model, mesh.size_of("tensor"))
    if (n_stages := mesh.size_of("pipeline")) > 1:
        make_cut(model.config, n_stages, balance).apply_to(model, mesh.rank_of("pipeline"))
    model.requires_grad_(False)  # the exchanges know no gradients
    return keep_slices(model, mesh)
