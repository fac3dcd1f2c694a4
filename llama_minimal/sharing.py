"""A trained model made into one that shares more of its weights: a start from which little training leads back.

What is shared is said by the config (``n_kv_heads``, ``share_layers``), so the result is a model like any other.
"""

# H query heads, K kv heads, G groups of them, Dh head width, D model width

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_divides, check_integer, check_one_of
from llama_minimal.lora.adapters import refuse_adapters
from llama_minimal.model import Llama, build

How = Literal["mean", "first"]

_POOLED = tuple(f"attention.{name}" for name in ("wk.weight", "wv.weight", "wk.bias", "wv.bias"))


def pool_heads(w: Tensor, n_heads: int, n_groups: int, *, how: How = "mean") -> Tensor:
    """Return one head for each group of neighbors: the mean of their rows, or the first of them.

    Args:
        w: (K·Dh, D), the matrix that makes keys or values, or (K·Dh,), its bias.
        n_heads: K.
        n_groups: G, a divisor of K.
        how: "mean" or "first".

    Returns:
        (G·Dh, D) or (G·Dh,), in the dtype of ``w``; the mean is computed in at least float32.

    Raises:
        ValueError: if G does not divide K, or there is no such ``how``.

    Source: Ainslie et al. 2023, "GQA", §2.1 (mean pooling, and a single head) and §2.2 (of each group).
    """
    check_one_of("how", how, get_args(How))
    n_groups = check_integer("n_groups", n_groups)
    check_divides("n_groups", n_groups, "n_heads", n_heads)
    wide = torch.promote_types(w.dtype, torch.float32)
    heads = w.to(wide).unflatten(0, (n_groups, n_heads // n_groups, -1))  # (G, K/G, Dh, ...)
    return (heads.mean(1) if how == "mean" else heads[:, 0]).flatten(0, 1).to(w.dtype)


def group_kv_heads(model: Llama, n_kv_heads: int, *, how: How = "mean") -> Llama:
    """Return a copy of a trained model in which groups of heads share keys and values.

    Each group's key and value head is the mean of what its members had, or its first member's. Cache and matrices
    shrink by K/G at once; for the loss, a short training on the former data must follow ("uptraining").

    Args:
        model: with K kv heads, any number.
        n_kv_heads: G, a divisor of K.
        how: "mean", which lost least in the source's comparison, or "first".

    Returns:
        A new model, which shares no memory with ``model``.

    Raises:
        ValueError: if G does not divide K, there is no such ``how``, or the model has adapters, or other parts than a
            trained one.

    Source: Ainslie et al. 2023, "GQA", §2.1.
    """
    n_heads = model.config.n_kv_heads
    check_divides("n_kv_heads", check_integer("n_kv_heads", n_kv_heads), "the model's kv heads", n_heads)

    def pool(name: str, tensors: list[Tensor]) -> Tensor:
        return pool_heads(tensors[0], n_heads, n_kv_heads, how=how) if name.endswith(_POOLED) else tensors[0]

    return _convert(model, model.config.replace(n_kv_heads=n_kv_heads), pool)


def share_layers(model: Llama, n: int, *, how: How = "mean") -> Llama:
    """Return a copy of a trained model in which each n layers in a row are one block, applied n times.

    Args:
        model: with any ``share_layers``; fewer than it has give each layer a block of its own again, and equal logits.
        n: a divisor of the number of layers.
        how: the block's weights: the mean of those of the group's layers, or those of the first of them.

    Returns:
        A new model, which shares no memory with ``model``.

    Raises:
        ValueError: if n does not divide the number of layers, or the model has adapters, or other parts than a trained
            one.
    """
    check_one_of("how", how, get_args(How))
    return _convert(model, model.config.replace(share_layers=n), _mean if how == "mean" else _first)


def _mean(_: str, tensors: list[Tensor]) -> Tensor:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack([tensor.to(wide) for tensor in tensors]).mean(0)


def _first(_: str, tensors: list[Tensor]) -> Tensor:
    return tensors[0]


@torch.no_grad()
def _convert(model: Llama, config: LlamaConfig, make: Callable[[str, list[Tensor]], Tensor]) -> Llama:
    """Return a new model; each of its tensors is made of those of the layers that stand in its place."""
    _check_whole(model)
    new = build(config, device=model.device, dtype=next(model.parameters()).dtype, seed=None)
    for name, parameter in new.named_parameters():
        parts = name.split(".")
        if parts[0] != "layers":
            parameter.copy_(model.get_parameter(name))
            continue
        first = int(parts[1])  # a shared block is listed under the first of its names
        inside = ".".join(parts[2:])
        group = [model.layers[str(i)].get_parameter(inside) for i in range(first, first + config.share_layers)]
        parameter.copy_(make(name, group))
    new.eos_ids = model.eos_ids
    return new.train(model.training)


def _check_whole(model: Llama) -> None:
    refuse_adapters(model, "share the weights")
    with torch.device("meta"):
        expected = {name: p.shape for name, p in Llama(model.config).named_parameters()}
    if {name: p.shape for name, p in model.named_parameters()} != expected:
        raise ValueError(
            "the model has other weights than its config says (it is quantized, cut, or a part of one); "
            "convert the trained model first, then do that"
        )
