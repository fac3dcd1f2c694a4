"""Answers to the exercises of chapter 16, right ones and almost right ones."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
IGNORE = -100


def log_softmax(z: Array, tau: float = 1.0) -> Array:
    """Return log softmax(z/τ) along the last axis."""
    z = z / tau
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(z: Array) -> Array:
    """Return softmax(z) along the last axis."""
    return np.exp(log_softmax(z))


def kl(a: Array, b: Array) -> Array:
    """Return KL(a ‖ b) along the last axis."""
    return (a * np.log(a / b)).sum(axis=-1)


def logits_case(rng: np.random.Generator, n: int, beta: float) -> tuple:
    """Draw logits of student and teacher, and β."""
    return 2 * rng.normal(size=n), 2 * rng.normal(size=n), beta


def ratio(z: Array, v: Array, beta: float) -> Array:
    """Return p/m."""
    p = softmax(v)
    return p / ((1 - beta) * p + beta * softmax(z))


def skewed_gradient(
    *, share: Callable[[float], float] = float, factor: bool = True, sign: int = 1, mean: str = "q"
) -> Callable[[Array, Array, float], Array]:
    """Return the gradient of KL(p ‖ (1 − β)p + βq), or one that is almost it."""

    def answer(z: Array, v: Array, beta: float) -> Array:
        q, p, r = softmax(z), softmax(v), ratio(z, v, share(beta))
        means = {"q": (q * r).sum(), "p": (p * r).sum(), "flat": r.mean(), "none": 0.0}
        return -sign * (share(beta) if factor else 1.0) * q * (r - means[mean])

    return answer


def steps_for_one(cost_student: float, cost_teacher: float, epochs: int) -> float:
    """Return (3·C_s + C_t/epochs) / (3·C_s)."""
    return (3 * cost_student + cost_teacher / epochs) / (3 * cost_student)


def tables_case(rng: np.random.Generator, n_tokens: int, length: int) -> tuple:
    """Draw starts and tables of student and teacher, and how long the texts are."""
    sides = [(rng.dirichlet(np.ones(n_tokens)), rng.dirichlet(np.ones(n_tokens), size=n_tokens)) for _ in range(2)]
    # Far from zero: a logarithm of nothing is no lesson here.
    sides = [tuple((part + 0.1) / (part + 0.1).sum(-1, keepdims=True) for part in side) for side in sides]
    return *sides[0], *sides[1], length


def text_divergence(
    *,
    writer: str = "q",
    forward: bool = False,
    first: bool = True,
    more: int = 0,
    occupied: bool = True,
    moves: bool = True,
    mean: bool = False,
    transposed: bool = False,
) -> Callable[..., float]:
    """Return the divergence of whole texts, token by token, or what is almost it."""

    def answer(start_q: Array, table_q: Array, start_p: Array, table_p: Array, n: int) -> float:
        if transposed:
            table_q, table_p = table_q.T, table_p.T
        at, table = (start_q, table_q) if writer == "q" else (start_p, table_p)
        pairs = [(start_q, start_p), (table_q, table_p)]
        start, rows = (kl(p, q) if forward else kl(q, p) for q, p in pairs)
        total = float(start) if first else 0.0
        for _ in range(n - 1 + more):
            total += float((at if occupied else np.full(len(at), 1 / len(at))) @ rows)
            at = at @ table if moves else at
        return total / n if mean else total

    return answer


def loss_case(rng: np.random.Generator, n: int, n_tokens: int) -> tuple:
    """Draw logits for more than 100 tokens, targets of which one does not count, a weight and a temperature."""
    targets = rng.integers(0, n_tokens, size=n)
    targets[rng.integers(n)] = IGNORE
    return (*(2 * rng.normal(size=(n, n_tokens)) for _ in range(2)), targets, 0.3, 2.5)


def loss(
    *,
    square: bool | str = True,
    forward: bool = True,
    teacher_tau: bool = True,
    hard_tau: bool = False,
    mask: str = "both",
    exchanged: bool = False,
    mean: bool = True,
) -> Callable[..., float]:
    """Return the mixture of the text's and the teacher's loss, or what is almost it."""

    def answer(z: Array, v: Array, targets: Array, weight: float, tau: float) -> float:
        q, p = np.exp(log_softmax(z, tau)), np.exp(log_softmax(v, tau if teacher_tau else 1.0))
        soft = (kl(p, q) if forward else kl(q, p)) * {True: tau**2, False: 1.0, "once": tau}[square]
        hard = -log_softmax(z, tau if hard_tau else 1.0)[np.arange(len(z)), targets]
        counts = targets != IGNORE
        light, heavy = (weight, 1 - weight) if exchanged else (1 - weight, weight)
        total = light * hard * (counts | (mask == "none")) + heavy * soft * (counts | (mask in ("none", "hard")))
        return float(total.sum() / ((len(z) if mask in ("none", "sum") else counts.sum()) if mean else 1))

    return answer


def buggy_loss(z: Array, v: Array, targets: Array, weight: float, tau: float) -> float:
    """Return what the exercise starts from; an index of −100 is one from the end."""
    wrong = loss(square=False, forward=False, teacher_tau=False, mask="none")
    return wrong(z, v, targets, weight, tau)


def perplexity_case(rng: np.random.Generator, n: int, perplexity: float) -> tuple:
    """Draw logits, and a perplexity."""
    return 2 * rng.normal(size=n), perplexity


def perplexity(q: Array) -> float:
    """Return e to the entropy."""
    return float(np.exp(-(q * np.log(np.maximum(q, 1e-300))).sum()))


def temperature_for(
    *,
    measure: Callable[[Array], float] = perplexity,
    answer: Callable[[float], float] = float,
) -> Callable[[Array, float], float]:
    """Return the temperature at which a softmax is as spread as wanted, or what is almost it."""

    def found(logits: Array, wanted: float) -> float:
        low, high = np.log(1e-3), np.log(1e3)
        for _ in range(80):
            middle = (low + high) / 2
            if measure(softmax(logits / np.exp(middle))) < wanted:
                low = middle
            else:
                high = middle
        return float(answer(np.exp((low + high) / 2)))

    return found
