"""Data parallelism: every process reads other sequences, and all take the same step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from llama_minimal.config import Precision
from llama_minimal.model import Llama


def replicate(model: nn.Module, mesh: DeviceMesh, device: torch.device) -> DistributedDataParallel:
    """Return the model with a copy on each process, whose gradients are averaged while they are computed.

    Source: Li et al. 2020, "PyTorch distributed: experiences on accelerating data parallel training", §3.
    """
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, process_group=mesh.get_group())


def shard_parameters(model: Llama, mesh: DeviceMesh, *, precision: Precision, keep_gathered: bool = False) -> None:
    """Keep on each process a slice of every parameter, of its gradient and of the optimizer's state, in place.

    A block's parameters are gathered just before they are used, and let go after (ZeRO, stage 3).

    Args:
        mesh: of one dimension.
        precision: with ``bf16``, parameters travel in 16 bits; gradients are added up in float32.
        keep_gathered: hold a block's parameters from its forward to its backward pass, and gather them once instead of
            twice: a pipeline would gather them for every micro-batch.

    Source: Rajbhandari et al. 2020, "ZeRO", §5; Zhao et al. 2023, "PyTorch FSDP".
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16":  # positions, cosines and sines are arguments too, and must stay float32
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    options = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": not keep_gathered}
    for block in model.blocks():
        fully_shard(block, **options)
    fully_shard(model, **options)


@contextmanager
def accumulating(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Exchange gradients with the last micro-batch of a step, not with those before it."""
    if isinstance(model, FSDPModule):
        model.set_is_last_backward(is_last)
        model.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def let_go(model: nn.Module) -> None:
    """Give up the gathered parameters that a forward pass without a backward one left: what stays is the slices."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Replace each gradient by its mean over processes that have the same parameters: what DDP does, afterwards."""
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = local(parameter.grad)
            dist.all_reduce(gradient, group=group)
            gradient.div_(dist.get_world_size(group))


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
