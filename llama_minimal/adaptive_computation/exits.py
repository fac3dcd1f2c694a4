"""Exits: what a model would say after fewer layers, and how to train it to say it well."""

# B batch, T time, D model width, V vocabulary, E exits

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llama_minimal.chunked_loss import chunked_loss
from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, is_number
from llama_minimal.loss import Batch, call
from llama_minimal.model import Llama
from llama_minimal.observing import watching


def check_exits(exits: Sequence[int] | None, config: LlamaConfig) -> tuple[int, ...]:
    """Return after how many layers a model may be left, in order; None means after every one.

    Raises:
        ValueError: if the model has no such layer, or has no other layers after it.
    """
    last = config.n_layers - 1
    exits = range(1, last + 1) if exits is None else [check_integer("exits", n) for n in exits]
    if not exits or max(exits) > last:
        raise ValueError(
            f"exits={list(exits)}: a model of {config.n_layers} layers can be left early after 1 to {last} of them"
        )
    return tuple(sorted(set(exits)))


def read_out(model: Llama, x: Tensor) -> Tensor:
    """Return the logits that the model's own norm and output layer make of any layer's result, (B, T, D) -> (B, T, V).

    All exits share them, so an exit adds no parameter. Source: Elhoushi et al. 2024, "LayerSkip: Enabling Early Exit
    Inference and Self-Speculative Decoding".
    """
    return model.output(x if model.norm is None else model.norm(x))


@torch.no_grad()
def exit_logits(model: Llama, tokens: Tensor, exits: Sequence[int] | None = None) -> Tensor:
    """Return what each exit, and last the whole model, would say at each place: (E + 1, B, T, V).

    Args:
        tokens: (B, T) ids.
        exits: after how many layers; None means after each.
    """
    wanted = (*check_exits(exits, model.config), model.config.n_layers)
    x, rope, where = model.begin(tokens, None, None)
    found = []
    for depth, layer in enumerate(model.layers.values(), start=1):
        x = layer(x, rope, **where)
        if depth in wanted:
            found.append(read_out(model, x))
    return torch.stack(found)


def first_layers(model: Llama, n: int) -> Llama:
    """Return the model that ends after its first n layers: with the same weights, not with copies of them.

    As a draft it lets a model speculate about itself.

    Source: Elhoushi et al. 2024, "LayerSkip".
    """
    (n,) = check_exits([n], model.config)
    first = Llama.__new__(Llama)
    nn.Module.__init__(first)
    first.config, first.eos_ids = model.config.replace(n_layers=n, share_layers=1), model.eos_ids
    first.tok_embeddings, first.norm, first.output = model.tok_embeddings, model.norm, model.output
    first.layers = nn.ModuleDict({name: layer for name, layer in model.layers.items() if int(name) < n})
    first.positions = model.positions
    return first.train(model.training)


class ExitLoss:
    """Be the objective that trains a model's exits along with its end: the weighted mean of all their losses.

    (L + Σ wᵢ Lᵢ) / (1 + Σ wᵢ), with L the loss of the whole model and Lᵢ that of the exit after i layers.

    Args:
        weights: wᵢ by number of layers, such as ``{1: 0.1, 2: 0.2}``.

    Source: Elhoushi et al. 2024, "LayerSkip", whose early exit loss is such a weighted mean.

    Example:
        >>> Trainer(build(preset("tiny")), torch.zeros(999).int(), TrainConfig(), objective=ExitLoss({1: 0.5})).step
        0
    """

    def __init__(self, weights: Mapping[int, float]) -> None:
        if not weights or not all(is_number(w) and 0 < w < float("inf") for w in weights.values()):
            raise ValueError(f"weights={weights!r} must give each exit a positive number, such as {{1: 0.1, 2: 0.2}}")
        self.weights = dict(weights)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum and the count of a batch: inputs, targets and perhaps documents, (B, T)."""
        whole = next(module for module in model.modules() if isinstance(module, Llama))
        check_exits(list(self.weights), whole.config)

        def losses(x: Tensor, output: nn.Module) -> tuple[Tensor, Tensor]:
            total, count = chunked_loss(x, output, batch[1])
            for depth, weight in self.weights.items():
                state = states[depth - 1] if whole.norm is None else whole.norm(states[depth - 1])
                total = total + weight * chunked_loss(state, output, batch[1])[0]
            return total / (1 + sum(self.weights.values())), count

        with _states(whole) as states:
            return call(model, batch, loss=losses)


@contextmanager
def _states(model: Llama) -> Iterator[list[Tensor]]:
    """Collect what each layer returns; a shared one runs several times."""
    states: list[Tensor] = []
    hooks = dict.fromkeys(model.blocks(), lambda module, args, out: states.append(out))
    with watching(hooks, after=True):
        yield states
