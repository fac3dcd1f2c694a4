"""By hand: the rule that keeps or replaces a candidate, all that can come of it, and how sure an exit is."""

# V vocabulary

from collections.abc import Callable

import numpy as np

from llama_minimal.reference.attention import softmax

Distribution = Callable[[tuple[int, ...]], np.ndarray]
"""From the tokens so far to the probabilities (V,) of the next."""


def acceptance_probability(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return with which probability to keep a token drawn from q where p is wanted: min(1, p/q).

    Args:
        p, q: what each gives to the token, of any shape; q > 0 for a token that was drawn.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".
    """
    drawn = q > 0
    return np.where(drawn, np.minimum(1, p / np.where(drawn, q, 1)), 1).astype(p.dtype)


def residual_distribution(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the distribution of the token in the place of one not kept: max(0, p − q), made to sum to 1.

    Where q takes nothing away that is worth a number, it is p itself.

    Args:
        p, q: (…, V).

    Source: Leviathan et al. 2023.
    """
    rest = np.maximum(p - q, 0)
    total = rest.sum(-1, keepdims=True)
    return np.where(total > 0, rest / np.where(total > 0, total, 1), p)


def speculative_distribution(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return how likely each token is to be written where a candidate is drawn from q and p is wanted.

    q(x)·a(x) + (1 − Σ q·a)·residual(x), with a the acceptance probability: it is p(x), whatever q is.

    Args:
        p, q: (V,).
    """
    kept = q * acceptance_probability(p, q)
    return kept + (1 - kept.sum()) * residual_distribution(p, q)


def speculative_outcomes(
    p: Distribution, q: Distribution, *, n_candidates: int, length: int
) -> dict[tuple[int, ...], float]:
    """Return the probability of every text that speculative decoding may write, by going through all that can happen.

    Args:
        p, q: of the model and of the draft.
        n_candidates: of each step.
        length: tokens of a text.
    """
    found: dict[tuple[int, ...], float] = {}

    def write(text: tuple[int, ...], left: int, chance: float) -> None:
        """Go on with ``left`` more candidates in this step."""
        if len(text) == length:
            found[text] = found.get(text, 0.0) + chance
        elif left == 0 or len(text) == length - 1:  # no candidate: the model's own token, and a new step
            for x in np.flatnonzero(p(text)):
                write((*text, int(x)), n_candidates, chance * p(text)[x])
        else:
            keep, rest = acceptance_probability(p(text), q(text)), residual_distribution(p(text), q(text))
            for x in np.flatnonzero(q(text)):
                drawn = chance * q(text)[x]
                write((*text, int(x)), left - 1, drawn * keep[x])
                if keep[x] < 1:  # not kept: a token in its place, and a new step
                    for y in np.flatnonzero(rest):
                        write((*text, int(y)), n_candidates, drawn * (1 - keep[x]) * rest[y])

    write((), 0, 1.0)  # the first token comes with the prompt
    return found


def exit_confidence(logits: np.ndarray, measure: str = "margin") -> np.ndarray:
    """Return how sure a distribution is of its first token, from 0 to 1, (…, V) -> (…).

    ``top`` is the largest probability; ``margin`` what it is above the second; ``entropy`` 1 − H / log V.
    """
    p = softmax(logits)
    if measure == "entropy":
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
        return 1 - entropy / np.log(p.shape[-1], dtype=p.dtype)
    ordered = np.sort(p, axis=-1)
    return ordered[..., -1] if measure == "top" else ordered[..., -1] - ordered[..., -2]
