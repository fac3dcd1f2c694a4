"""Distillation: how far a student's next-token distribution is from a teacher's, and which way to move it."""

# V vocabulary, k kept tokens, D and E widths of student and teacher

from collections.abc import Callable

import numpy as np

from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.feedforward import linear
from llama_minimal.reference.loss import IGNORED, next_token_loss, next_token_loss_vjp

Total = tuple[np.floating, np.floating]


def forward_kl(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
    """Return KL(p ‖ q) = Σ p (log p − log q) of each token, p the teacher's softmax(z/T) and q the student's.

    It is large where the teacher expects a token that the student does not: the student learns to cover all of p.

    Args:
        student_logits, teacher_logits: (..., V).
        temperature: T > 0; more makes both distributions flatter.

    Returns:
        (...) in nats.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", §2.
    """
    log_p, log_q = _both(student_logits, teacher_logits, temperature)
    return _kl(log_p, log_q)


def forward_kl_vjp(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> VJP:
    """Return ``forward_kl`` and its backward, d_out → d_student_logits = d_out·(q − p)/T."""
    log_p, log_q = _both(student_logits, teacher_logits, temperature)
    return _kl(log_p, log_q), lambda d_out: d_out[..., None] * (np.exp(log_q) - np.exp(log_p)) / temperature


def reverse_kl(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
    """Return KL(q ‖ p) = Σ q (log q − log p) of each token, named as in ``forward_kl``.

    It is large where the student expects a token that the teacher does not: the student may leave out a part of p, and
    learns not to write what the teacher would not.

    Source: Gu et al. 2023, "MiniLLM".
    """
    log_p, log_q = _both(student_logits, teacher_logits, temperature)
    return _kl(log_q, log_p)


def reverse_kl_vjp(student_logits: Array, teacher_logits: Array, temperature: float = 1.0) -> VJP:
    """Return ``reverse_kl`` and its backward, d_out → d_student_logits = d_out·q (log q − log p − KL)/T."""
    log_p, log_q = _both(student_logits, teacher_logits, temperature)
    out = _kl(log_q, log_p)

    def backward(d_out: Array) -> Array:
        return d_out[..., None] * np.exp(log_q) * (log_q - log_p - out[..., None]) / temperature

    return out, backward


def keep_top(logits: Array, k: int, temperature: float = 1.0) -> tuple[Array, Array]:
    """Return the k most likely tokens with their log-probabilities, and the logarithm of what all others have together.

    Args:
        logits: (..., V), with k from 1 to V.
        temperature: of the softmax.

    Returns:
        ids (..., k), the likeliest first, and (..., k + 1), the rest last; −inf where nothing is left.
    """
    log_p = _log_softmax(logits / temperature)
    ids = np.argsort(-log_p, axis=-1, kind="stable")[..., :k]
    return ids, _grouped(log_p, ids)


def forward_kl_top(student_logits: Array, ids: Array, log_probs: Array, temperature: float = 1.0) -> Array:
    """Return KL(p ‖ q) of each token when all but k tokens count as one: "another".

    Never more than ``forward_kl``, and equal for k = V: telling fewer outcomes apart, one sees less difference.

    Args:
        student_logits: (..., V).
        ids, log_probs: what ``keep_top`` returns of the teacher at the same temperature, (..., k) and (..., k + 1).
        temperature: of the student's softmax.
    """
    grouped = _grouped(_log_softmax(student_logits / temperature), ids)
    return _kl(log_probs.astype(grouped.dtype), grouped)


def forward_kl_top_vjp(student_logits: Array, ids: Array, log_probs: Array, temperature: float = 1.0) -> VJP:
    """Return ``forward_kl_top`` and its backward, d_out → d_student_logits = d_out·(q − p̃)/T.

    p̃ is p for a kept token; what p has left is shared among the others as the student does it.
    """
    log_q = _log_softmax(student_logits / temperature)
    grouped, log_probs = _grouped(log_q, ids), log_probs.astype(log_q.dtype)
    with np.errstate(invalid="ignore"):  # of nobody's rest
        shared = np.exp(log_q + _spread(log_probs - grouped, ids, log_q.shape[-1]))
    return _kl(log_probs, grouped), lambda d_out: d_out[..., None] * (np.exp(log_q) - shared) / temperature


def reverse_kl_top(student_logits: Array, ids: Array, log_probs: Array, temperature: float = 1.0) -> Array:
    """Return KL(q ‖ p) of each token when all but k tokens count as one; arguments as in ``forward_kl_top``."""
    grouped = _grouped(_log_softmax(student_logits / temperature), ids)
    return _kl(grouped, log_probs.astype(grouped.dtype))


def reverse_kl_top_vjp(student_logits: Array, ids: Array, log_probs: Array, temperature: float = 1.0) -> VJP:
    """Return ``reverse_kl_top`` and its backward, d_out → d_student_logits = d_out·q (log q/p of its group − KL)/T."""
    log_q = _log_softmax(student_logits / temperature)
    grouped, log_probs = _grouped(log_q, ids), log_probs.astype(log_q.dtype)
    out = _kl(grouped, log_probs)
    with np.errstate(invalid="ignore"):  # of nobody's rest
        ratio = _spread(grouped - log_probs, ids, log_q.shape[-1])
    return out, lambda d_out: d_out[..., None] * np.exp(log_q) * (ratio - out[..., None]) / temperature


def distillation_loss(
    student_logits: Array, teacher_logits: Array, targets: Array, weight: float = 0.5, temperature: float = 1.0
) -> Total:
    """Sum (1 − w)·(−log q[target] at T = 1) + w·T²·KL(p ‖ q at T) over the targets that count.

    The gradient of KL shrinks as 1/T² when T grows: a factor 1/T from the softmax, another because p and q come closer.
    T² undoes that, and w means the same at every temperature.

    Args:
        student_logits, teacher_logits: (..., V).
        targets: integers in [0, V), or −100 for what does not count, (...).
        weight: w, from 0 (the text alone) to 1 (the teacher alone).
        temperature: T.

    Returns:
        The sum, and how many targets count.

    Source: Hinton et al. 2015, §2.
    """
    total, count = next_token_loss(student_logits, targets)
    kl = forward_kl(student_logits, teacher_logits, temperature) * (targets != IGNORED)
    return (1 - weight) * total + weight * temperature**2 * kl.sum(), count


def distillation_loss_vjp(
    student_logits: Array, teacher_logits: Array, targets: Array, weight: float = 0.5, temperature: float = 1.0
) -> tuple[Total, Callable[[float], Array]]:
    """Return ``distillation_loss`` and its backward, d_total → d_logits = (1 − w)(q₁ − one-hot) + w·T (q − p)."""
    _, text_backward = next_token_loss_vjp(student_logits, targets)
    _, kl_backward = forward_kl_vjp(student_logits, teacher_logits, temperature)
    counted = (targets != IGNORED).astype(student_logits.dtype)
    out = distillation_loss(student_logits, teacher_logits, targets, weight, temperature)

    def backward(d_total: float) -> Array:
        d_kl = kl_backward(d_total * weight * temperature**2 * counted)
        return text_backward(d_total * (1 - weight)) + d_kl

    return out, backward


def hidden_loss(student: Array, teacher: Array, projection: Array | None = None) -> Array:
    """Return the mean squared difference of hidden states, of each token.

    1/D Σ (s − P t)². The projection brings the teacher's states to the student's width.

    Args:
        student: (..., D).
        teacher: (..., E).
        projection: (D, E); None where D = E.

    Returns:
        (...).
    """
    return ((student - _project(teacher, projection)) ** 2).mean(axis=-1)


def hidden_loss_vjp(student: Array, teacher: Array, projection: Array | None = None) -> VJP:
    """Return ``hidden_loss`` and its backward, d_out → (d_student, d_teacher, d_projection)."""
    difference = student - _project(teacher, projection)

    def backward(d_out: Array) -> tuple[Array, Array, Array | None]:
        d = 2 * d_out[..., None] * difference / student.shape[-1]
        if projection is None:
            return d, -d, None
        flat_d, flat_t = d.reshape(-1, d.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        return d, -(d @ projection), -(flat_d.T @ flat_t)

    return (difference**2).mean(axis=-1), backward


def _project(teacher: Array, projection: Array | None) -> Array:
    return teacher if projection is None else linear(teacher, projection)


def _kl(log_a: Array, log_b: Array) -> Array:
    """Return Σ a (log a − log b); an outcome that a never has adds nothing, whatever b says."""
    differences = np.subtract(log_a, log_b, out=np.zeros_like(log_a), where=np.isfinite(log_a))
    return (np.exp(log_a) * differences).sum(axis=-1)


def _grouped(log_p: Array, ids: Array) -> Array:
    """Return the log-probabilities of some tokens and, last, of all others together, (..., k + 1)."""
    others = log_p.copy()
    np.put_along_axis(others, ids, -np.inf, axis=-1)
    # In logarithms: 1 − Σ of the kept may be less than a rounding error, and no logarithm is as low as log 0.
    highest = np.maximum(others.max(axis=-1, keepdims=True), np.finfo(log_p.dtype).min)
    with np.errstate(divide="ignore"):
        rest = highest + np.log(np.exp(others - highest).sum(axis=-1, keepdims=True))
    return np.concatenate((np.take_along_axis(log_p, ids, axis=-1), rest), axis=-1)


def _spread(grouped: Array, ids: Array, n_tokens: int) -> Array:
    """Return for each token the value of its group: its own, or that of all others, (..., V)."""
    out = np.repeat(grouped[..., -1:], n_tokens, axis=-1)
    np.put_along_axis(out, ids, grouped[..., :-1], axis=-1)
    return out


def _both(student_logits: Array, teacher_logits: Array, temperature: float) -> tuple[Array, Array]:
    """Return log p and log q, in the dtype of the student's logits."""
    teacher_logits = teacher_logits.astype(student_logits.dtype)
    return _log_softmax(teacher_logits / temperature), _log_softmax(student_logits / temperature)


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
