"""How much a head, a feature or a layer matters on real tokens, and which matter least."""

# B batch, T time, D model width, H heads, Dh head width, F ffn width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.calibration import Batches, hessians, input_norms, read
from llama_minimal.config.checks import check_integer
from llama_minimal.model import Llama
from llama_minimal.observing import watching
from llama_minimal.pruning.layers import check_weights


def head_scores(model: Llama, calibration: Batches) -> Tensor:
    """Return how far a block's attention output would move without each head: Σ over tokens ‖W_h a_h‖².

    a_h is what head h gives to wo, and W_h its columns there. It is the square of ``wanda_score``, of a whole head
    instead of a weight: tr(W_h H_hh W_hᵀ) with H = Σ a·aᵀ.

    Args:
        calibration: token ids, (B, T) or several such batches.

    Returns:
        (blocks, H), in float32 at least.

    Raises:
        ValueError: as ``hessians``; or if the model is quantized.
    """
    layers = check_weights({f"wo of block {i}": block.attention.wo for i, block in enumerate(model.blocks())})
    scores = []
    for name, hessian in hessians(model, calibration, layers).items():
        parts = layers[name].weight.detach().to(hessian.dtype).split(model.config.head_dim, dim=1)  # H times (D, Dh)
        own = [hessian[i : i + w.size(1), i : i + w.size(1)] for i, w in zip(_starts(parts), parts, strict=True)]
        scores.append(torch.stack([((w @ h) * w).sum() for w, h in zip(parts, own, strict=True)]))
    return torch.stack(scores)


def _starts(parts: tuple[Tensor, ...]) -> range:
    return range(0, len(parts) * parts[0].size(1), parts[0].size(1))


def feature_scores(model: Llama, calibration: Batches) -> Tensor:
    """Return how far a block's feed-forward output would move without each hidden feature: ‖x_f‖²·‖column f of w2‖².

    Args:
        calibration: token ids, (B, T) or several such batches.

    Returns:
        (blocks, F), in float32 at least.

    Raises:
        ValueError: as ``input_norms``; or if the model is quantized.
    """
    layers = check_weights({f"w2 of block {i}": block.feed_forward.w2 for i, block in enumerate(model.blocks())})
    norms = input_norms(model, calibration, layers)
    columns = {i: layer.weight.detach().to(norms[i].dtype).norm(dim=0) for i, layer in layers.items()}
    return torch.stack([(norms[i] * columns[i]) ** 2 for i in layers])


def layer_scores(model: Llama, calibration: Batches) -> Tensor:
    """Return how much each layer turns the hidden states: 1 − the mean cosine between what goes in and what comes out.

    Args:
        calibration: token ids, (B, T) or several such batches.

    Returns:
        (layers,), the mean over all tokens; of layers that share a block each has its own.

    Raises:
        ValueError: if there are no tokens, or the model cannot read them.

    Source: Men et al. 2024, "ShortGPT" (block influence).
    """
    sums: list[list[Tensor]] = [[] for _ in model.layers]
    place = 0

    def hook(block: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal place
        cosines = F.cosine_similarity(inputs[0].float(), out.float(), dim=-1)
        sums[place % len(sums)].append(1 - cosines.flatten())  # a shared block is called once a layer
        place += 1

    with watching(dict.fromkeys(model.blocks(), hook), after=True):
        read(model, calibration)
    return torch.stack([torch.cat(parts).mean() for parts in sums])


def lowest(scores: Tensor, n: int) -> list[list[int]]:
    """Return the n lowest of each row, in rising order: what ``remove_features`` takes.

    Args:
        scores: (blocks, all).

    Raises:
        ValueError: if n is not between 0 and what there is less one.
    """
    if check_integer("n", n, at_least=0) >= scores.size(1):
        raise ValueError(f"n={n} of {scores.size(1)} would leave none; give at most {scores.size(1) - 1}")
    return scores.argsort(dim=1, stable=True)[:, :n].sort().values.tolist()


def lowest_heads(scores: Tensor, n: int, *, n_kv_heads: int) -> list[list[int]]:
    """Return the n query heads of each row to remove: what ``remove_heads`` takes.

    Whole groups with the lowest sums if n is a multiple of a group, which makes the cache smaller too; else the lowest
    n/K of each of the K groups.

    Args:
        scores: (blocks, H).
        n_kv_heads: K.

    Raises:
        ValueError: if n heads cannot be removed so; the message says how many can.
    """
    n_heads = scores.size(1)
    check_integer("n", n, at_least=0)
    group = n_heads // n_kv_heads
    allowed = [i for i in range(1, n_heads) if i % group == 0 or i % n_kv_heads == 0]
    if n and n not in allowed:
        raise ValueError(
            f"{n} of {n_heads} query heads in {n_kv_heads} groups cannot go: either whole groups of {group} or as many "
            f"from each; possible are {', '.join(map(str, allowed)) or 'none'}"
        )
    chosen = []
    for row in scores.unflatten(1, (n_kv_heads, group)):  # (K, H/K)
        if n % group == 0:
            places = [(k, i) for k in lowest(row.sum(1)[None], n // group)[0] for i in range(group)]
        else:
            places = [(k, i) for k, few in enumerate(lowest(row, n // n_kv_heads)) for i in few]
        chosen.append([k * group + i for k, i in places])
    return chosen
