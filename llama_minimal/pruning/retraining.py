"""Training that leaves zeros alone."""

from collections.abc import Callable

import torch
from torch import nn

from llama_minimal.model import Llama
from llama_minimal.pruning.layers import linear_layers


def keep_zeros(model: Llama) -> Callable[[], None]:
    """Return what sets the zeros of a pruned model back to zero, to be called after every step: the mask.

    Momentum would move a removed weight on even without a gradient. Give this function itself to the training loop,
    ``Trainer(…, after_step=keep_zeros)``: it reads the mask off the weights before the first step, and after
    ``resume`` off those of the snapshot, so that the mask needs no file of its own. (The gradients of removed weights
    still count in the norm that is clipped.)

    Args:
        model: pruned by ``prune``, or the part of it that this process has.

    Raises:
        ValueError: if there is no zero in any linear layer of the blocks: nothing was pruned.
    """
    layers = linear_layers(model)
    if model.config.tie_embeddings:
        layers.pop("output", None)  # whose zeros are the embedding's: nobody pruned it
    plain = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    masks = [(layer.weight, layer.weight.detach() == 0) for layer in plain]
    # A process may have a part without a zero, and the others the rest.
    is_part = len(model.layers) < model.config.n_layers or any(hasattr(weight, "to_local") for weight, _ in masks)
    if not is_part and not any(gone.any() for _, gone in masks):
        raise ValueError("the model has no zeros to keep; prune it before it is trained with after_step=keep_zeros")

    @torch.no_grad()
    def after_step() -> None:
        for weight, gone in masks:
            weight.masked_fill_(gone, 0)

    return after_step
