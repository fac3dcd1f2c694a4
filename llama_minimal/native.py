"""Products of a matrix and one vector in C++ (``vector_products.cpp``), for compiled steps on a CPU.

PyTorch has no product that reads a matrix, for one vector, as fast as memory gives it, and its compiler's own loops
wait for one addition after the other (benchmarks/README.md). The C++ compiler that ``compile=True`` needs anyway makes
one that does, in a second or two. It is kept in the user's cache folder, and made anew for another processor.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, library

SOURCE = Path(__file__).with_name("vector_products.cpp")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
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
    is_built = _functions() is not None
    return is_built


def knows(w: Tensor) -> bool:
    """Return whether there is a product for this matrix, (out, in)."""
    return is_built and w.dtype in _NAMES and w.is_contiguous()


def vector_product(w: Tensor, x: Tensor) -> Tensor:
    """Return w x in float32, (out, in) and (in,) -> (out,); the matrix float32, bfloat16 or int8."""
    return torch.ops.llama_minimal.vector_product(w, x)


def int4_vector_product(codes: Tensor, grids: Tensor, x: Tensor) -> Tensor:
    """Return w x in float32, with w = step · code + offset.

    Args:
        codes: (out, in/2) uint8, two neighbors a byte.
        grids: (out, G, 2) float32, steps and offsets; groups of a multiple of 32.
        x: (in,) float32.
    """
    return torch.ops.llama_minimal.int4_vector_product(codes, grids, x)


_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}


@functools.cache
def _functions() -> ctypes.CDLL | None:
    program = compiler()
    try:
        if program is None:
            raise FileNotFoundError("there is no C++ compiler")
        loaded = ctypes.CDLL(str(_compiled(program)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        warnings.warn(
            f"the products in C++ could not be made, so PyTorch's compiler makes slower ones: {''.join(reason)}",
            stacklevel=2,
        )
        return None
    for name in _NAMES.values():
        getattr(loaded, name).argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
    loaded.int4.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 4
    return loaded


def _compiled(program: str) -> Path:
    """Return the compiled library, from the cache if it is there."""
    known = (SOURCE.read_text(), program, *_FLAGS, _processor())
    key = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama_minimal"
    path = folder / f"vector_products-{key}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:  # another process may be at it, too
            made = Path(beside) / path.name
            command = [program, *_FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT)
            made.replace(path)
    return path


def _processor() -> str:
    """Return what tells this processor from another that may share the cache folder."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return f"{platform.machine()} {platform.processor()}"
    first = described.read_text().split("\n\n", 1)[0].splitlines()
    return "\n".join(line for line in first if line.startswith(("model", "flags", "Features", "CPU")))


def _vector_product(w: Tensor, x: Tensor) -> Tensor:
    x, out = x.contiguous(), x.new_empty(w.size(0))
    product = getattr(_functions(), _NAMES[w.dtype])
    product(w.data_ptr(), x.data_ptr(), out.data_ptr(), *w.shape, torch.get_num_threads())
    return out


def _int4_vector_product(codes: Tensor, grids: Tensor, x: Tensor) -> Tensor:
    x, out = x.contiguous(), x.new_empty(codes.size(0))
    sizes = (codes.size(0), x.size(0), x.size(0) // grids.size(1), torch.get_num_threads())
    _functions().int4(codes.data_ptr(), grids.data_ptr(), x.data_ptr(), out.data_ptr(), *sizes)
    return out


_LIBRARY = library.Library("llama_minimal", "FRAGMENT")
_LIBRARY.define("vector_product(Tensor w, Tensor x) -> Tensor")
_LIBRARY.define("int4_vector_product(Tensor codes, Tensor grids, Tensor x) -> Tensor")
_LIBRARY.impl("vector_product", _vector_product, "CPU")
_LIBRARY.impl("int4_vector_product", _int4_vector_product, "CPU")
library.register_fake("llama_minimal::vector_product", lambda w, x: x.new_empty(w.size(0)), lib=_LIBRARY)
library.register_fake(
    "llama_minimal::int4_vector_product", lambda codes, grids, x: x.new_empty(codes.size(0)), lib=_LIBRARY
)
