"""How the matrices of a model are rounded: each to the nearest, or by what the layers read on real tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from llama_minimal.calibration import Batches, by_block, check_calibration, hessians, input_sizes
from llama_minimal.config.checks import check_one_of
from llama_minimal.quantization.awq import find_scales
from llama_minimal.quantization.folding import Fold, folds_of
from llama_minimal.quantization.gptq import round_by_columns
from llama_minimal.quantization.grids import Grid, Rounded, nearest, values
from llama_minimal.settings import RoundingMethod

Method = RoundingMethod
Matrices = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Say how numbers are rounded."""

    grid: Grid
    group_size: int | None
    method: Method

    def __post_init__(self) -> None:
        check_one_of("method", self.method, get_args(Method))

    def nearest(self, w: Tensor) -> Rounded:
        """Round every number to the nearest."""
        return nearest(_wide(w), self.grid, self.group_size)

    def values(self, rounded: Rounded) -> Tensor:
        """Return what codes stand for."""
        return values(rounded, self.grid, self.group_size)


def round_matrices(
    model: nn.Module, matrices: Matrices, how: Rounding, calibration: Batches | None
) -> Iterator[tuple[str, Rounded]]:
    """Round the matrices of a model one after the other, in place, and yield what each has become.

    Tables come first, to the nearest: they are looked up. Then block after block, each by what it reads behind all that
    is rounded already.

    Raises:
        ValueError: if a method needs calibration tokens and there are none, or the model cannot read them.
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables = {name: module for name, module in matrices.items() if id(module.weight) in looked_up}
    layers = {name: module for name, module in matrices.items() if name not in tables}
    if how.method == "rtn":
        yield from ((name, _put(module, how.nearest(module.weight), how)) for name, module in matrices.items())
        return
    batches = check_calibration(calibration)
    yield from ((name, _put(module, how.nearest(module.weight), how)) for name, module in tables.items())
    for part in by_block(layers):
        yield from (_by_gptq if how.method == "gptq" else _by_awq)(model, part, how, batches)


def check_method(method: Method, calibration: Batches | None) -> list[Tensor] | None:
    """Return the calibration as a list, None for a method that needs none.

    Raises:
        ValueError: if there is no such method, or it lacks tokens.
    """
    check_one_of("method", method, get_args(Method))
    if method != "rtn":
        return check_calibration(calibration)
    if calibration is not None:
        raise ValueError("method='rtn' rounds to the nearest and reads no calibration tokens; leave them out")
    return None


def _by_gptq(model: nn.Module, part: Matrices, how: Rounding, batches: list[Tensor]) -> Iterator[tuple[str, Rounded]]:
    statistics = hessians(model, batches, part)
    for name, layer in part.items():
        rounded = round_by_columns(layer.weight, statistics[name], how.grid, group_size=how.group_size)
        yield name, _put(layer, rounded, how)


def _by_awq(model: nn.Module, part: Matrices, how: Rounding, batches: list[Tensor]) -> Iterator[tuple[str, Rounded]]:
    statistics, sizes = (seen(model, batches, part) for seen in (hessians, input_sizes))
    names = {layer: name for name, layer in part.items()}
    for fold in _folds(model, part):
        readers = [layer for layer in fold.readers if layer in names]
        if not readers:
            continue
        name = names[readers[0]]
        weights = [_wide(layer.weight) for layer in readers]
        fold.apply(
            find_scales(weights, statistics[name], fold.shared(sizes[name]), how.grid, group_size=how.group_size)
        )
    for name, layer in part.items():
        yield name, _put(layer, how.nearest(layer.weight), how)


def _folds(model: nn.Module, part: Matrices) -> Iterator[Fold]:
    name = next(iter(part))
    if name.startswith("layers."):
        yield from folds_of(model.get_submodule(".".join(name.split(".")[:2])))
    elif name == "output" and model.norm is not None:
        yield Fold(readers=(model.output,), maker=model.norm)


def _put(module: nn.Module, rounded: Rounded, how: Rounding) -> Rounded:
    with torch.no_grad():
        module.weight.copy_(how.values(rounded))
    return rounded


def _wide(w: Tensor) -> Tensor:
    return w.to(torch.promote_types(w.dtype, torch.float32))
