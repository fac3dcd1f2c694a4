"""One gradient for each example, cut to a length: what differential privacy needs and a batch's gradient hides."""

# B examples of a batch

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_minimal.loss import Batch, next_token

Gradients = dict[str, Tensor]
"""Parameter's name -> its gradients, (B, *shape), or their sum, (*shape)."""


def example_gradients(model: nn.Module, batch: Batch) -> tuple[Gradients, Tensor]:
    """Return the gradient of each example's mean next-token loss, and these losses, (B,), in nats per token.

    ``grad`` differentiates the loss of one example, ``vmap`` does so for all of them side by side. A parameter with two
    names (a tied embedding, a shared layer) is one parameter here, and its gradient is the sum over its uses.

    Args:
        batch: inputs and targets, (B, T), one example in a row; an example without targets has a gradient of 0.
    """
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    names = _all_names(model)

    def loss(parameters: Mapping[str, Tensor], *row: Tensor) -> Tensor:
        total, count = next_token(
            _With(model, {name: parameters[one] for name, one in names.items()}), tuple(part[None] for part in row)
        )
        return total / count.clamp_min(1)

    each = vmap(grad_and_value(loss), in_dims=(None, *(0 for _ in batch)), randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # the one attention kernel that vmap can run for all examples at once
        return each(learned, *batch)


def _all_names(model: nn.Module) -> dict[str, str]:
    """Return every place of a parameter that learns -> the name that ``named_parameters`` has for it.

    ``functional_call`` finds such places itself, but a layer with two names it fills twice, and the layer then keeps
    what it was filled with instead of its parameters (PyTorch 2.13). Here each layer is met once.
    """
    known = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    places = (
        (f"{prefix}.{name}" if prefix else name, p)
        for prefix, module in model.named_modules()
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False)
    )
    return {place: known[id(p)] for place, p in places if id(p) in known}


class _With:
    """A model that computes with other parameters."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self.model, self.parameters = model, parameters

    def __call__(self, *inputs: Tensor, **options: object) -> Tensor:
        return functional_call(self.model, dict(self.parameters), inputs, options, tie_weights=False)


def gradient_norms(gradients: Gradients) -> Tensor:
    """Return the length of each example's gradient over all parameters together, (B,)."""
    return torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients.values()]).sum(0).sqrt()


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return min(1, clip/‖g‖), which cuts each gradient to at most the length ``clip``, (B,).

    Source: Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1.
    """
    return (clip / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1)


def clipped_sum(gradients: Gradients, clip: float) -> Gradients:
    """Return Σ g·min(1, clip/‖g‖) over the examples: no example moves it by more than ``clip``."""
    factors = clip_factors(gradient_norms(gradients), clip)
    return {name: torch.einsum("b,b...->...", factors, g) for name, g in gradients.items()}
