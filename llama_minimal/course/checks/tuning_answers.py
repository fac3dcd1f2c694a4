"""Answers to the exercises of chapter 12, right ones and almost right ones."""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Pair = tuple[Array, Array]
Turns = Sequence[tuple[str, list[int]]]

IGNORE = -100


def chat_case(rng: np.random.Generator, n_turns: int = 4) -> tuple:
    """Draw turns of user and assistant, and the token that ends an answer."""
    lengths = rng.integers(1, 5, size=n_turns)
    roles = ("user", "assistant") * n_turns
    return [(role, rng.integers(10, 99, size=n).tolist()) for role, n in zip(roles, lengths, strict=False)], 2


def chat(
    *,
    learned: Callable[[str, int, int], bool] = lambda role, i, n: role == "assistant",
    end: bool = True,
    shift: int = 1,
    keep_last: bool = False,
    ended: Sequence[str] = ("assistant",),
) -> Callable[[Turns, int], Pair]:
    """Return an answer that learns some tokens; ``learned`` sees role, number of the turn and how many there are."""

    def answer(turns: Turns, eos: int) -> Pair:
        ids: list[int] = []
        learn: list[bool] = []
        for i, (role, tokens) in enumerate(turns):
            mine = learned(role, i, len(turns))
            ids += tokens
            learn += [mine] * len(tokens)
            if role in ended:
                ids.append(eos)
                learn.append(mine and end)
        row, wanted = np.array(ids), np.array(learn)
        if shift == 0:
            return row, np.where(wanted, row, IGNORE)
        if keep_last:
            return row, np.where(np.append(wanted[1:], False), np.append(row[1:], 0), IGNORE)
        return row[:-1], np.where(wanted[1:] if shift == 1 else wanted[:-1], row[1:], IGNORE)

    return answer


def mask_case(rng: np.random.Generator, lengths: Sequence[int] = (4, 3, 5)) -> tuple:
    """Draw a packed row: the document of each token, and whether it belongs to a question."""
    documents = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    questions = [np.arange(n) < rng.integers(1, n) for n in lengths]
    return documents, np.concatenate(questions)


def drawn_mask_case(rng: np.random.Generator) -> tuple:
    """Draw a packed row of other lengths."""
    return mask_case(rng, rng.integers(2, 6, size=3).tolist())


def prefix_mask(documents: Array, question: Array) -> Array:
    """Return which tokens see which: those of a question see each other, in one document."""
    same = documents[:, None] == documents
    return same & (np.tri(len(documents), dtype=bool) | (question[:, None] & question))


def mask_without(
    *, same: bool = True, causal: bool = True, both: bool = True, keys: bool = True
) -> Callable[[Array, Array], Array]:
    """Return an answer that leaves out a part of the condition."""

    def answer(documents: Array, question: Array) -> Array:
        n = len(documents)
        together = (documents[:, None] == documents) if same else np.ones((n, n), bool)
        before = np.tri(n, dtype=bool) if causal else np.zeros((n, n), bool)
        queries = question[:, None] if both else np.ones((n, 1), bool)
        seen = queries & (question if keys else np.ones(n, bool))
        return together & (before | seen)

    return answer


def lora_case(rng: np.random.Generator, out: int = 4, rank: int = 2, inner: int = 5) -> tuple:
    """Draw dW, A, B and alpha."""
    return rng.normal(size=(out, inner)), rng.normal(size=(rank, inner)), rng.normal(size=(out, rank)), 7.0


def lora_gradients(d_w: Array, a: Array, b: Array, alpha: float) -> Pair:
    """Return dA and dB."""
    scale = alpha / len(a)
    return scale * b.T @ d_w, scale * d_w @ a.T


def scaled(factor: Callable[[Array, Array, float], float]) -> Callable[..., Pair]:
    """Return gradients with another scale."""

    def answer(d_w: Array, a: Array, b: Array, alpha: float) -> Pair:
        scale = factor(a, b, alpha)
        return scale * b.T @ d_w, scale * d_w @ a.T

    return answer


def step_case(rng: np.random.Generator, out: int = 4, rank: int = 2, inner: int = 5) -> tuple:
    """Draw dW, A, alpha and the learning rate."""
    return rng.normal(size=(out, inner)), rng.normal(size=(rank, inner)), 7.0, 0.1


def first_update(d_w: Array, a: Array, alpha: float, lr: float) -> Array:
    """Return how the effective matrix changes in the first step."""
    scale = alpha / len(a)
    return -lr * scale**2 * d_w @ a.T @ a


def adapters_case(rng: np.random.Generator, ranks: tuple[int, int] = (2, 3), out: int = 4, inner: int = 5) -> tuple:
    """Draw A, B and alpha of two adapters."""
    one, two = [(rng.normal(size=(r, inner)), rng.normal(size=(out, r)), 2.0 + 3 * r) for r in ranks]
    return (*one, *two)


def merged(
    *, scales: str = "B", order: int = 1, over: Callable[[float, int], float] = lambda alpha, r: alpha / r
) -> Callable[..., Pair]:
    """Return an answer that puts two adapters side by side, with the scales in A, in B, or nowhere."""

    def answer(a1: Array, b1: Array, alpha1: float, a2: Array, b2: Array, alpha2: float) -> Pair:
        s1, s2 = over(alpha1, len(a1)), over(alpha2, len(a2))
        in_a = (s1, s2) if scales == "A" else (1.0, 1.0)
        in_b = (s1, s2) if scales == "B" else (1.0, 1.0)
        a = [in_a[0] * a1, in_a[1] * a2][::order]
        b = [in_b[0] * b1, in_b[1] * b2][::order]
        return np.concatenate(a), np.concatenate(b, axis=1)

    return answer


def forget_case(rng: np.random.Generator) -> tuple:
    """Draw gradients of two losses for three weights, and a rate."""
    shapes = ((3, 2), (4,), (2, 2))
    return [rng.normal(size=s) for s in shapes], [rng.normal(size=s) for s in shapes], 0.05


def forgetting(old: Sequence[Array], new: Sequence[Array], lr: float) -> float:
    """Return by how much a loss changes, to first order, when a step makes another one smaller."""
    return -lr * sum(float((a * b).sum()) for a, b in zip(old, new, strict=True))


def lengths(old: Sequence[Array], new: Sequence[Array]) -> float:
    """Return the product of the lengths of two gradients."""
    return float(np.sqrt(sum((a**2).sum() for a in old) * sum((b**2).sum() for b in new)))
