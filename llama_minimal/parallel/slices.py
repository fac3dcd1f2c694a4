"""Tensor parallelism for inference: plain slices of the matrices, and a sum or two where the slices meet.

``parallel.tensor`` does the same for training, where gradients, norms and the optimizer must know that a tensor is a
part of one. That knowledge costs more time than a step of one token has.
"""

# B batch, T time, D model width, V vocabulary, P processes

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.checkpoint.tensors import Where
from llama_minimal.lora import refuse_adapters
from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.tensor import first_id

Slices = dict[str, tuple[tuple[int, ...], Where]]  # a parameter's name -> shape of the whole, and what of it is here

# Column then row: wq, wk, wv, w1, w3 are cut by outputs, wo and w2 by the inputs that belong to these.
_AXIS = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "tok_embeddings": 0, "output": 0}


@torch.no_grad()
def keep_slices(model: Llama, mesh: Mesh) -> Slices:
    """Keep of each matrix, in place, the slice of this process along ``tensor``, and exchange what that asks for.

    Two sums over the processes in each block, one after the embedding, and the parts of the logits put together.

    Args:
        model: whole, or a stage of a pipeline; also on the meta device.

    Returns:
        Which part of the whole tensor each parameter of this process is.

    Source: Shoeybi et al. 2019, "Megatron-LM", §3; with plain tensors and hooks, as in gpt-fast's ``tp.py``.
    """
    slices: Slices = {name: (tuple(parameter.shape), ()) for name, parameter in model.named_parameters()}
    n, rank = mesh.size_of("tensor"), mesh.rank_of("tensor")
    if n == 1:
        return slices
    refuse_adapters(model, "split the matrices")
    is_tied = model.tok_embeddings is not None and model.output is not None and model.config.tie_embeddings
    group = mesh.group("tensor")
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if name in _AXIS:
            slices |= {f"{path}.{key}": part for key, part in _cut(module, _AXIS[name], rank, n).items()}
        if name in ("wo", "w2"):
            module.register_forward_hook(partial(_add_up, group))
    if model.tok_embeddings is not None:
        first = first_id(model.config, n, rank)
        model.tok_embeddings.forward = partial(_embed, model.tok_embeddings, first, model.config.vocab_size, group)
    if model.output is not None:
        model.output.register_forward_hook(partial(_put_together, model.config.vocab_size, group))
    if is_tied:
        model.output.weight = model.tok_embeddings.weight
    return slices


def _cut(module: nn.Module, axis: int, rank: int, n: int) -> Slices:
    """Cut the weight of a layer, and its bias where the outputs are cut; else one process adds all of it."""
    size = module.weight.size(axis)
    step = -(-size // n)
    mine = slice(rank * step, min((rank + 1) * step, size))
    where: dict[str, Where] = {"weight": (mine,) if axis == 0 else (slice(None), mine)}
    if getattr(module, "bias", None) is not None:
        where["bias"] = (mine,) if axis == 0 else ()
        if axis == 1 and rank > 0:
            module.bias = None
            del where["bias"]
    slices = {}
    for key, part in where.items():
        whole = getattr(module, key)
        slices[key] = (tuple(whole.shape), part)
        setattr(module, key, nn.Parameter(whole[part].clone(), requires_grad=False))
    return slices


def _add_up(group: dist.ProcessGroup, _module: nn.Module, _inputs: tuple[Tensor, ...], part: Tensor) -> Tensor:
    """Sum what the processes computed, each from its own features, in float32 or better."""
    total = part.to(torch.promote_types(part.dtype, torch.float32)).contiguous()
    dist.all_reduce(total, group=group)
    return total.to(part.dtype)


def _embed(embedding: nn.Embedding, first: int, vocab_size: int, group: dist.ProcessGroup, tokens: Tensor) -> Tensor:
    """Look up the tokens whose embeddings are here; the others' come from where they are."""
    n_here = len(embedding.weight)
    is_here = (tokens >= first) & (tokens < first + n_here)
    is_known = (tokens >= 0) & (tokens < vocab_size)
    # -1 is refused by the look-up, as is any unknown id where all embeddings are in one place.
    rows = torch.where(is_here, tokens - first, torch.where(is_known, 0, -1))
    x = F.embedding(rows, embedding.weight) * is_here[..., None]  # (B, T, D)
    dist.all_reduce(x, group=group)
    return x


def _put_together(
    vocab_size: int, group: dist.ProcessGroup, _module: nn.Module, _inputs: tuple[Tensor, ...], part: Tensor
) -> Tensor:
    """Return all logits (..., V) from the columns that each process has, in the order of the ids."""
    n = dist.get_world_size(group)
    width = -(-vocab_size // n)
    mine = F.pad(part, (0, width - part.size(-1))).contiguous()  # the last process may have fewer
    parts = [torch.empty_like(mine) for _ in range(n)]
    dist.all_gather(parts, mine, group=group)
    return torch.cat(parts, dim=-1)[..., :vocab_size]
