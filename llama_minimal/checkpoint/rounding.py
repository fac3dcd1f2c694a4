"""A checkpoint whose matrices are rounded to few bits while they are read, each by itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from llama_minimal.checkpoint.tensors import Checkpoint, Stored, check_finite
from llama_minimal.devices import find_dtype
from llama_minimal.model import build
from llama_minimal.quantization import SCHEMES, Quantization, code_names


def rounded(
    checkpoint: Checkpoint, how: Quantization, source: Path, *, dtype: torch.dtype | str | None = None
) -> Checkpoint:
    """Return a checkpoint that holds what ``quantize`` would make of the model: the same codes, to the last bit.

    One whole matrix is in memory at a time; whoever fills a part of a model takes a part of its codes.

    Args:
        source: its folder, for messages.
        dtype: of grids and all that is not rounded, None means bfloat16; given, the matrices are first that, too.

    Raises:
        ValueError: if the checkpoint is quantized already, a group does not divide the rows, or a layer to skip is not
            there.
    """
    if checkpoint.quantization is not None:
        raise ValueError(
            f"{source} is quantized already ({checkpoint.quantization.scheme}); load it as it is, or quantize the "
            f"original"
        )
    names = code_names(build(checkpoint.config, device="meta", seed=None), how)
    kept, first = find_dtype(dtype or torch.bfloat16), None if dtype is None else find_dtype(dtype)
    kind, options = SCHEMES[how.scheme], {"group_size": how.group, "dtype": kept, **how.options}

    def tensors() -> Iterator[tuple[str, Stored]]:
        for name, stored in checkpoint.tensors():
            if name not in names:
                yield name, stored
                continue
            weight = check_finite(stored[()], name, source)
            layer = kind.from_weight(weight if first is None else weight.to(first), **options)
            yield f"{names[name]}.weight", layer.weight
            yield f"{names[name]}.scale", layer.scale

    return replace(checkpoint, tensors=tensors, dtype=kept, quantization=how)
