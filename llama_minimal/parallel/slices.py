"""Tensor parallelism for inference: plain slices of the matrices, and a sum or two where the slices meet.

``parallel.tensor`` does the same for training, where gradients, norms and the optimizer must know that a tensor is a
part of one. That knowledge costs more time than a step of one token has.
"""

# B batch, T time, D model width, V vocabulary, P processes

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.checkpoint.tensors import Where, tensors_of
from llama_minimal.config.splitting import divisors
from llama_minimal.lora import refuse_adapters
from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.parallel.tensor import first_id

Slices = dict[str, tuple[tuple[int, ...], Where]]  # a tensor's name -> shape of the whole, and what of it is here

# Column then row: wq, wk, wv, w1, w3 are cut by outputs, wo and w2 by the inputs that belong to these.
_AXIS = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "tok_embeddings": 0, "output": 0}


@torch.no_grad()
def keep_slices(model: Llama, mesh: Mesh) -> Slices:
    """Keep of each matrix, in place, the slice of this process along ``tensor``, and exchange what that asks for.

    Two sums over the processes in each block, one after the embedding, and the parts of the logits put together.

    Args:
        model: whole, or a stage of a pipeline; also on the meta device, and in few bits.

    Returns:
        Which part of the whole tensor each tensor of this process is.

    Raises:
        ValueError: if the model has adapters.

    Source: Shoeybi et al. 2019, "Megatron-LM", §3; with plain tensors and hooks, as in gpt-fast's ``tp.py``.
    """
    slices: Slices = {name: (tuple(tensor.shape), ()) for name, tensor in tensors_of(model).items()}
    n, rank = mesh.size_of("tensor"), mesh.rank_of("tensor")
    if n == 1:
        return slices
    refuse_adapters(model, "split the matrices")
    is_tied = hasattr(model.tok_embeddings, "weight") and model.output is not None and model.config.tie_embeddings
    group = mesh.group("tensor")
    # Of w1, w2, w3 that stand together: w2 says which of its inputs stay together.
    units = {path[:-2]: getattr(module, "unit", 1) for path, module in model.named_modules() if path.endswith(".w2")}
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if name in _AXIS:
            unit = units.get(path.removesuffix(name), 1)
            slices |= {f"{path}.{key}": part for key, part in _cut(module, _AXIS[name], rank, n, unit).items()}
        if _AXIS.get(name) == 1:
            module.register_forward_hook(partial(_add_up, group))
            if hasattr(module, "of_all"):  # its inputs are rounded by the largest of them, wherever it is
                module.of_all = partial(_largest, group)
    if model.tok_embeddings is not None:
        ids = [min(first_id(model.config, n, r), model.config.vocab_size) for r in (rank, rank + 1)]
        model.tok_embeddings.forward = partial(
            _embed, model.tok_embeddings.forward, range(*ids), model.config.vocab_size, group
        )
    if model.output is not None:
        model.output.register_forward_hook(partial(_put_together, model.config.vocab_size, group))
    if is_tied:
        model.output.weight = model.tok_embeddings.weight
    return slices


def check_groups(model: Llama, n: int) -> None:
    """Refuse to split what is kept in few bits so that numbers would be parted which share a grid.

    Features of the feed-forward need not be shared out evenly, so there each process has whole groups.

    Raises:
        ValueError: if a group would be cut, or a process had none; the message says how many processes are possible.
    """
    layers = [(path, module) for path, module in model.named_modules() if hasattr(module, "unit")]
    layers = [(path, module) for path, module in layers if _AXIS.get(path.rpartition(".")[2]) == 1]
    for path, module in layers:
        if not _keeps_groups(path, module, n):
            fitting = [k for k in divisors(model.config) if all(_keeps_groups(*one, k) for one in layers)]
            raise ValueError(
                f"tensor={n} does not divide the {module.in_features} inputs of {path} so that each process has whole "
                f"groups of {module.unit}, which share a grid; this model can be split among "
                f"{', '.join(map(str, fitting))} processes"
            )


def _keeps_groups(path: str, module: nn.Module, n: int) -> bool:
    if path.endswith("w2"):
        return (n - 1) * _step(module.in_features, n, module.unit) < module.in_features
    return module.in_features % (n * module.unit) == 0 or n == 1


def _step(size: int, n: int, unit: int = 1) -> int:
    """Return how many features a process has, in whole units; the last one has what is left."""
    return -(-size // (n * unit)) * unit


def _cut(module: nn.Module, axis: int, rank: int, n: int, unit: int) -> Slices:
    """Cut the weight of a layer, and its bias where the outputs are cut; else one process adds all of it.

    A layer in few bits cuts its codes and grids itself.
    """
    cut, bias = (getattr(module, name, None) for name in ("cut", "bias"))
    is_layer = hasattr(module, "in_features")
    size = (module.out_features, module.in_features)[axis] if is_layer else module.num_embeddings
    step = _step(size, n, unit)
    mine = slice(rank * step, min((rank + 1) * step, size))
    slices = cut(axis, mine) if cut else {}
    where: dict[str, Where] = {} if cut else {"weight": (*(slice(None),) * axis, mine)}
    if bias is not None and (axis == 0 or rank == 0):
        where["bias"] = (mine,) if axis == 0 else ()
    elif bias is not None:
        module.bias = None
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


def _largest(group: dist.ProcessGroup, sizes: Tensor) -> Tensor:
    """Return of each number the largest that any process has."""
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
    return sizes


def _embed(
    look_up: Callable[[Tensor], Tensor], ids: range, vocab_size: int, group: dist.ProcessGroup, tokens: Tensor
) -> Tensor:
    """Look up the tokens whose embeddings are here; the others' come from where they are."""
    is_here = (tokens >= ids.start) & (tokens < ids.stop)
    is_known = (tokens >= 0) & (tokens < vocab_size)
    # -1 is refused by the look-up, as is any unknown id where all embeddings are in one place.
    rows = torch.where(is_here, tokens - ids.start, torch.where(is_known, 0, -1))
    x = look_up(rows) * is_here[..., None]  # (B, T, D)
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
