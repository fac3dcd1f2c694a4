"""Tensor parallelism: every layer in P parts, one on each rank, forward and backward.

What the ranks hold is a list, rank 0 first. Every function returns ``(outs, backward)``, as the ``_vjp`` functions of
``reference`` do, with lists in the place of arrays.

All communication is in four pairs, each one's backward the other's forward: ``copy_vjp`` sends nothing, and backward
all-reduces, since each rank knows a part of the gradient; ``reduce_vjp`` all-reduces, and backward sends nothing;
``gather_vjp`` all-gathers, and backward reduce-scatters; ``scatter_vjp`` reduce-scatters, and backward all-gathers.

Source: Shoeybi et al. 2019, "Megatron-LM", §3 (the first two); Korthikanti et al. 2022, §4 (the others).
"""

# P ranks, B batch, T time, D model width, V vocabulary

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from llama_minimal.config import LlamaConfig
from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.block import Pair, attention_block_vjp, feed_forward_vjp
from llama_minimal.reference.compose import Params
from llama_minimal.reference.feedforward import linear_vjp
from llama_minimal.reference.normalization import rms_norm_vjp

Arrays = list[Array]

# Which dimension of a weight is cut. Column: the output features. Row: the input features, and what comes out of
# the ranks has to be added up.
COLUMN, ROW = 0, 1
PLAN = {
    "tok_embeddings": COLUMN,  # by tokens
    "wq": COLUMN,
    "wk": COLUMN,
    "wv": COLUMN,
    "wo": ROW,
    "w1": COLUMN,
    "w3": COLUMN,
    "w2": ROW,
    "output": COLUMN,  # by tokens
}


def cut(array: Array, ranks: int, axis: int = 0) -> Arrays:
    """Cut an array into P equal parts along one axis.

    Raises:
        ValueError: if the axis is no multiple of P.
    """
    if array.shape[axis] % ranks:
        raise ValueError(f"axis {axis} of {array.shape} cannot be cut into {ranks} equal parts")
    return np.split(array, ranks, axis)


def shard(params: Params, ranks: int) -> list[Params]:
    """Cut a model's weights by ``PLAN``: one dictionary for each rank, with the same names.

    Norms are copied to every rank.

    Raises:
        ValueError: if a weight cannot be cut evenly, or a layer that is cut has a bias.
    """
    parts: list[Params] = [{} for _ in range(ranks)]
    for name, array in params.items():
        axis = PLAN.get(name.split(".")[-2])
        if axis is not None and name.endswith(".bias"):
            raise ValueError(f"{name} would be added on each rank; cut a model without biases")
        shares = [array.copy() for _ in range(ranks)] if axis is None else cut(array, ranks, axis)
        for part, share in zip(parts, shares, strict=True):
            part[name] = share
    return parts


