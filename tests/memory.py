"""Count the bytes of all live tensors while something runs."""

import gc
import weakref
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Note every storage that an operation makes, or meets first, and when it goes; those of before do not count."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self._seen = 0, 0, {}
        there = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
        before = [x.untyped_storage() for x in there if x.layout == torch.strided]
        self._before = {storage._cdata: storage for storage in before}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):  # what comes from a file is made by no operation
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen and key not in self._before:
            self._seen[key] = weakref.finalize(storage, self._forget, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key, size):
        if self._seen.pop(key, None):
            self.now -= size


@contextmanager
def live_bytes():
    """Yield a counter whose ``peak`` is the most bytes that were alive at once, of those made inside."""
    gc.collect()
    with LiveBytes() as counter:
        yield counter
