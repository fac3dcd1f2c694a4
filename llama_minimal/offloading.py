"""Offloading: a model that does not fit a device rests in the computer's memory, and computes on the device.

Some blocks stay on the device. Each other one is brought there when its turn comes, and let go when it is done; on a
GPU the next one travels meanwhile. The text is the same, and each pass waits for the weights' way: bytes of the blocks
that travel, divided by the speed of the bus. (Where the CPU is to compute as well, see ``parallel.layerwise``.)

Source: "FlexGen", arXiv 2303.06865 (2023): weights that wait in the CPU's memory, those of the next layer on their way
while one computes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llama_minimal.block import Block
from llama_minimal.config.checks import check_integer
from llama_minimal.devices import find_device
from llama_minimal.model import Llama

_HOME = torch.device("cpu")


def offload(model: Llama, device: torch.device | str | None = None, *, keep: int = 0) -> Llama:
    """Let a model compute on a device that holds only some of its blocks, in place; for writing and measuring.

    Args:
        model: in the computer's memory, quantized or not. Offloaded once more, it is placed anew.
        device: such as ``"cuda"``; None: the best there is. The embedding, the last norm, the output layer and the
            cache are there, too. ``"meta"`` shows what is where, without computing.
        keep: how many blocks stay on the device, the first ones; all: nothing travels, and the model is as any other.

    Returns:
        The model. It learns nothing: with gradients a pass of it is an error. To move it elsewhere, first
        ``offload(model, "cpu", keep=len(model.blocks()))``.

    Raises:
        ValueError: if there is no such device, or the model has not so many blocks.
    """
    blocks = model.blocks()
    keep = check_integer("keep", keep, at_least=0)
    if keep > len(blocks):
        raise ValueError(f"keep={keep} blocks, and the model has {len(blocks)}; give 0 to {len(blocks)}")
    device = torch.device("meta") if str(device) == "meta" else find_device(device)
    for block in blocks:
        if (traveling := block.__dict__.pop("traveling", None)) is not None:
            traveling.end()
        block.runs_on = None
        _settle(block, packs=block in blocks[:keep])
        block.to(device if block in blocks[:keep] else _HOME)
    for part in (model.tok_embeddings, model.norm, model.output, model.positions):
        if part is not None:
            part.to(device)
    model._tie()
    if travelers := blocks[keep:]:
        stream = _side_stream(device) if len(travelers) > 1 else None
        trips = [_Traveling(block, model.device, stream) for block in travelers]  # with its number, as cuda:0
        for trip, following in zip(trips, trips[1:] + trips[:1], strict=True):
            trip.following = following
    return model


def bytes_on(model: Llama, device: torch.device | str) -> int:
    """Return how many bytes of the model's weights rest on a kind of device, such as ``"cuda"``."""
    kind = torch.device(device).type
    weights = {id(weight): weight for weight in (*model.parameters(), *model.buffers())}
    return sum(weight.nbytes for weight in weights.values() if weight.device.type == kind)


def _side_stream(device: torch.device) -> Any:
    """Return what a GPU does beside its main work, in its own order; None elsewhere."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _settle(block: Block, *, packs: bool) -> None:
    """Put the weights into the order in which they are saved, and say whether the CPU may lay them out otherwise."""
    for layer in block.modules():
        if hasattr(layer, "packs"):
            layer.restore()
            layer.packs = packs


class _Traveling:
    """Bring a block's weights to a device before it computes, and let them go afterwards.

    Args:
        stream: on which a GPU copies while it computes; None: it computes when the weights are there.
    """

    def __init__(self, block: Block, device: torch.device, stream: Any) -> None:
        self.device, self.stream, self.following = device, stream, self
        self.coming: list[Tensor] | None = None
        self.home = [
            (tensors, name, _pinned(tensor) if device.type == "cuda" else tensor)
            for module in block.modules()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        self._put(tensor for _, _, tensor in self.home)
        block.traveling, block.runs_on = self, device
        self.hooks = (
            block.register_forward_pre_hook(self.arrive),
            block.register_forward_hook(self.leave, always_call=True),  # after an error, too
        )

    def arrive(self, _block: nn.Module, _inputs: Any) -> None:
        if torch.is_grad_enabled() and any(tensor.requires_grad for _, _, tensor in self.home):
            raise ValueError("a model that is offloaded learns nothing; call it under torch.no_grad()")
        there, self.coming = self.coming or self._send(), None
        if self.stream is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.stream)
            for tensor in there:
                tensor.record_stream(now)  # else its memory could be given away while the block still computes
            if self.following is not self and self.following.coming is None:
                self.following.coming = self.following._send()
        self._put(there)

    def leave(self, _block: nn.Module, _inputs: Any, _output: Any) -> None:
        self._put(tensor for _, _, tensor in self.home)

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.coming = None

    def _send(self) -> list[Tensor]:
        with torch.cuda.stream(self.stream):  # None: where everything else runs
            # A copy even from the CPU to itself: so the way is the same everywhere, and is tested everywhere.
            return [
                _like(tensor, tensor.detach().to(self.device, non_blocking=True, copy=True))
                for _, _, tensor in self.home
            ]

    def _put(self, weights: Sequence[Tensor]) -> None:
        for (tensors, name, _), weight in zip(self.home, weights, strict=True):
            tensors[name] = weight


def _pinned(tensor: Tensor) -> Tensor:
    """Return the tensor in memory that a GPU reads by itself, while the CPU does something else."""
    return _like(tensor, tensor.detach().pin_memory())


def _like(tensor: Tensor, data: Tensor) -> Tensor:
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
