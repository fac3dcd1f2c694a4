"""Count the bytes of all tensors that are alive, and remember the most: what a planner's prediction is held against.

A tensor's memory is its storage, which several tensors may share, and which FSDP shrinks to nothing and fills again.
"""

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SCRATCH = ("_local_tensor", "elem")  # where tensors over processes, and results on their way, keep the tensor


class LiveBytes(TorchDispatchMode):
    """Look, after each operation, at every storage that is still alive.

    Inside this context each operation of PyTorch passes ``__torch_dispatch__``. What a kernel takes and gives back
    inside one operation is not seen. ``peak`` may be set back to 0, say after the first step.

    Example:
        >>> with LiveBytes() as live:
        ...     a = torch.zeros(100)
        ...     a = a + 1  # for a moment there are two
        >>> live.peak, live.now()
        (800, 400)
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.at_peak: dict[tuple[str, tuple[int, ...], torch.dtype], int] = {}
        """Bytes at the fullest moment, by the operation that made a tensor, its shape and its dtype."""
        self._alive: dict[int, tuple[weakref.ref, tuple[str, tuple[int, ...], torch.dtype]]] = {}

    def now(self) -> int:
        """Return the bytes that are alive."""
        return sum(bytes for _, bytes in self._sizes())

    def _sizes(self) -> list[tuple[Any, int]]:
        found = ((made, storage()) for storage, made in list(self._alive.values()))
        return [(made, storage.nbytes()) for made, storage in found if storage is not None]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "redistribute") for kind in types):  # a tensor over processes: its parts come by later
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, Tensor):
                self._see(tensor, str(func))
        if (now := self.now()) > self.peak:
            self.peak, self.at_peak = now, Counter()
            for made, size in self._sizes():
                self.at_peak[made] += size
        return out

    def _see(self, tensor: Tensor, operation: str) -> None:
        for name in _SCRATCH:
            tensor = getattr(tensor, name, tensor)
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            gone = weakref.ref(storage, lambda _: self._alive.pop(key, None))
            self._alive[key] = gone, (operation, tuple(tensor.shape), tensor.dtype)
