"""What PyTorch's compiler needs so that the step of one token which it makes for a CPU is a fast one.

Of a matrix and a few vectors it calls the same library as without a compiler. A product in C++ (``native.py``) reads
the large ones faster. For one vector the rest is written as a sum of products, of which it makes a loop of its own,
which reads the matrix in whatever format (benchmarks/README.md). For many vectors the libraries are better.
"""

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from llama_minimal import native
from llama_minimal.large_pages import use_large_pages

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since PyTorch 2.7
LARGE = 1 << 16
"""Numbers of a weight from which on reading it costs more than calling what reads it."""
FEW = 8
"""The most vectors at a time for which a product in C++ is faster than the libraries."""


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for a device that this machine has no compiler for.

    Raises:
        ValueError: if it is the CPU, and there is no C++ compiler.
    """
    if device.type == "cpu" and not (native.compiler() or shutil.which("cl")):
        raise ValueError("compile needs a C++ compiler, such as g++, and found none; install one, or leave it out")


def prepare_compiler(device: torch.device) -> None:
    """Make what a compiled step calls, once for each machine; errors as of ``check_compiler``."""
    check_compiler(device)
    if device.type == "cpu":
        native.build()


def compiled(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a step compiled to one graph; on a GPU it is replayed without Python in between."""
    how = {"mode": "reduce-overhead"} if torch.cuda.is_available() else {"backend": _noting}
    step = torch.compile(step, fullgraph=True, dynamic=False, **how)
    # A graph per batch and cache size: more of them than PyTorch's limit, which is there to notice accidents.
    # A hook that comes later changes what a model computes, and PyTorch would not look for it.
    return torch._dynamo.config.patch(recompile_limit=256, skip_nnmodule_hook_guards=False)(step)


def _noting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Compile as PyTorch does, and note how the graph was last called."""
    # Else every call in the graph is asked anew for the shape that it had when the graph was made.
    run = torch._dynamo.lookup_backend("inductor")(graph, inputs, config_patches={"size_asserts": False})

    def noted(*args: Any) -> Any:
        out = run(*args)
        _CALLS.last = run, args, out
        return out

    return noted


_CALLS = threading.local()


class Again:
    """Call a compiled step for one text: the first time as PyTorch does, then its graph alone.

    PyTorch asks before every call whether model, cache and arguments are of the kind that the graph was made for:
    thousands of questions, which took a tenth of a step of int8. Within one text the answers stay the same.

    Args:
        step: of (model, tokens, positions, cache), as ``compiled`` returns it.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step, self.graph = step, None

    def __call__(self, model: nn.Module, tokens: Tensor, positions: Tensor, cache: Any) -> Tensor:
        if self.graph is not None:
            return self.graph(tokens, positions)
        _CALLS.last = None
        out = self.step(model, tokens, positions, cache)
        (run, args, outs), _CALLS.last = _CALLS.last or (None, (), ()), None  # it would keep model and cache alive
        places = [[i for i, arg in enumerate(args) if arg is x] for x in (tokens, positions)]
        if run is not None and [len(at) for at in places] == [1, 1] and len(outs) == 1 and outs[0] is out:
            self.graph = partial(_call, run, list(args), *(at[0] for at in places))
        return out


def _call(run: Callable[..., Any], args: list[Any], i: int, j: int, tokens: Tensor, positions: Tensor) -> Tensor:
    args[i], args[j] = tokens, positions
    return run(*args)[0]


def compiling_pays(model: nn.Module, *, n_rows: int) -> bool:
    """Return whether a compiled step of one token is the faster one, and warn where it is not.

    Args:
        n_rows: how many texts are written at a time.
    """
    weights = [*model.parameters(), *model.buffers()]  # those of a quantized layer are buffers
    if n_rows == 1 or all(w.numel() < LARGE for w in weights) or any(w.device.type != "cpu" for w in weights):
        return True
    few = min((layer.few for layer in model.modules() if hasattr(layer, "few")), default=0)
    pays = n_rows <= few and native.build()
    if not pays:
        warnings.warn(
            f"not compiled: on a CPU that pays for {max(1, few)} of this model's texts at a time, of which there are "
            f"{n_rows} here, and for models whose matrices all have fewer than {LARGE:,} numbers",
            stacklevel=2,
        )
    return pays


