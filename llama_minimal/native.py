"""Products of matrices and a few vectors in C++ (``vector_products.cpp``), and attention, for compiled steps on a CPU.

PyTorch has no product that reads a matrix, for one vector, as fast as memory gives it; its compiler's own loops wait
for one addition after the other, and in a graph of fixed sizes attention reads all slots of a cache, the empty ones
too (benchmarks/README.md). The C++ compiler that ``compile=True`` needs anyway makes better ones, in some seconds. They
are kept in the user's cache folder, and made anew for another processor or PyTorch.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, library

SOURCES = tuple(Path(__file__).with_name(name) for name in ("vector_products.cpp", "vector_attention.h", "vectors.h"))
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++20")
DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.uint8)
_LIMIT = 120
"""Seconds that the compiler may take."""

is_built = False
"""Whether the products are there: compiled code asks, so it is no function."""


def compiler() -> str | None:
    """Return the path of a C++ compiler: ``CXX``, or one that is installed."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)


def build() -> bool:
    """Make the products, once for each processor; return whether they are there, and warn where they are not."""
    global is_built
    is_built = _is_loaded()
    return is_built


def knows(weights: Sequence[Tensor], grids: Sequence[Tensor]) -> bool:
    """Return whether there is a product for these matrices, which read the same vector; see ``vector_products``."""
    first = weights[0]
    if not is_built or first.dtype not in DTYPES or any(g.shape[1:] != grids[0].shape[1:] for g in grids):
        return False
    return all(w.dtype == first.dtype and w.size(1) == first.size(1) and w.is_contiguous() for w in weights)


def vector_products(weights: Sequence[Tensor], grids: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return x wᵀ of every matrix, one beside the other, in float32: (n, in) -> (n, sum of outs).

    Args:
        weights: each (out, in), all float32, bfloat16 or int8; or (out, in/2) uint8, of two codes of 4 bits a byte.
        grids: of each matrix of codes, in float32. int8: (out,), the scales; int4: (out, 2, G), steps and offsets,
            w = step · code + offset, in groups of a multiple of 32. Else none.
        x: (n, in) of 32 bits or fewer; made for few vectors.
    """
    return torch.ops.llama_minimal.vector_products(weights, grids, x)


def vector_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √Dh + mask) v, (B, H, 1, Dh). What −∞ hides at both ends is not read.

    Args:
        q: (B, H, 1, Dh), float32 as all here.
        k, v: (B, K, S, Dh), with K a divisor of H; each (S, Dh) in one piece.
        mask: (1 or B, 1, 1, S), added to the scores.
    """
    return torch.ops.llama_minimal.vector_attention(q, k, v, mask)


def _shape(weights: Sequence[Tensor], _: Sequence[Tensor], x: Tensor) -> Tensor:
    return x.new_empty(len(x), sum(w.size(0) for w in weights), dtype=torch.float32)


@functools.cache
def _is_loaded() -> bool:
    program = compiler()
    try:
        if program is None:
            raise FileNotFoundError("there is no C++ compiler")
        torch.ops.load_library(_compiled(program))
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        warnings.warn(
            f"the products in C++ could not be made, so PyTorch's compiler makes slower ones: {reason}", stacklevel=3
        )
        return False
    library.register_fake("llama_minimal::vector_products", _shape)
    library.register_fake("llama_minimal::vector_attention", lambda q, *_: q.new_empty(q.shape))
    return True


def _compiled(program: str) -> Path:
    """Return the compiled library, from the cache if it is there."""
    known = (*(source.read_text() for source in SOURCES), program, *_FLAGS, torch.__version__, _processor())
    key = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama_minimal"
    path = folder / f"vector_products-{key}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:  # another process may be at it, too
            made = Path(beside) / path.name
            command = [program, *_FLAGS, *_of_torch(), str(SOURCES[0]), "-o", str(made), "-lc10", "-ltorch_cpu"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT)
            made.replace(path)
    return path


def _of_torch() -> list[str]:
    """Return what a compiler must know of PyTorch."""
    home = Path(torch.__file__).parent
    headers = (home / "include", home / "include" / "torch" / "csrc" / "api" / "include")
    abi = int(torch.compiled_with_cxx11_abi())
    return [*(f"-I{folder}" for folder in headers), f"-L{home / 'lib'}", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]


def _processor() -> str:
    """Return what tells this processor from another that may share the cache folder."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return f"{platform.machine()} {platform.processor()}"
    first = described.read_text().split("\n\n", 1)[0].splitlines()
    return "\n".join(line for line in first if line.startswith(("model", "flags", "Features", "CPU")))
