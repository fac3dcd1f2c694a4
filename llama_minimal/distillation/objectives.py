"""Distillation as objectives of the training loop: ``Trainer(…, objective=Distillation(teacher, student))``."""

# B batch, T time, N = B·T tokens, V vocabulary, D and E widths of student and teacher

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llama_minimal.chunked_loss import chunked_loss, sum_by_chunks
from llama_minimal.config import LlamaConfig
from llama_minimal.distillation.cache import CachedExamples
from llama_minimal.distillation.config import DistillationConfig
from llama_minimal.distillation.divergences import (
    forward_kl,
    forward_kl_top,
    hidden_loss,
    mix,
    reverse_kl,
    reverse_kl_top,
)
from llama_minimal.distillation.hidden import layer_states
from llama_minimal.loss import IGNORE, Batch, call, next_token
from llama_minimal.model import Llama
from llama_minimal.observing import reading
from llama_minimal.tokenizer import TextCodec

_WHOLE = {"forward": forward_kl, "reverse": reverse_kl}
_TOP = {"forward": forward_kl_top, "reverse": reverse_kl_top}


def check_teacher(
    student: Llama,
    teacher: Llama,
    *,
    tokenizer: TextCodec | None = None,
    teacher_tokenizer: TextCodec | None = None,
) -> None:
    """Refuse a teacher whose probabilities mean nothing to the student.

    Args:
        tokenizer, teacher_tokenizer: of the two models; equal sizes of vocabulary do not make ids mean the same.

    Raises:
        ValueError: if vocabularies, labels, tokenizers or devices differ, or both are one model.
    """
    ours, theirs = student.config, teacher.config
    if student is teacher:
        raise ValueError("student and teacher are one model, which would follow itself; give a copy as the teacher")
    for name, what in (("vocab_size", "token ids"), ("labels", "labels")):
        if (our := getattr(ours, name)) != (their := getattr(theirs, name)):
            raise ValueError(
                f"the teacher's {what} are not the student's ({name}: {their} and {our}), so its probabilities are "
                f"for other outcomes; distill from a teacher with the same {name}"
            )
    if tokenizer and teacher_tokenizer and tokenizer.fingerprint != teacher_tokenizer.fingerprint:
        raise ValueError(
            "the teacher was trained with another tokenizer: the same ids mean other pieces of text; let the teacher "
            "write text (teacher_writes), and encode that for the student"
        )
    if student.device != teacher.device:
        raise ValueError(f"the student is on {student.device}, the teacher on {teacher.device}; move one to the other")


