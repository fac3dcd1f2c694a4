"""Whole heads, features and layers removed: what remains is a smaller dense model that loads everywhere.

A ``LlamaConfig`` has one number of heads and one width for all layers, so each layer loses as many.
"""

# B batch, T time, H heads, K kv heads, Dh head width, F ffn width

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from llama_minimal.config.checks import check_integer
from llama_minimal.model import Llama, build
from llama_minimal.pruning.layers import refuse_unlike

Chosen = Mapping[int, Collection[int]] | Sequence[Collection[int]]
"""For each block, by number or in order, what to remove from it."""

_REMEDY = "merge adapters first (merge_and_unload), and quantize after"


def remove_heads(model: Llama, heads: Chosen) -> Llama:
    """Return a model without some query heads, and without the key and value heads that nobody reads any more.

    Their rows of wq, wk, wv and columns of wo are gone, so that the outputs are those of a model in which these columns
    of wo are zero. A head stays as wide as it was. Of grouped heads as many must stay in each group as in every
    other, or none: whole groups, which also makes the cache smaller, or the same number from each.

    Where dim is no multiple of the heads that stay, the transformers library cannot read the model; ours can.

    Args:
        model: whole; it stays as it is.
        heads: for each of ``model.blocks()`` the query heads to remove, 0 to H − 1; as many everywhere. Layers that
            share a block lose the same.

    Raises:
        ValueError: if a head is not there, a block would lose all, or groups or blocks keep different numbers.
    """
    config = model.config
    chosen = _checked(model, heads, config.n_heads, what="head")
    group = config.n_heads // config.n_kv_heads
    keys, shapes = [], set()
    for block, kept in enumerate(chosen):
        counts = [sum(head // group == k for head in kept) for k in range(config.n_kv_heads)]
        keys.append([k for k, count in enumerate(counts) if count])
        if len({count for count in counts if count}) > 1:
            raise ValueError(
                f"block {block} would keep {counts} query heads of its {config.n_kv_heads} groups of {group}; remove "
                f"whole groups, or as many from each"
            )
        shapes.add((len(kept), len(keys[-1])))
    if len(shapes) > 1:
        raise ValueError(f"blocks would keep different (query, kv) heads, {sorted(shapes)}; remove as many from each")
    width = config.head_dim
    spread = [(_spread(kept, width), _spread(kv, width)) for kept, kv in zip(chosen, keys, strict=True)]
    rows = [{"wq": queries, "wk": kv, "wv": kv} for queries, kv in spread]

    def cut(block: int, name: str, tensor: Tensor) -> Tensor:
        if name == "attention.wo.weight":
            return tensor[:, rows[block]["wq"]]
        kept = rows[block].get(name.split(".")[-2])
        return tensor if kept is None else tensor[kept]

    n_heads, n_kv_heads = shapes.pop()
    return _rebuilt(model, cut, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=width)


def remove_features(model: Llama, features: Chosen) -> Llama:
    """Return a model without some hidden features of the feed-forward: rows of w1 and w3, columns of w2.

    Args:
        model: whole; it stays as it is.
        features: for each of ``model.blocks()`` those to remove, 0 to F − 1; as many everywhere.

    Raises:
        ValueError: if a feature is not there, a block would lose all, or blocks would lose different numbers.
    """
    chosen = _checked(model, features, model.config.hidden_dim, what="feature")
    if len(set(map(len, chosen))) > 1:
        raise ValueError(f"blocks would keep {[*map(len, chosen)]} features; remove as many from each")
    rows = [torch.tensor(kept) for kept in chosen]

    def cut(block: int, name: str, tensor: Tensor) -> Tensor:
        if name == "feed_forward.w2.weight":
            return tensor[:, rows[block]]
        return tensor[rows[block]] if name.startswith(("feed_forward.w1.", "feed_forward.w3.")) else tensor

    return _rebuilt(model, cut, hidden_dim=len(chosen[0]), head_dim=model.config.head_dim)


def remove_layers(model: Llama, layers: Collection[int]) -> Llama:
    """Return a model without some layers; the others follow each other.

    Args:
        model: whole; it stays as it is.
        layers: their numbers, from 0. Layers that share a block (``share_layers``) go together.

    Raises:
        ValueError: if a layer is not there, none would remain, or only some of those that share a block would go.
    """
    refuse_unlike(model, _REMEDY)
    config, gone = model.config, _numbers(layers, model.config.n_layers, what="layer", where="the model")
    kept = [i for i in range(config.n_layers) if i not in gone]
    if not kept:
        raise ValueError(f"all {config.n_layers} layers would go; keep at least one")
    blocks = list(dict.fromkeys(i // config.share_layers for i in kept))
    if len(blocks) * config.share_layers != len(kept):
        first = min(i for i in gone if i // config.share_layers in blocks) // config.share_layers * config.share_layers
        raise ValueError(
            f"layers {first} to {first + config.share_layers - 1} share a block, and only some of them are to go; "
            f"remove all of them, or none"
        )
    return _rebuilt(model, lambda block, name, tensor: tensor, blocks, n_layers=len(kept), head_dim=config.head_dim)


@torch.no_grad()
def _rebuilt(
    model: Llama, cut: Callable[[int, str, Tensor], Tensor], blocks: Sequence[int] | None = None, **changes: int
) -> Llama:
    """Return a model of another shape, with the cut tensors of some blocks and all others as they are."""
    old_blocks, first = model.blocks(), next(model.parameters())
    kept = range(len(old_blocks)) if blocks is None else blocks
    new = build(model.config.replace(**changes), device=first.device, dtype=first.dtype, seed=None)
    for block, place in zip(new.blocks(), kept, strict=True):
        old = dict(old_blocks[place].named_parameters())
        for name, parameter in block.named_parameters():
            parameter.copy_(cut(place, name, old[name].detach()))
            parameter.requires_grad_(old[name].requires_grad)
    old = dict(model.named_parameters())
    for name, parameter in new.named_parameters():
        if not name.startswith("layers."):
            parameter.copy_(old[name])
            parameter.requires_grad_(old[name].requires_grad)
    new.eos_ids = model.eos_ids
    return new.train(model.training)


def _checked(model: Llama, chosen: Chosen, n: int, *, what: str) -> list[list[int]]:
    """Return what each block keeps."""
    refuse_unlike(model, _REMEDY)
    n_blocks = len(model.blocks())
    if not isinstance(chosen, Mapping | Sequence | Tensor):
        raise ValueError(f"{what}s={chosen!r} must be a list for each of the {n_blocks} blocks, such as [[0], [2]]")
    by_block = dict(chosen) if isinstance(chosen, Mapping) else dict(enumerate(chosen))
    if set(by_block) != set(range(n_blocks)):
        raise ValueError(
            f"{what}s of blocks {list(by_block)} are given, but the model has blocks 0 to {n_blocks - 1} and each "
            f"loses as many; give {what}s to remove for every block"
        )
    kept = []
    for block in range(n_blocks):
        gone = _numbers(by_block[block], n, what=what, where=f"block {block}")
        kept.append([i for i in range(n) if i not in gone])
        if not kept[-1]:
            raise ValueError(f"block {block} would lose all of its {n} {what}s; keep at least one, or remove the layer")
    return kept


def _numbers(given: Collection[int], n: int, *, what: str, where: str) -> set[int]:
    if not isinstance(given, Collection | Tensor):
        raise ValueError(f"{given!r} must be a list of the {what}s of {where} that are to go, such as [0]")
    numbers = given.tolist() if isinstance(given, Tensor) else given
    gone = {check_integer(what, number, at_least=0) for number in numbers}
    if gone and max(gone) >= n:
        raise ValueError(f"{where} has no {what} {max(gone)}; its {what}s are 0 to {n - 1}")
    return gone


def _spread(heads: Sequence[int], width: int) -> Tensor:
    """Return the rows of these heads: heads · Dh numbers."""
    return (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten()
