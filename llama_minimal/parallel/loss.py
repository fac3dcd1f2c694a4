"""The next-token loss of an output layer that is split by vocabulary: no process ever holds all logits of a token."""

# n tokens of a chunk, V vocabulary, P processes

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from llama_minimal.chunked_loss import chunk_rows, chunked_loss
from llama_minimal.linear import cast_once


def parallel_chunked_loss(
    x: Tensor, w: nn.Module, targets: Tensor, weights: Tensor | None = None, *, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return what ``chunked_loss`` returns, with an output layer of which each process has some rows.

    Args:
        x: (B, T, D), or this process's part of the sequence, (B, T/P, D).
        w: the output layer, split by ``split_matrices``.
        targets: (B, T) ids of the whole vocabulary, the same on every process; ``IGNORE`` weighs nothing.
        weights: (B, T), or None for ones.
        rows: tokens of a chunk.

    Returns:
        total and count, the same on every process.

    Source: Shoeybi et al. 2019, "Megatron-LM", §3 (parallel cross-entropy).
    """
    matrix = w.weight
    mesh, width = matrix.device_mesh, -(-len(matrix) // matrix.device_mesh.size())
    layout = Shard(1) if x.size(1) < targets.size(1) else Replicate()
    whole = DTensor.from_local(x, mesh, [layout], run_check=False).redistribute(placements=[Replicate()])
    compare = partial(compare_split, first=mesh.get_local_rank() * width, group=mesh.get_group())
    # The last process may have fewer columns.
    rows = rows or chunk_rows(targets.numel(), x.size(-1), width, cast_once(x[:0]).dtype)
    return chunked_loss(
        whole.to_local(grad_placements=[Partial()]),  # each process finds what its own columns ask for
        matrix.to_local(),
        targets,
        weights,
        rows=rows,
        compare=compare,
    )


def compare_split(
    logits: Tensor, targets: Tensor, out: Tensor, *, first: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what ``compare_whole`` does, from logits of which each process has some columns.

    log Σ exp z over all columns is the same of what each process finds for its own. So two numbers of each token are
    exchanged, that and the target's logit.

    Args:
        logits: (n, V_local).
        targets: (n, 1) ids of the whole vocabulary.
        out: (n, V_local).
        first: the id that this process's first column is for.
    """
    torch.softmax(logits, -1, dtype=out.dtype, out=out)
    here = logits.amax(-1, keepdim=True) - out.amax(-1, keepdim=True).log()  # log Σ exp z of these columns, (n, 1)
    column = targets - first
    is_here = (column >= 0) & (column < logits.size(-1))
    column = torch.where(is_here, column, 0)
    of_target = torch.where(is_here, logits.gather(-1, column), -torch.inf)
    mine = torch.stack((here, of_target.to(out.dtype)))
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    everywhere, found = torch.stack(parts).unbind(1)  # (P, n, 1) each
    whole = everywhere.logsumexp(0)
    out *= (here - whole).exp()
    return whole - found.amax(0), column, is_here.to(out.dtype)
