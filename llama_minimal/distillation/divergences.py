"""How far a student's next-token distribution is from a teacher's, with gradients written down by hand."""

# V vocabulary, k kept tokens, D and E widths of student and teacher

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_minimal.config.checks import check_integer
from llama_minimal.loss import IGNORE, next_token_loss

Divergence = Callable[[Tensor, Tensor, float], Tensor]
"""(student logits, teacher logits, temperature) -> the divergence of each token."""


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(p ‖ q) = Σ p (log p − log q) of each token, p the teacher's softmax(z/T) and q the student's.

    It is large where the teacher expects a token that the student does not: the student learns to cover all of p.

    Args:
        student_logits, teacher_logits: (..., V). The teacher's get no gradient.
        temperature: T > 0; more makes both distributions flatter.

    Returns:
        (...) in nats, at least float32. Its gradient is (q − p)/T.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", §2.
    """
    return _Divergence.apply(student_logits, _log_softmax(teacher_logits, temperature), temperature, _forward)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(q ‖ p) = Σ q (log q − log p) of each token, named as in ``forward_kl``.

    It is large where the student expects a token that the teacher does not: the student may leave out a part of p, and
    learns not to write what the teacher would not. Its gradient is q (log q − log p − KL)/T.

    Source: Gu et al. 2023, "MiniLLM".
    """
    return _Divergence.apply(student_logits, _log_softmax(teacher_logits, temperature), temperature, _reverse)


def keep_top(logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the k most likely tokens with their log-probabilities, and the logarithm of what all others have together.

    Args:
        logits: (..., V), with k from 1 to V.
        temperature: of the softmax.

    Returns:
        ids (..., k), the likeliest first, and (..., k + 1) in at least float32, the rest last; −inf where nothing is
        left.

    Raises:
        ValueError: if there are not so many tokens.
    """
    if check_integer("k", k) > logits.size(-1):
        raise ValueError(f"k={k} is more than the {logits.size(-1)} logits of a token; give 1 to {logits.size(-1)}")
    log_p = _log_softmax(logits, temperature)
    ids = log_p.topk(k, dim=-1).indices
    return ids, _group(log_p, ids)


def forward_kl_top(student_logits: Tensor, ids: Tensor, log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(p ‖ q) of each token when all but k tokens count as one: "another".

    Never more than ``forward_kl``, and equal for k = V: telling fewer outcomes apart, one sees less difference. The
    gradient is (q − p̃)/T: p̃ is p for a kept token; what p has left is shared among the others as the student does it.

    Args:
        student_logits: (..., V).
        ids, log_probs: what ``keep_top`` returns of the teacher at the same temperature, (..., k) and (..., k + 1).
        temperature: of the student's softmax.
    """
    return _Divergence.apply(student_logits, log_probs, temperature, _forward, ids)


def reverse_kl_top(student_logits: Tensor, ids: Tensor, log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(q ‖ p) of each token when all but k tokens count as one; arguments as in ``forward_kl_top``."""
    return _Divergence.apply(student_logits, log_probs, temperature, _reverse, ids)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    weight: float = 0.5,
    temperature: float = 1.0,
    *,
    divergence: Divergence = forward_kl,
) -> tuple[Tensor, Tensor]:
    """Sum (1 − w)·(−log q[target] at T = 1) + w·T²·KL(p ‖ q at T) over the targets that count.

    The gradient of KL shrinks as 1/T² when T grows: a factor 1/T from the softmax, another because p and q come closer.
    T² undoes that, and w means the same at every temperature.

    Args:
        student_logits, teacher_logits: (..., V).
        targets: ids, or ``IGNORE`` for what does not count, (...).
        weight: w, from 0 (the text alone) to 1 (the teacher alone).
        temperature: T.
        divergence: what to put in the place of KL(p ‖ q).

    Returns:
        The sum, and how many targets count; scalars in at least float32.

    Source: Hinton et al. 2015, §2.
    """
    return mix(student_logits, targets, divergence(student_logits, teacher_logits, temperature), weight, temperature)


def mix(
    logits: Tensor, targets: Tensor, kl: Tensor, weight: float | Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return what ``distillation_loss`` returns, given the divergence of each token and w, or a w of each, (...)."""
    counts = targets != IGNORE
    weight = torch.as_tensor(weight, dtype=kl.dtype, device=kl.device).expand_as(kl)
    total, _ = next_token_loss(logits, targets, 1 - weight)
    # A token that does not count may have anything, NaN included, for a divergence.
    return total + temperature**2 * (weight * torch.where(counts, kl, 0)).sum(), counts.sum().to(kl.dtype)


def hidden_loss(student: Tensor, teacher: Tensor, projection: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of hidden states, of each token.

    1/D Σ (s − P t)². The projection brings the teacher's states to the student's width.

    Args:
        student: (..., D).
        teacher: (..., E).
        projection: (D, E); None where D = E.

    Returns:
        (...), in at least float32.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    teacher = teacher.to(wide)
    if projection is not None:
        with torch.autocast(teacher.device.type, enabled=False):
            teacher = F.linear(teacher, projection.to(wide))
    return (student.to(wide) - teacher).square().mean(-1)


class _Divergence(torch.autograd.Function):
    """A divergence of each token whose gradient is computed with it: one array is kept, of the logits' size."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, log_p: Tensor, temperature: float, compare: Any, ids: Tensor | None = None
    ) -> Tensor:
        log_q = _log_softmax(logits, temperature)  # (..., V)
        out, d_logits = compare(log_q, log_p.to(log_q.dtype), ids)
        ctx.save_for_backward(d_logits.div_(temperature))
        ctx.dtype = logits.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None, None, None]:
        (d_logits,) = ctx.saved_tensors
        return (d_logits * d_out[..., None]).to(ctx.dtype), None, None, None, None


def _forward(log_q: Tensor, log_p: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return KL(p ‖ q) and q − p; with ids, of their groups."""
    if ids is None:
        return _kl(log_p, log_q), log_q.exp().sub_(log_p.exp())
    grouped = _group(log_q, ids)
    shared = _spread(log_p - grouped, ids, log_q).add_(log_q).exp_()
    return _kl(log_p, grouped), log_q.exp().sub_(shared)


def _reverse(log_q: Tensor, log_p: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return KL(q ‖ p) and q (log q − log p − KL); with ids, of their groups."""
    grouped = log_q if ids is None else _group(log_q, ids)
    kl = _kl(grouped, log_p)
    ratio = grouped - log_p
    ratio = ratio if ids is None else _spread(ratio, ids, log_q)
    return kl, ratio.sub_(kl[..., None]).mul_(log_q.exp())


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return Σ a (log a − log b); an outcome that a never has adds nothing, whatever b says."""
    return ((log_a - log_b).masked_fill_(log_a == -torch.inf, 0).mul_(log_a.exp())).sum(-1)


def _group(log_p: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens and, last, of all others together, (..., k + 1)."""
    # In logarithms: 1 − Σ of the kept may be less than a rounding error, and no logarithm is as low as log 0.
    rest = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((log_p.gather(-1, ids), rest), -1)


def _spread(grouped: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """Return for each token the value of its group: its own, or that of all others, (..., V)."""
    return grouped[..., -1:].expand_as(like).scatter(-1, ids, grouped[..., :-1])


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(wide) / temperature).log_softmax(-1)
