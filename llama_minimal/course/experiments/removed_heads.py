"""Chapter 15: heads removed one by one, the least important first; who says which these are?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from llama_minimal.course.experiments.pruning import calibration, start
from llama_minimal.devices import default_device
from llama_minimal.loss import next_token_loss
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.pruning import head_scores

WHAT = "Loss of the course model when its heads are removed one after the other, in four orders."
BUDGET = (
    "No retraining. The order is found on 4,096 tokens, the loss is that of 1,536 others; three seeds, each with other "
    "texts."
)
CHECK = {"order": "output", "seed": 0}

ORDERS = (
    "output",  # how far the attention's output moves without a head: head_scores
    "slope",  # the gradient's guess of what the loss would gain: Michel et al.
    "alone",  # what the loss gains when a head alone is removed, measured
    "random",
)
POINTS = [{"order": order, "seed": seed} for order in ORDERS for seed in (0, 1, 2)]

Head = tuple[int, int]  # block and head


@contextmanager
def without(model: Llama, heads: Sequence[Head]) -> Iterator[None]:
    """Have the output matrix of attention ignore some heads, until the block ends."""
    width = model.config.head_dim
    weights = [block.attention.wo.weight for block in model.blocks()]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for block, head in heads:
            weights[block][:, head * width : (head + 1) * width] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def loss(model: Llama, tokens: Tensor) -> float:
    """Return the mean loss in nats per token."""
    with reading(model):
        total, count = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    return (total / count).item()


def slopes(model: Llama, tokens: Tensor) -> Tensor:
    """Return |Σ a·∂L/∂a| of every head's output a, summed over places and averaged over texts, (blocks, heads)."""
    seen: list[Tensor] = []

    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    handles = [block.attention.wo.register_forward_pre_hook(hook) for block in model.blocks()]
    total, _ = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    total.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    heads = (model.config.n_heads, model.config.head_dim)
    found = [(a.detach() * a.grad).unflatten(-1, heads).sum((1, 3)).abs().mean(0) for a in seen]
    return torch.stack(found)


def order_of(model: Llama, order: str, tokens: Tensor, *, seed: int) -> list[Head]:
    """Return all heads, those that are to go first in front."""
    blocks, n = len(model.blocks()), model.config.n_heads
    heads = [(block, head) for block in range(blocks) for head in range(n)]
    if order == "random":
        return [heads[i] for i in np.random.default_rng(seed).permutation(len(heads))]
    if order == "alone":
        scores = torch.tensor([_alone(model, head, tokens) for head in heads])
    else:
        scores = (head_scores if order == "output" else slopes)(model, tokens).flatten()
    return [heads[i] for i in scores.argsort().tolist()]


def _alone(model: Llama, head: Head, tokens: Tensor) -> float:
    with without(model, [head]):
        return loss(model, tokens)


def run(*, order: str, seed: int) -> dict[str, float]:
    """Return the loss without the first 0, 1, 2 … heads of an order, by their number.

    Args:
        order: one of ``ORDERS``.
    """
    trained, tokenizer = start()
    trained = trained.to(default_device())
    known = calibration(tokenizer, seed=seed).to(trained.device)
    new = calibration(tokenizer, seed=10 + seed, rows=6).to(trained.device)
    heads = order_of(trained, order, known, seed=seed)
    figures = {}
    for n in range(len(heads) + 1):
        with without(trained, heads[:n]):
            figures[str(n)] = loss(trained, new)
    return figures
