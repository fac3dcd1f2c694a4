"""Early exit: a token leaves the model at the first exit that is sure of what follows."""

# B batch, T time, D model width, V vocabulary, K kv heads, Dh head width

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from llama_minimal.adaptive_computation.exits import check_exits, read_out
from llama_minimal.block import Block
from llama_minimal.config.checks import check_one_of, is_number
from llama_minimal.kv_cache import KVCache, LayeredCache
from llama_minimal.linear import cast_once, linears
from llama_minimal.model import Llama
from llama_minimal.positions import apply_rope

Measure = Literal["top", "margin", "entropy"]


def exit_confidence(logits: Tensor, measure: Measure = "margin") -> Tensor:
    """Return how sure a distribution is of its first token, from 0 to 1, (…, V) -> (…).

    ``top`` is the largest probability; ``margin`` what it is above the second; ``entropy`` 1 − H / log V.

    Source: Schuster et al. 2022, "Confident Adaptive Language Modeling", whose softmax measure is the margin.
    """
    check_one_of("measure", measure, get_args(Measure))
    log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if measure == "entropy":
        entropy = -torch.where(log_p > float("-inf"), log_p.exp() * log_p, 0).sum(-1)
        return 1 - entropy / torch.tensor(logits.size(-1), dtype=log_p.dtype).log()
    first, second = log_p.topk(2, dim=-1).values.exp().unbind(-1)
    return first if measure == "top" else first - second


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule:
    """Say when a token may leave: at the first exit whose confidence is at least the threshold."""

    measure: Measure = "margin"
    """What counts as confidence: the top probability, its margin over the second, or 1 − entropy / log V."""
    threshold: float = 0.9
    """Confidence from which on to leave; above 1, no token ever leaves."""

    def __post_init__(self) -> None:
        check_one_of("measure", self.measure, get_args(Measure))
        if not is_number(self.threshold) or not self.threshold >= 0:
            raise ValueError(f"threshold={self.threshold!r} must be a number of at least 0; above 1 no token leaves")


def fill_cache(block: Block, x: Tensor, rope: tuple[Tensor, Tensor] | None, *, layer: int, **where: Any) -> None:
    """Write a skipped layer's keys and values, made of the hidden state with which its tokens left, (B, T, D).

    Later tokens look at all earlier ones in every layer, so a layer that was skipped needs keys and values too. They
    are two products; queries, attention and feed-forward are saved.

    Source: Schuster et al. 2022, "Confident Adaptive Language Modeling": the exit's state is handed on to the layers
    above.
    """
    attention = block.attention
    x = cast_once(block.attention_norm(x) if block.pre_norm else x)
    parts = linears(x, attention.wk, attention.wv)
    k, v = (part.view(*x.shape[:2], -1, attention.head_dim) for part in parts)  # (B, T, K, Dh)
    if rope is not None and not getattr(where["cache"], "turns_keys", False):
        k = apply_rope(k, *rope)
    where["cache"].write(layer, k.transpose(1, 2), v.transpose(1, 2), where["positions"])


class EarlyExit(nn.Module):
    """Be a model to ``generate``, and let each token that it writes leave at the first exit that is sure.

    A prompt goes through all layers, and so do several tokens at once, as when a draft's candidates are checked. In a
    batch a layer is skipped when all rows have left; of a row that left before the others, the rest is thrown away.

    Args:
        model: whose norm and output layer are at every exit; trained with ``ExitLoss``, or its exits know little.
        rule: when to leave.
        exits: after how many layers a token may; None means after each.

    Example:
        >>> model = EarlyExit(build(preset("tiny")), ExitRule(threshold=0.5), exits=[1])
    """

    def __init__(self, model: Llama, rule: ExitRule, *, exits: Sequence[int] | None = None) -> None:
        super().__init__()
        if model.config.n_layers < 2 or len(model.layers) < model.config.n_layers:
            raise ValueError("early exit needs a whole model of at least two layers in one process")
        self.model, self.rule, self.config = model, rule, model.config
        self.exits = check_exits(exits, model.config)
        self.depths: list[list[int]] = []
        """Layers used, of the latest cache: a list for each token after the prompt, with a number for each row."""
        self.train(model.training)

    @property
    def eos_ids(self) -> tuple[int, ...] | None:
        """The tokens that end a text, where a checkpoint names them."""
        return self.model.eos_ids

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out."""
        return self.model.device

    def make_cache(self, **options: Any) -> KVCache | LayeredCache:
        """Build the model's cache, and begin to write down depths anew."""
        self.depths = []
        return self.model.make_cache(**options)

    def forward(
        self, tokens: Tensor, *, positions: Tensor | None = None, cache: KVCache | LayeredCache | None = None
    ) -> Tensor:
        """Return the logits of each next token, (B, T, V), through all layers, as ``Llama.forward``."""
        return self.model(tokens, positions=positions, cache=cache)

    def next_logits(
        self,
        tokens: Tensor,
        last: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: KVCache | LayeredCache | None = None,
    ) -> Tensor:
        """Return the logits of what follows each row, (B, V): through all layers, or of one token at its exit."""
        if cache is None or positions is None or tokens.size(1) > 1:
            return self.model.next_logits(tokens, last, positions=positions, cache=cache)
        return self._step(tokens, positions, cache)

    def _step(self, tokens: Tensor, positions: Tensor, cache: KVCache | LayeredCache) -> Tensor:
        x, rope, where = self.model.begin(tokens, positions, cache)  # (B, 1, D)
        depths = torch.full((len(x),), self.config.n_layers, device=x.device)
        left = torch.zeros(len(x), 1, 1, dtype=torch.bool, device=x.device)
        logits = None  # (B, 1, V)
        for depth, (name, layer) in enumerate(self.model.layers.items(), start=1):
            if left.all():
                fill_cache(layer, x, rope, layer=int(name), **where)
                continue
            # A row that has left keeps its state; the layer makes its keys and values of it, as ``fill_cache`` would.
            x = torch.where(left, x, layer(x, rope, layer=int(name), **where))
            if depth in self.exits or depth == self.config.n_layers:
                here = read_out(self.model, x)
                leaves = exit_confidence(here, self.rule.measure)[..., None] >= self.rule.threshold
                depths = torch.where((leaves & ~left)[:, 0, 0], depth, depths)
                logits = here if logits is None else torch.where(left, logits, here)
                left = left | leaves
        self.depths.append(depths.tolist())
        return logits[:, 0]
