"""Quantization of a whole model: its linear layers, and the tables of its vocabulary."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from llama_minimal.calibration import Batches, undone_on_error
from llama_minimal.devices import find_dtype
from llama_minimal.lora.adapters import keep_adapters, let_train, refuse_adapters, refuse_merged
from llama_minimal.quantization.config import Quantization, check_names
from llama_minimal.quantization.embedding import QuantizedEmbedding
from llama_minimal.quantization.grids import check_group, make_grid
from llama_minimal.quantization.layers import QuantizedLinear
from llama_minimal.quantization.matrices import check_groups, check_matrix, find_matrices, refuse_quantized
from llama_minimal.quantization.methods import Method, Rounding, check_method, round_matrices
from llama_minimal.quantization.schemes import SCHEMES
from llama_minimal.settings import Scheme


@torch.no_grad()
def quantize(
    model: nn.Module,
    scheme: Scheme,
    *,
    method: Method = "rtn",
    calibration: Batches | None = None,
    group_size: int | Literal["row"] | None = None,
    skip: Sequence[str] = (),
    dtype: torch.dtype | str = torch.bfloat16,
    threshold: float | None = None,
) -> nn.Module:
    """Keep the matrices of a model in few bits, in place: linear layers, embedding and output.

    What remains, norms and biases, no longer learns; an adapter beside a quantized layer does.

    Args:
        scheme, group_size, skip, threshold: as in ``Quantization``.
        method: how numbers are rounded: ``"rtn"``, each to the nearest; ``"gptq"``, so that later columns make up for
            the error of earlier ones; ``"awq"``, with the columns of large inputs enlarged before, where what makes
            these inputs can be divided instead (not before w2 of a GELU, a tied output, or behind the norms of
            post-norm blocks). The last two go layer by layer, each reading what the rounded ones before it give;
            tables that are looked up are rounded to the nearest.
        calibration: token ids of ordinary text, (B, T) or several such batches; for gptq and awq.
        dtype: of what remains, of the grids and of all arithmetic. On a CPU the fast products are those in bfloat16.

    Returns:
        The model.

    Raises:
        ValueError: if scheme or method is unknown, a group does not divide the rows, a layer to skip is not there,
            calibration tokens are missing, or the model is quantized already, on the meta device, spread over processes
            or devices, or has an adapter merged, or for awq any; it is then as it was.

    Source: gptq: Frantar et al. 2022, "GPTQ"; awq: Lin et al. 2023, "AWQ", without its search for clipped ranges.
    """
    how = Quantization(scheme=scheme, group_size=group_size, skip=skip, threshold=threshold)
    kind, dtype, batches = SCHEMES[scheme], find_dtype(dtype), check_method(method, calibration)
    matrices = _checked_matrices(model, how.skip, how.group_size, method)
    options = {"group_size": how.group, "dtype": dtype, **how.options}

    def make(name: str, old: nn.Module) -> QuantizedLinear:
        return kind.from_weight(old.weight, _bias_of(old), **options)

    made = {}
    if method != "rtn":
        rounding = Rounding(grid=kind.grid(dtype), group_size=how.group, method=method)
        with undone_on_error(_tensors(model)):
            for name, rounded in round_matrices(model, matrices, rounding, batches):
                old = matrices[name]
                made[name] = kind.from_weight(old.weight, _bias_of(old), rounded=rounded, **options)
    _replace(model, matrices, lambda name, old: made.pop(name) if made else make(name, old))
    model.to(dtype).requires_grad_(False)
    let_train(model)
    return model


@torch.no_grad()
def round_weights(
    model: nn.Module,
    bits: int,
    *,
    method: Method = "rtn",
    calibration: Batches | None = None,
    group_size: int | Literal["row"] | None = None,
    symmetric: bool = False,
    skip: Sequence[str] = (),
) -> nn.Module:
    """Round the matrices of a model to what codes of few bits could stand for, in place; they stay floats.

    Nothing is saved, in memory or time. It shows what a number of bits would do, such as 2 or 3, for which there is no
    layer. Tables are rounded, too; ``skip`` leaves them out.

    Args:
        bits, symmetric: as in ``round_to_grid``.
        method, calibration, skip: as in ``quantize``.
        group_size: numbers of a row that share a grid, where the last group may be shorter; None or "row" means all.

    Returns:
        The model, whose weights can be trained.

    Raises:
        ValueError: as ``quantize``; the model is then as it was.
    """
    rounding = Rounding(grid=make_grid(bits, symmetric=symmetric), group_size=check_group(group_size), method=method)
    batches = check_method(method, calibration)
    skip = check_names("skip", skip)
    matrices = _checked_matrices(model, skip, None, method)
    with undone_on_error(_tensors(model)):
        for _ in round_matrices(model, matrices, rounding, batches):
            pass
    return model


def expect_quantized(model: nn.Module, how: Quantization) -> None:
    """Put layers without numbers in the place of a model's, in place, for a quantized checkpoint to fill.

    Args:
        model: on the meta device.

    Raises:
        ValueError: if a layer to skip is not there.
    """

    def make(name: str, old: nn.Module) -> QuantizedLinear:
        n_out, n_in = old.weight.shape
        options = {"dtype": old.weight.dtype, "device": old.weight.device, "group_size": how.group, **how.options}
        return SCHEMES[how.scheme](n_in, n_out, bias=_bias_of(old) is not None, **options)

    _replace(model, find_matrices(model, how.skip), make)
    model.requires_grad_(False)


def code_names(model: nn.Module, how: Quantization) -> dict[str, str]:
    """Return the parameters that ``quantize`` rounds, and of each the layer that keeps its codes.

    Args:
        model: not quantized; the meta device will do.

    Raises:
        ValueError: if a layer to skip is not there, or a group does not divide the rows.
    """
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    found, matrices = {}, find_matrices(model, how.skip)
    check_groups(how.group_size, matrices)
    for name, module in matrices.items():
        found[parameters[id(module.weight)]] = f"{name}.table" if isinstance(module, nn.Embedding) else name
    return found


def _checked_matrices(
    model: nn.Module, skip: Sequence[str], group_size: int | Literal["row"] | None, method: Method
) -> dict[str, nn.Module]:
    """Return what is to be rounded, after all that would stand in the way was looked for."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {str(model)[:50]!r}, and must be a model, such as load(…) returns")
    refuse_quantized(model, "quantize it once more")
    refuse_merged(model, "quantize a model")
    if method == "awq":
        refuse_adapters(model, "scale the inputs")
    matrices = find_matrices(model, skip)
    weights = {id(module.weight) for module in matrices.values()}
    tied = {n: m for n, m in model.named_modules() if isinstance(m, nn.Embedding) and id(m.weight) in weights}
    for name, module in (matrices | tied).items():
        check_matrix(name, module)
    check_groups(group_size, matrices)
    return matrices


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return what rounding may change, each once."""
    found = [tensor for module in model.modules() for tensor in (getattr(module, "weight", None), _bias_of(module))]
    return list({id(tensor): tensor for tensor in found if isinstance(tensor, Tensor)}.values())


def _bias_of(module: nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)


def _replace(
    model: nn.Module, matrices: dict[str, nn.Module], make: Callable[[str, nn.Module], QuantizedLinear]
) -> None:
    """Put what ``make`` makes of each matrix in its place, one after the other; a tied table stays one."""
    tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, old in matrices.items():
        new = make(name, old).train(old.training)
        owner, _, last = name.rpartition(".")
        if isinstance(old, nn.Embedding):
            setattr(model.get_submodule(owner), last, QuantizedEmbedding(new, is_output=False))
            continue
        for other, table in tables.items():
            if table.weight is old.weight:
                place, _, leaf = other.rpartition(".")
                setattr(model.get_submodule(place), leaf, QuantizedEmbedding(new, is_output=True))
        setattr(model.get_submodule(owner), last, keep_adapters(old, new))