def local_config(config: LlamaConfig, ranks: int) -> LlamaConfig:
    """Return the shape of one rank's layers: 1/P of the heads, of the kv heads and of the ffn width.

    Raises:
        ValueError: if one of the three is no multiple of P.
    """
    numbers = {"n_heads": config.n_heads, "n_kv_heads": config.n_kv_heads, "hidden_dim": config.hidden_dim}
    for name, number in numbers.items():
        if number % ranks:
            fitting = [str(p) for p in range(1, number + 1) if not any(n % p for n in numbers.values())]
            raise ValueError(f"{name} is {number}, no multiple of {ranks} ranks; {', '.join(fitting)} would divide all")
    return config.replace(**{name: n // ranks for name, n in numbers.items()}, head_dim=config.head_dim)


def copy_vjp(xs: Arrays) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
    """Use what every rank has; backward, all-reduce the ranks' parts of its gradient."""
    return xs, reduce_everywhere


def reduce_vjp(xs: Arrays) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
    """All-reduce the ranks' parts of a sum; backward, every rank has the gradient already."""
    return reduce_everywhere(xs), lambda d_outs: d_outs


def gather_vjp(xs: Arrays, axis: int) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
    """All-gather the ranks' slices along an axis; backward, reduce-scatter."""
    return _all_gather(xs, axis), lambda d_outs: _reduce_scatter(d_outs, axis)


def scatter_vjp(xs: Arrays, axis: int) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
    """Reduce-scatter: add up the ranks' parts of a sum, and leave each rank its slice; backward, all-gather."""
    return _reduce_scatter(xs, axis), lambda d_outs: _all_gather(d_outs, axis)


def reduce_everywhere(xs: Arrays, add: Callable[[Array, Array], Array] = np.add) -> Arrays:
    """Give every rank the sum of all ranks' arrays, or their maximum with ``np.maximum``."""
    total = reduce(add, xs)
    return [total.copy() for _ in xs]


def _all_gather(xs: Arrays, axis: int) -> Arrays:
    return [np.concatenate(xs, axis) for _ in xs]


def _reduce_scatter(xs: Arrays, axis: int) -> Arrays:
    return cut(reduce(np.add, xs), len(xs), axis)


def column_linear_vjp(xs: Arrays, ws: Arrays, bs: Arrays | None = None) -> tuple[Arrays, Callable[[Arrays], tuple]]:
    """Apply a linear layer of which each rank holds a part of the output features; no communication.

    Backward the gradients at x are all-reduced: every rank's features look at the whole x.

    Args:
        xs: the same (..., in) on every rank.
        ws: (out/P, in) each.
        bs: (out/P,) each, or None.

    Returns:
        (..., out/P) each, and d_outs → (d_xs, d_ws, d_bs).
    """
    xs, copy_backward = copy_vjp(xs)
    outs, backwards = _each(linear_vjp, xs, ws, bs or [None] * len(ws))

    def backward(d_outs: Arrays) -> tuple[Arrays, Arrays, Arrays | None]:
        d_xs, d_ws, d_bs = _run(backwards, d_outs)
        return copy_backward(d_xs), d_ws, d_bs if bs else None

    return outs, backward


def row_linear_vjp(xs: Arrays, ws: Arrays, b: Array | None = None) -> tuple[Arrays, Callable[[Arrays], tuple]]:
    """Apply a linear layer of which each rank holds a part of the input features; all-reduce the outputs.

    Backward needs no communication. The bias is added once, after the sum.

    Args:
        xs: (..., in/P) each.
        ws: (out, in/P) each.
        b: (out,), or None.

    Returns:
        The same (..., out) on every rank, and d_outs → (d_xs, d_ws, d_b).
    """
    partial, backwards = _each(linear_vjp, xs, ws)
    outs, reduce_backward = reduce_vjp(partial)

    def backward(d_outs: Arrays) -> tuple[Arrays, Arrays, Array | None]:
        d_xs, d_ws, _ = _run(backwards, reduce_backward(d_outs))
        return d_xs, d_ws, None if b is None else d_outs[0].reshape(-1, b.size).sum(axis=0)

    return outs if b is None else [out + b for out in outs], backward


def parallel_feed_forward_vjp(
    xs: Arrays, shards: list[Params], name: str, config: LlamaConfig, *, sequence: bool = False
) -> tuple[Arrays, Callable[[Arrays], tuple[Arrays, list[Params]]]]:
    """Apply a feed-forward layer by columns, bend, and by rows: one all-reduce forward, one backward.

    Args:
        xs: the same (B, T, D) on every rank; with ``sequence``, (B, T/P, D) each.
        shards: from ``shard``.
        name: the layer's, such as ``"layers.0.feed_forward"``; without biases.
        config: the whole model's.
        sequence: whether the ranks hold slices of the positions between the layers. Then the sums are an all-gather
            before the layer and a reduce-scatter behind it.
    """
    local = local_config(config, len(shards))
    return _between(xs, [lambda x, p=part: feed_forward_vjp(x, p, name, local) for part in shards], sequence)


def parallel_attention_vjp(
    xs: Arrays,
    shards: list[Params],
    name: str,
    config: LlamaConfig,
    rope: Pair | None = None,
    mask: Array | None = None,
    *,
    sequence: bool = False,
) -> tuple[Arrays, Callable[[Arrays], tuple[Arrays, list[Params]]]]:
    """Apply an attention layer with H/P heads and K/P kv heads on each rank: one all-reduce forward, one backward.

    No head looks at another, and a rank holds the kv heads that its query heads read. The arguments are those of
    ``parallel_feed_forward_vjp`` and of ``attention_block_vjp``.
    """
    local = local_config(config, len(shards))
    parts = [lambda x, p=part: attention_block_vjp(x, p, name, local, rope, mask) for part in shards]
    return _between(xs, parts, sequence)


def _between(
    xs: Arrays, parts: Sequence[Callable[[Array], VJP]], sequence: bool
) -> tuple[Arrays, Callable[[Arrays], tuple[Arrays, list[Params]]]]:
    """Give every rank all of x, let it compute its part, and add the parts up."""
    wholes, into_backward = gather_vjp(xs, 1) if sequence else copy_vjp(xs)
    partial, backwards = _each(lambda part, x: part(x), parts, wholes)
    outs, out_backward = scatter_vjp(partial, 1) if sequence else reduce_vjp(partial)

    def backward(d_outs: Arrays) -> tuple[Arrays, list[Params]]:
        d_wholes, gradients = _run(backwards, out_backward(d_outs))
        return into_backward(d_wholes), gradients

    return outs, backward


def sequence_norm_vjp(xs: Arrays, weight: Array, eps: float) -> tuple[Arrays, Callable[[Arrays], tuple[Arrays, Array]]]:
    """Apply RMSNorm to each rank's own positions; backward, the weight's gradient is all-reduced.

    Args:
        xs: (B, T/P, D) each.
        weight: (D,), the same on every rank.

    Returns:
        (B, T/P, D) each, and d_outs → (d_xs, d_weight).
    """
    outs, backwards = _each(lambda x: rms_norm_vjp(x, weight, eps), xs)

    def backward(d_outs: Arrays) -> tuple[Arrays, Array]:
        d_xs, d_weights = _run(backwards, d_outs)
        return d_xs, reduce_everywhere(d_weights)[0]

    return outs, backward


def _each(f: Callable, *lists: Sequence) -> tuple[list, list]:
    # One call a rank: the outputs and the backwards, as two lists.
    return tuple(map(list, zip(*(f(*arguments) for arguments in zip(*lists, strict=True)), strict=True)))


def _run(backwards: Sequence[Callable], d_outs: Sequence) -> tuple[list, ...]:
    # Each rank's backward: the gradients of the first argument, of the second …, as lists over the ranks.
    return tuple(map(list, zip(*(f(d_out) for f, d_out in zip(backwards, d_outs, strict=True)), strict=True)))