class Distillation:
    """Let a student learn a teacher's next-token distributions, beside the text, and its hidden states.

    The teacher reads each batch as the student does. Of its logits, and of the student's, only those of a chunk of
    tokens are ever there. Without gradients, which is how validation calls it, the loss is the next token's alone:
    validation losses compare with those of every other training.

    Args:
        teacher: is only read: in eval mode, without gradients.
        student: the model that will be trained; it is looked at, and not kept.
        config: what is learned.
        projections: for each pair of ``config.layers`` a (D, E) matrix, where the widths differ, such as
            ``principal_projections`` gives.
        tokenizer, teacher_tokenizer: of the two models, to be compared.
        rows: tokens of a chunk; None chooses.

    Raises:
        ValueError: if the teacher does not fit the student (``check_teacher``), or a layer or projection is not there.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", §2.
    """

    def __init__(
        self,
        teacher: Llama,
        student: Llama,
        config: DistillationConfig | None = None,
        *,
        projections: Sequence[Tensor] | None = None,
        tokenizer: TextCodec | None = None,
        teacher_tokenizer: TextCodec | None = None,
        rows: int | None = None,
    ) -> None:
        check_teacher(student, teacher, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer)
        self.teacher, self.config, self.rows = teacher, config or DistillationConfig(), rows
        self.projections = _checked_projections(student.config, teacher.config, self.config, projections)

    def __call__(self, model: nn.Module, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the summed loss of a batch, and how many targets count.

        Args:
            batch: inputs and targets, (B, T), and where rows are packed the documents of their tokens.
            weights: (B, T) in the place of ``config.weight``.
        """
        if not torch.is_grad_enabled():
            return next_token(model, batch, loss=chunked_loss)
        config, targets = self.config, batch[1].flatten()
        weights = config.weight if weights is None else weights.flatten()
        ours, theirs = (tuple(pair[i] for pair in config.layers) for i in (0, 1))
        if batch[0].size(1) > (most := self.teacher.config.max_seq_len):
            raise ValueError(f"rows of {batch[0].size(1)} tokens do not fit the teacher's context of {most}; cut them")
        with reading(self.teacher), layer_states(self.teacher, theirs) as taught:
            states = call(self.teacher.hidden_states, batch).flatten(0, -2)  # (N, E)

        def loss(logits: Tensor, chunk: slice) -> Tensor:
            with reading(self.teacher):
                teacher_logits = self.teacher.output(states[None, chunk])[0]
            kl = _WHOLE[config.divergence](logits, teacher_logits, config.temperature)
            return mix(logits, targets[chunk], kl, _part(weights, chunk), config.temperature)[0]

        with layer_states(whole(model), ours) as learned:
            total = call(model, batch, loss=lambda x, output: sum_by_chunks(x, output, loss, rows=self.rows))
        counts = batch[1] != IGNORE
        for (our, their), projection in zip(config.layers, self.projections, strict=True):
            if our not in learned:
                raise ValueError("the layers of a compiled model cannot be watched; leave out compile, or layers")
            losses = hidden_loss(learned[our], taught[their], projection)  # (B, T)
            total = total + config.hidden_weight * (losses * counts).sum()
        return total, counts.sum().to(total.dtype)


class CachedDistillation:
    """Let a student learn what a teacher once said of each token, without the teacher at hand.

    Args:
        student: the model that will be trained; it is looked at, and not kept.
        examples: what the trainer reads, with the teacher's probabilities (``write_cache``, ``open_cache``).
        config: the temperature must be that of the cache.
        rows: tokens of a chunk; None chooses.

    Raises:
        ValueError: if the cache is for another vocabulary or temperature, or hidden states are asked for.
    """

    def __init__(
        self,
        student: Llama,
        examples: CachedExamples,
        config: DistillationConfig | None = None,
        *,
        rows: int | None = None,
    ) -> None:
        self.config = config or DistillationConfig(temperature=examples.temperature)
        self.rows = rows
        if student.config.n_outputs != examples.vocab_size:
            raise ValueError(
                f"the cache is of a teacher with {examples.vocab_size} outputs, but the student has "
                f"{student.config.n_outputs}; make one with a teacher of the same vocabulary"
            )
        if self.config.temperature != examples.temperature:
            raise ValueError(
                f"temperature={self.config.temperature}, but the cache was made at {examples.temperature}, and what "
                f"all other tokens have together is not known at another; give that one, or make another cache"
            )
        if self.config.layers:
            raise ValueError("a cache has no hidden states; leave out layers, or give the teacher to Distillation")

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed loss of a batch, and how many targets count.

        Args:
            batch: inputs, targets, documents, (B, T), and the teacher's ids (B, T, k) and log-probabilities.
        """
        if not torch.is_grad_enabled():
            return next_token(model, batch, loss=chunked_loss)
        if len(batch) != 5:
            raise ValueError("the batch brings no teacher's probabilities; train on what open_cache returns")
        config, targets = self.config, batch[1].flatten()
        ids, log_probs = (part.flatten(0, 1) for part in batch[3:])  # (N, k), (N, k + 1)

        def loss(logits: Tensor, chunk: slice) -> Tensor:
            kl = _TOP[config.divergence](logits, ids[chunk], log_probs[chunk], config.temperature)
            return mix(logits, targets[chunk], kl, config.weight, config.temperature)[0]

        total = call(model, batch, loss=lambda x, output: sum_by_chunks(x, output, loss, rows=self.rows))
        return total, (targets != IGNORE).sum().to(total.dtype)


def whole(model: nn.Module) -> Llama:
    """Return the model inside a wrapper that exchanges gradients."""
    return model if isinstance(model, Llama) else model.module


def _part(weights: float | Tensor, chunk: slice) -> float | Tensor:
    return weights[chunk] if isinstance(weights, Tensor) else weights


def _checked_projections(
    student: LlamaConfig, teacher: LlamaConfig, config: DistillationConfig, given: Sequence[Tensor] | None
) -> tuple[Tensor | None, ...]:
    for i, (name, shape) in enumerate((("student", student), ("teacher", teacher))):
        if high := [pair[i] for pair in config.layers if pair[i] >= shape.n_layers]:
            raise ValueError(f"layer {high[0]} is not among the {name}'s layers 0 to {shape.n_layers - 1}")
    if given is None:
        if config.layers and student.dim != teacher.dim:
            raise ValueError(
                f"the student is {student.dim} wide, the teacher {teacher.dim}; give projections, a "
                f"({student.dim}, {teacher.dim}) matrix for each pair of layers (principal_projections makes them)"
            )
        return (None,) * len(config.layers)
    if [tuple(p.shape) for p in given] != [(student.dim, teacher.dim)] * len(config.layers):
        raise ValueError(
            f"projections have shapes {[tuple(p.shape) for p in given]}; give {len(config.layers)}, one for each pair "
            f"of layers, each ({student.dim}, {teacher.dim})"
        )
    return tuple(given)
