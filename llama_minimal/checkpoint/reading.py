"""Tensors out of files, one at a time: safetensors, and PyTorch's pickled files, of which nothing is ever run."""

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama_minimal.checkpoint.tensors import Named, Where

# What compilers, wrappers for many devices and adapters put before, or into, the name of a tensor.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_model"}
_Parts = tuple[Iterable[int], Callable[[Where], Tensor]]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def read_tensors(paths: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True) -> Named:
    """Yield the wanted tensors of files under the files' own names.

    Raises:
        ValueError: if a file is missing, truncated or damaged, or a tensor is not of plain numbers.
    """
    for name, tensor in open_tensors(paths, wanted):
        yield name, tensor[()]


class LazyTensor:
    """Be a tensor of a file, of which only that is read which is asked for."""

    def __init__(self, shape: Iterable[int], read: Callable[[Where], Tensor]) -> None:
        self.shape, self._read = tuple(shape), read

    def __getitem__(self, where: Where) -> Tensor:
        return self._read(where)


def open_tensors(
    paths: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True, *, codes: bool = False
) -> Iterator[tuple[str, LazyTensor]]:
    """Yield the wanted tensors of files without reading them; each can be read until the next one comes.

    Args:
        codes: let those of quantized weights pass, too.

    Raises:
        ValueError: as ``read_tensors``, some of it when a tensor is read.
    """
    for path in paths:
        with _opened(path) as (names, get):
            for name in filter(wanted, names):
                shape, read = get(name)
                yield name, LazyTensor(shape, partial(_read, read, name, path, codes))


def _read(read: Callable[[Where], Tensor], name: str, path: Path, codes: bool, where: Where) -> Tensor:
    tensor = read(where)
    return tensor if codes and tensor.dtype in (torch.int8, torch.uint8) else checked(tensor, name, path)


def tensor_names(paths: Iterable[Path]) -> list[str]:
    """Return the names of all tensors in files.

    Raises:
        ValueError: if a file is missing, truncated or damaged.
    """
    found = []
    for path in paths:
        with _opened(path) as (names, _):
            found += names
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts beside the tensors of a file; other files than safetensors have none.

    Raises:
        ValueError: if the file is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise _missing(path) from None
    except SafetensorError as error:
        raise _broken(path, error) from None


def first_dtype(paths: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True) -> torch.dtype:
    """Return the dtype of the first wanted tensor.

    Raises:
        ValueError: if there is none.
    """
    for _, tensor in read_tensors(paths, wanted):
        return tensor.dtype
    raise ValueError(f"{', '.join(map(str, paths))} holds no tensors of a LLaMA")


def load_torch(path: Path) -> dict[str, Tensor]:
    """Map a file of PyTorch's into memory; nothing that it may contain besides tensors is ever run.

    Raises:
        ValueError: if it is missing or damaged, or holds anything else.
    """
    try:
        # Files of the time before zip cannot be mapped; they are read.
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except FileNotFoundError:
        raise _missing(path) from None
    except pickle.UnpicklingError:  # whose message advises to run what is in there
        raise ValueError(
            f"{path} is no PyTorch file, or holds something other than tensors; nothing of it was run: "
            f"get it again, or the safetensors version"
        ) from None
    except Exception as error:  # damaged files make the library raise almost anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a whole PyTorch file ({reason}); download it again") from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path} is not a dictionary of named tensors; is it a LLaMA checkpoint?")
    return content


def without_wrappers(name: str) -> str:
    """Return a tensor's name as it was before the model was compiled, wrapped or distributed."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def checked(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return the tensor.

    Raises:
        ValueError: if it is quantized or sparse, so that its numbers are not the weights.
    """
    if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided:
        raise ValueError(
            f"{path}: {name} is of {tensor.dtype} ({tensor.layout}); only float32, bfloat16, float16 and float64 can "
            f"be loaded: get a version that is not quantized"
        )
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], _Parts]]]:
    """Open a file for its names and a way to get each tensor: its shape, and what reads a part of it."""
    if path.suffix != ".safetensors":
        content = load_torch(path)
        yield list(content), lambda name: (content[name].shape, content[name].__getitem__)
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield list(file.keys()), partial(_parts, file)
    except FileNotFoundError:
        raise _missing(path) from None
    except SafetensorError as error:
        raise _broken(path, error) from None


def _parts(file: Any, name: str) -> _Parts:
    part = file.get_slice(name)
    # The library reads a tensor without dimensions as a whole only.
    return part.get_shape(), lambda where: part[where] if where else file.get_tensor(name)


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a whole safetensors file ({error}); download or save it again")


def _missing(path: Path) -> ValueError:
    return ValueError(f"{path} is missing, though the checkpoint's index names it; download it again")
