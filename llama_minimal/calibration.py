"""Calibration: what a layer's inputs look like on real tokens, seen by hooks while the model reads them.

Pruning and quantization ask the same of them, block after block, each block behind those that are changed already.
"""

# B batch, T time

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llama_minimal.observing import reading, watching

Batches = Tensor | Iterable[Tensor]
"""Token ids, (B, T): one batch, or several."""


def hessians(model: nn.Module, calibration: Batches, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return H = Σ x·xᵀ of every layer's inputs, over all tokens: half the Hessian of its squared output error.

    Args:
        model: reads the tokens, in ``eval`` mode.
        calibration: token ids, (B, T), or several such batches.
        layers: linear layers of the model, by name; see ``find_layers``.

    Returns:
        (in, in) for each layer, in float32, or float64 for a float64 model.

    Raises:
        ValueError: if there are no tokens, or the model cannot read them, or an input is not finite.
    """
    return _sums(model, calibration, layers, lambda x: x.T @ x)


def input_norms(model: nn.Module, calibration: Batches, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return ‖x_j‖₂ of every layer's inputs, over all tokens: the root of the diagonal of ``hessians``.

    Args:
        model, calibration, layers: as for ``hessians``.

    Returns:
        (in,) for each layer.

    Raises:
        ValueError: as ``hessians``.
    """
    totals = _sums(model, calibration, layers, lambda x: x.square().sum(0))
    return {name: total.sqrt() for name, total in totals.items()}


def input_sizes(model: nn.Module, calibration: Batches, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return Σ|x_j| of every layer's inputs, over all tokens: how large each input is, in any scale.

    Args:
        model, calibration, layers: as for ``hessians``.

    Returns:
        (in,) for each layer.

    Raises:
        ValueError: as ``hessians``.
    """
    return _sums(model, calibration, layers, lambda x: x.abs().sum(0))


def _sums(
    model: nn.Module,
    calibration: Batches,
    layers: Mapping[str, nn.Module],
    part: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Return, over all batches, the sum of a function of every layer's inputs (n, in)."""
    totals: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)

    def watch(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]  # half precision would lose most of a long sum
            totals[name] = totals[name] + part(x.flatten(0, -2).to(torch.promote_types(x.dtype, torch.float32)))

        return hook

    with watching({layer: watch(name) for name, layer in layers.items()}):
        read(model, calibration)
    for name, total in totals.items():
        if not isinstance(total, Tensor) or not total.isfinite().all():
            raise ValueError(f"the inputs of {name} are not finite on the calibration tokens; use float32 or bfloat16")
    return totals


def read(model: nn.Module, calibration: Batches) -> None:
    """Let the model read token ids, without dropout, and forget what it says."""
    with reading(model):
        for tokens in check_calibration(calibration):
            model(tokens.to(model.device))


def check_calibration(calibration: Batches | None) -> list[Tensor]:
    """Return the batches as a list, which can be read more than once.

    Raises:
        ValueError: if there are no tokens.
    """
    batches = [calibration] if isinstance(calibration, Tensor) else list(() if calibration is None else calibration)
    if wrong := [batch for batch in batches if not isinstance(batch, Tensor)]:
        raise ValueError(f"calibration has a {type(wrong[0]).__name__} in it; give tensors of token ids, (B, T)")
    if not sum(batch.numel() for batch in batches):
        raise ValueError("there are no calibration tokens; give token ids of ordinary text, (B, T) or several of these")
    return batches


def by_block(layers: Mapping[str, nn.Module]) -> list[dict[str, nn.Module]]:
    """Return the layers of one block at a time, in the order in which tokens come to them."""
    blocks: dict[str, dict[str, nn.Module]] = {}
    for name, layer in layers.items():
        block = ".".join(name.split(".")[:2]) if name.startswith("layers.") else name
        blocks.setdefault(block, {})[name] = layer
    return list(blocks.values())


@contextmanager
def undone_on_error(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Give parameters their values back if the block does not come to its end."""
    before = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
        raise
