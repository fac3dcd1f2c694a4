"""Single weights set to zero: the model keeps its shape."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from llama_minimal.calibration import Batches, by_block, check_calibration, hessians, input_norms, undone_on_error
from llama_minimal.config.checks import check_one_of
from llama_minimal.model import Llama
from llama_minimal.pruning.layers import find_layers
from llama_minimal.pruning.masks import (
    check_one_given,
    check_pattern,
    magnitude_mask,
    mask_of,
    wanda_score,
)
from llama_minimal.pruning.report import SparsityReport, sparsity_report
from llama_minimal.pruning.second_order import sparsegpt

Method = Literal["magnitude", "global", "wanda", "sparsegpt"]
Layers = dict[str, nn.Linear]


@torch.no_grad()
def prune(
    model: Llama,
    method: Method = "magnitude",
    *,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    calibration: Batches | None = None,
    layers: str | Iterable[str] | None = None,
) -> SparsityReport:
    """Set weights of a model to zero, in place.

    The zeros are the mask: they are in the file that ``save`` writes, and ``keep_zeros`` finds them again. (They are
    stored like other numbers, so the file is no smaller, and a dense product no faster.) While it works, the former
    weights are kept, for as much memory again.

    - ``"magnitude"``: the smallest of every layer. ``"global"``: the smallest of all layers together.
    - ``"wanda"``: in every row those that matter least for the inputs that come.
    - ``"sparsegpt"``: the same question by H⁻¹, and the others make up for what goes.

    The last two look at the model's own inputs, block after block: each sees what the pruned blocks before it give.

    Args:
        model: whole, not quantized, in any floating-point dtype. Adapters beside its weights stay as they are, and
            whoever merges one fills the zeros again.
        sparsity: the share of weights to remove, in [0, 1).
        pattern: (n, m) instead, such as (2, 4): keep n of every m neighbors in a row.
        calibration: token ids of ordinary text, (B, T) or several such batches; for wanda and sparsegpt.
        layers: as for ``find_layers``; None means every linear layer of the blocks.

    Returns:
        What is zero now.

    Raises:
        ValueError: if method, sparsity, pattern, layers or calibration cannot be; the model is as it was then, as
            after every other interruption.

    Source: Sun et al. 2023, "Wanda"; Frantar and Alistarh 2023, "SparseGPT"; block after block: both released codes.

    Example:
        >>> model = build(preset("tiny"))
        >>> prune(model, "magnitude", sparsity=0.5).sparsity
        0.5
    """
    check_one_of("method", method, get_args(Method))
    layers = layers if layers is None or isinstance(layers, str) else tuple(layers)  # it is read twice
    found = find_layers(model, layers)
    _check(found, method, sparsity, pattern)
    how = {"sparsity": sparsity, "pattern": pattern}
    with undone_on_error(layer.weight for layer in found.values()):
        if method == "global":
            _prune_globally(found, sparsity)
        elif method == "magnitude":
            for layer in found.values():
                zero(layer, mask_of(layer.weight.abs(), **how))
        else:
            batches = check_calibration(calibration)
            for part in by_block(found):
                (_wanda if method == "wanda" else _sparsegpt)(model, part, batches, **how)
    return sparsity_report(model, layers)


def _prune_globally(layers: Layers, sparsity: float) -> None:
    sizes = [layer.weight.numel() for layer in layers.values()]
    mask = magnitude_mask(torch.cat([layer.weight.flatten() for layer in layers.values()]), sparsity)
    for layer, part in zip(layers.values(), mask.split(sizes), strict=True):
        zero(layer, part.view_as(layer.weight))


def _wanda(model: Llama, layers: Layers, batches: list[Tensor], **how: object) -> None:
    norms = input_norms(model, batches, layers)
    for name, layer in layers.items():
        zero(layer, mask_of(wanda_score(layer.weight, norms[name]), per_row=True, **how))


def _sparsegpt(model: Llama, layers: Layers, batches: list[Tensor], **how: object) -> None:
    statistics = hessians(model, batches, layers)
    for name, layer in layers.items():
        weight, _ = sparsegpt(layer.weight, statistics[name], **how)
        layer.weight.copy_(weight)


def zero(layer: nn.Linear, mask: Tensor) -> None:
    """Set to zero what a mask does not keep: also what is not finite, which a product with 0 would leave."""
    layer.weight.masked_fill_(~mask, 0)


def _check(layers: Layers, method: Method, sparsity: float | None, pattern: tuple[int, int] | None) -> None:
    check_one_given(sparsity, pattern)
    if pattern is None:
        return
    if method == "global":
        raise ValueError(f"pattern={pattern!r} is the same in every row, which 'global' is not; give 'magnitude'")
    for name, layer in layers.items():
        check_pattern(pattern, layer.in_features, what=name)
