"""The two ends of the model in tensor parallelism: each rank holds V/P rows of the embedding and of the output."""

# P ranks, B batch, T time, D model width, V vocabulary

from collections.abc import Callable

import numpy as np

from llama_minimal.reference._types import Array
from llama_minimal.reference.loss import IGNORED
from llama_minimal.reference.parallel.tensor import Arrays, reduce_everywhere, reduce_vjp


def vocabulary_embedding_vjp(tokens: Array, weights: Arrays) -> tuple[Arrays, Callable[[Arrays], Arrays]]:
    """Look up each token's row where it is, zeros elsewhere, and all-reduce.

    Args:
        tokens: integers in [0, V), (B, T), the same on every rank.
        weights: rank r holds the rows r·V/P … (r + 1)·V/P − 1, (V/P, D) each.

    Returns:
        The same (B, T, D) on every rank, and d_outs → d_weights, without communication.

    Source: Shoeybi et al. 2019, §3.
    """
    places = [_place(tokens, len(weight), rank) for rank, weight in enumerate(weights)]
    outs, reduce_backward = reduce_vjp(
        [np.where(mine[..., None], weight[row], 0) for (row, mine), weight in zip(places, weights, strict=True)]
    )

    def backward(d_outs: Arrays) -> Arrays:
        gradients = [np.zeros_like(weight) for weight in weights]
        for gradient, (row, mine), d_out in zip(gradients, places, reduce_backward(d_outs), strict=True):
            np.add.at(gradient, row[mine], d_out[mine])
        return gradients

    return outs, backward


def parallel_loss_vjp(
    logits: Arrays, targets: Array
) -> tuple[tuple[np.floating, np.floating], Callable[[float], Arrays]]:
    """Sum −log softmax(logits)[target] over the targets, in nats, and never gather the logits.

    Three numbers a position travel: all ranks' maximum, their sum of e^(logit − maximum), and the target's logit,
    which one rank has: loss = maximum + log(sum) − target's logit.

    Args:
        logits: of the rank's own V/P tokens, (..., V/P) each.
        targets: integers in [0, V), or −100 for a target that does not count, (...).

    Returns:
        The sum of the losses and the number of targets, and d_total → d_logits, one for each rank:
        softmax − one-hot, each rank its own columns, without communication.

    Source: Shoeybi et al. 2019, §3.
    """
    counted = (targets != IGNORED).astype(logits[0].dtype)
    places = [_place(targets, part.shape[-1], rank) for rank, part in enumerate(logits)]
    maximum = reduce_everywhere([part.max(axis=-1) for part in logits], np.maximum)[0]
    exps = [np.exp(part - maximum[..., None]) for part in logits]
    total = reduce_everywhere([e.sum(axis=-1) for e in exps])[0]
    own = [np.take_along_axis(part, row[..., None], -1)[..., 0] for part, (row, _) in zip(logits, places, strict=True)]
    of_target = reduce_everywhere([np.where(mine, z, 0) for z, (_, mine) in zip(own, places, strict=True)])[0]

    def backward(d_total: float) -> Arrays:
        gradients = []
        for e, (row, mine) in zip(exps, places, strict=True):
            one_hot = (np.arange(e.shape[-1]) == row[..., None]) & mine[..., None]
            gradients.append(d_total * counted[..., None] * (e / total[..., None] - one_hot))
        return gradients

    return ((counted * (maximum + np.log(total) - of_target)).sum(), counted.sum()), backward


def _place(tokens: Array, size: int, rank: int) -> tuple[Array, Array]:
    # The token's row on this rank, and whether it is there at all; where it is not, row 0 stands for it.
    row = tokens - rank * size
    mine = (row >= 0) & (row < size)
    return np.where(mine, row, 0), mine
