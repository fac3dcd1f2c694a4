"""BERT's objective for a LLaMA: some tokens are hidden, and each is predicted from both sides.

A model so trained reads, and cannot write: while it writes, nothing stands to the right. It is the objective that the
causal one is compared with in chapter 01; the model, the data and the training loop are the same.
"""

# B batch, T time

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama_minimal.attention import Attention
from llama_minimal.config.checks import check_integer, is_number
from llama_minimal.loss import Batch, next_token_loss
from llama_minimal.prompts import IGNORE


def see_both_sides(model: nn.Module) -> None:
    """Let every token of a model see those after it as well, in place; with a cache it then refuses to go on.

    A checkpoint does not say that a model is one of these: call this after loading, too.
    """
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.is_causal = False


def hide_tokens(
    tokens: Tensor, mask_id: int, *, vocab_size: int, share: float = 0.15, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict; hide 80 % of these behind the mask, put a random token for 10 %, leave 10 %.

    Were all chosen tokens masked, a model would learn nothing about tokens that it can see.

    Args:
        tokens: (B, T) ids.
        mask_id: the id that stands for a hidden token.
        vocab_size: random tokens are below it.
        share: the chance of each token to be chosen.
        generator: of random numbers, on the CPU.

    Returns:
        inputs (B, T), and targets (B, T): what stood there, and ``IGNORE`` where nothing is to be predicted.

    Source: Devlin et al. 2019, "BERT", §3.1.
    """
    draw, kind = torch.rand(2, *tokens.shape, generator=generator).to(tokens.device)
    others = torch.randint(vocab_size, tokens.shape, generator=generator).to(tokens)
    chosen = draw < share
    inputs = torch.where(chosen & (kind < 0.8), mask_id, tokens)
    inputs = torch.where(chosen & (kind >= 0.9), others, inputs)
    return inputs, torch.where(chosen, tokens, IGNORE)


@dataclass(frozen=True, slots=True)
class MaskedLanguage:
    """The objective (model, batch) -> total and count of the losses of hidden tokens; for ``Trainer(objective=…)``.

    Which tokens are hidden follows from the seed and the text of the batch: a run that was resumed hides the same.

    Args:
        mask_id: an id that the text does not use.
        share: the chance of each token to be chosen.
        seed: another seed hides others.

    Raises:
        ValueError: if share is not between 0 and 1, or the model sees one side only.
    """

    mask_id: int
    share: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("mask_id", self.mask_id, at_least=0)
        if not (is_number(self.share) and 0 < self.share < 1):
            raise ValueError(f"share={self.share!r} must be between 0 and 1, such as 0.15")

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hide, predict, compare; the batch's own targets, the next tokens, are not read."""
        if any(layer.is_causal for layer in model.modules() if isinstance(layer, Attention)):
            raise ValueError("the model sees one side only; call see_both_sides(model) before it learns to fill gaps")
        if len(batch) > 2:
            raise ValueError("rows of packed documents are for causal models; give rows of one text each")
        tokens = batch[0].cpu()
        place = torch.arange(1, tokens.numel() + 1)
        text = int((tokens.flatten() * place).sum())  # as good as any hash, and the same on every machine
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + text) % (1 << 62))
        hidden = hide_tokens(
            tokens, self.mask_id, vocab_size=model.config.vocab_size, share=self.share, generator=generator
        )
        inputs, targets = (part.to(batch[0].device) for part in hidden)
        return next_token_loss(model(inputs), targets)