def n_compiled_vectors(x: Tensor) -> int:
    """Return how many vectors x, (..., in), has: 0 unless the compiler is at work, for a CPU and without gradients."""
    # What is exported is for other machines, and for other numbers of vectors.
    is_compiling = torch.compiler.is_compiling() and not _is_exporting()
    if not is_compiling or torch.is_grad_enabled() or x.device.type != "cpu":
        return 0
    return x.numel() // x.size(-1)


def in_one_call(x: Tensor, layers: Sequence[nn.Module]) -> Tensor | None:
    """Return what layers make of a few vectors, one beside the other, by one product in C++; None where it cannot.

    Args:
        x: (..., in).
        layers: with a number ``few``, of the vectors that they may get at a time, and a method ``vector_parts``, which
            returns weight and grids as ``native.vector_products`` takes them, or None. Without them a layer does
            another thing.

    Returns:
        (..., sum of outs).
    """
    if not 0 < n_compiled_vectors(x) <= min(getattr(layer, "few", 0) for layer in layers):
        return None
    if x.dtype == torch.float64 or sum(layer.out_features * layer.in_features for layer in layers) < LARGE:
        return None
    if len(layers) > 1 and any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return None
    parts = [layer.vector_parts() for layer in layers]
    if any(part is None for part in parts):
        return None
    weights, grids = [w for w, _ in parts], [grid for _, grid in parts if grid is not None]
    biases = [layer.bias for layer in layers]
    if not native.knows(weights, grids) or any((b is None) != (biases[0] is None) for b in biases):
        return None
    out = native.vector_products(weights, grids, x.reshape(-1, x.size(-1)))
    return finished(out, x, None if biases[0] is None else torch.cat(biases))


def vector_product(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x wᵀ + b, summed up in float32 at least: (1, …, in) and (out, in) give (1, …, out)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return finished((w.to(wide) * x.reshape(-1).to(wide)).sum(dim=-1), x, b)


def finished(out: Tensor, x: Tensor, b: Tensor | None) -> Tensor:
    """Add the bias to the product, (n, out) or (out,), of vectors x, (..., in), and give it their form: (..., out)."""
    out = out if b is None else out + b
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def written(x: Tensor) -> Tensor:
    """Return x, and make the compiler, if it is at work, write it to memory.

    Else it would fuse what makes x into the loop that reads it, and do it anew for every row of a matrix; or read
    formats of 16 bits in a loop over numbers of 8 bits, which it cannot make a fast one of. ``as_strided``, which
    changes nothing here, is what it does not look through.
    """
    if not torch.compiler.is_compiling():
        return x
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


@dataclass(slots=True)
class _Plain:
    """Count the compiled texts of a model, and hold the layers that pack again after the last of them."""

    n_texts: int = 0
    layers: list[nn.Module] = field(default_factory=list)


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_PLAIN: WeakKeyDictionary[nn.Module, _Plain] = WeakKeyDictionary()
_NEW_LOCK = threading.Lock()


def turn(model: nn.Module) -> AbstractContextManager:
    """Return what lets one thread at a time go through a model without gradients.

    On a CPU such a pass may lay weights out anew, and no other thread must read them meanwhile.
    """
    return nullcontext() if torch.compiler.is_compiling() or torch.is_grad_enabled() else _lock_of(model)


def _lock_of(model: nn.Module) -> AbstractContextManager:
    if (lock := _LOCKS.get(model)) is None:
        with _NEW_LOCK:
            lock = _LOCKS.setdefault(model, threading.RLock())
    return lock


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """Keep every layer's weight in the order in which it is saved, which compiled code reads, and in large pages."""
    with _lock_of(model):
        layers = [layer for layer in model.modules() if getattr(layer, "packs", False)]
        plain = _PLAIN.setdefault(model, _Plain())
        plain.n_texts += 1
        plain.layers += layers
        for layer in layers:
            layer.packs = False
            layer.prepare()
        use_large_pages([*model.parameters(), *model.buffers()])
    try:
        yield
    finally:
        with _lock_of(model):
            plain.n_texts -= 1
            if not plain.n_texts:  # the last of the texts that are written at a time
                del _PLAIN[model]
                for layer in plain.layers:
                    layer.packs = True
                    layer.restore()
