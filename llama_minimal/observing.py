"""Looking at a model while it reads or learns, and leaving it as it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """Have a model in eval mode, and without gradients, until the block ends."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """Have a model in training mode until the block ends; one that is in it needs no visit to all its parts."""
    was_training = model.training
    if not was_training:
        model.train()
    try:
        yield
    finally:
        if not was_training:
            model.eval()


@contextmanager
def watching(hooks: Mapping[nn.Module, Callable], *, after: bool = False) -> Iterator[None]:
    """Let hooks see the inputs of modules, or with ``after`` also the outputs, until the block ends."""
    kind = nn.Module.register_forward_hook if after else nn.Module.register_forward_pre_hook
    handles = [kind(module, hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
