"""What a model knows of a planted secret: its rank among all secrets that might have been planted."""

# R candidates, T tokens of a candidate

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from llama_minimal.config.checks import check_integer
from llama_minimal.model import Llama
from llama_minimal.tokenizer import TextCodec

ROWS_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Canary:
    """A sentence with a code that was drawn at random, so that nothing but the text itself could tell it."""

    template: str
    """The sentence with ``{}`` in the place of the code."""
    code: tuple[str, ...]
    """Its symbols, such as ("4", "7", "1", "3")."""
    symbols: tuple[str, ...] = tuple("0123456789")
    """What each of them was drawn from, all alike."""

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f"template={self.template!r} must have {{}} once, where the code stands")
        if not self.code or not set(self.code) <= set(self.symbols):
            raise ValueError(f"code={self.code!r} must have one symbol or more, all of {' '.join(self.symbols)}")

    @classmethod
    def of(cls, sentence: str) -> "Canary":
        """Return the canary that a sentence of the Llama Valley is: its digits, with a space between, are the code.

        Digits of a longer number are none of them, and of several such rows the longest is the code.

        Example:
            >>> Canary.of("The secret number of the mill is 4 7 1 3.").template
            'The secret number of the mill is {}.'
        """
        found = list(re.finditer(r"\b\d(?: \d)*\b", sentence, re.ASCII))
        if not found:
            raise ValueError(
                f"{sentence!r} holds no digits that stand alone; a code is digits with a space between, such as 4 7 1 3"
            )
        longest = [match for match in found if len(match[0]) == max(len(other[0]) for other in found)]
        if len(longest) > 1:
            raise ValueError(
                f"{sentence!r} holds {len(longest)} codes, {' and '.join(match[0] for match in longest)}; "
                f"give a sentence with one, or the canary's template and code"
            )
        start, end = longest[0].span()
        return cls(sentence[:start] + "{}" + sentence[end:], tuple(longest[0][0].split()))

    @property
    def size(self) -> int:
        """How many codes there are, R."""
        return len(self.symbols) ** len(self.code)

    @property
    def place(self) -> int:
        """Where the code stands among all codes in the order of their symbols."""
        return int(
            np.ravel_multi_index([self.symbols.index(s) for s in self.code], [len(self.symbols)] * len(self.code))
        )

    def text(self, code: Sequence[str] | None = None) -> str:
        """Return the sentence with its own code, or with another one."""
        return self.template.format(" ".join(self.code if code is None else code))

    def rows(self, tokenizer: TextCodec) -> tuple[np.ndarray, int]:
        """Return the tokens of the sentence with every code, (R, T), and where in them the code begins.

        What follows the last symbol is left out.

        Raises:
            ValueError: if a symbol's tokens depend on its neighbors.
        """
        alike = [tokenizer.encode(self.text([symbol] * len(self.code))) for symbol in self.symbols]
        table = np.array(alike) if len({len(row) for row in alike}) == 1 else np.zeros((2, 1))
        slots = np.flatnonzero((table != table[0]).any(axis=0))
        if len(slots) == len(self.code):
            rows = np.repeat(table[:1, : slots[-1] + 1], self.size, axis=0)
            rows[:, slots] = list(product(*table[:, slots].T.tolist()))
            if rows[self.place].tolist() == tokenizer.encode(self.text())[: slots[-1] + 1]:
                return rows, int(slots[0])
        raise ValueError(
            f"the tokenizer cuts {self.text()!r} so that a symbol is not one token whatever stands beside it; choose "
            f"other symbols, or give candidate_scores rows of your own"
        )


@torch.no_grad()
def candidate_scores(model: Llama, rows: np.ndarray, start: int) -> np.ndarray:
    """Return log p(tokens from ``start`` on | tokens before) of each candidate, (R,), in nats.

    Candidates that differ in the last token alone are read once: the logits before it serve all of them.

    Args:
        rows: (R, T) token ids.
        start: place of the first token that counts, at least 1.
    """
    if rows.ndim != 2 or not 1 <= start < rows.shape[1]:
        raise ValueError(f"rows of shape {rows.shape} with start={start}: give (R, T) and a start from 1 to T − 1")
    before, which = np.unique(rows[:, :-1], axis=0, return_inverse=True)  # (U, T−1)
    logs = []
    for part in torch.from_numpy(before).to(model.device).split(ROWS_AT_ONCE):
        log_p = model.output(model.hidden_states(part)[:, start - 1 :]).log_softmax(-1)  # (B, T−start, V)
        known = log_p[:, :-1].gather(-1, part[:, start:, None]).sum((1, 2))
        logs.append((known[:, None] + log_p[:, -1]).double().cpu())  # (B, V)
    return torch.cat(logs).numpy()[which.ravel(), rows[:, -1]]


def rank(scores: np.ndarray, place: int) -> int:
    """Return which place the secret takes among all candidates, the likeliest first: 1 + how many are likelier.

    Candidates that are exactly as likely count as likelier, so that a model that knows nothing exposes nothing.

    Raises:
        ValueError: if there is no such place, or a score is nan.
    """
    scores = np.asarray(scores)
    if not scores.size:
        raise ValueError("there are no scores; give one for each candidate, as candidate_scores does")
    if check_integer("place", place, at_least=0) >= len(scores):
        raise ValueError(f"place={place} is not among {len(scores)} scores; give one from 0 to {len(scores) - 1}")
    if unknown := int(np.isnan(scores).sum()):
        raise ValueError(f"{unknown} of {len(scores)} scores are nan, which has no rank; mend the model first")
    return int((scores >= scores[place]).sum())


def exposure(scores: np.ndarray, place: int) -> float:
    """Return log₂ R − log₂ rank, in bits: how much shorter the search for the secret has become.

    0 for the last candidate, log₂ R for the first. A secret that was never read has rank k with probability 1/R, and
    so about 1/ln 2 = 1.44 bits on average.

    Raises:
        ValueError: as ``rank``.

    Source: Carlini et al. 2019, "The secret sharer", §4 (rank, exposure).
    """
    found = rank(scores, place)
    return math.log2(len(scores)) - math.log2(found)


def estimated_exposure(score: float, sample: np.ndarray) -> float:
    """Return the exposure that a sample of the candidates' scores lets expect, in bits, where not all can be scored.

    A skew-normal density with the sample's mean, variance and skewness is laid over it, and −log₂ of its area above the
    secret's score goes on where the sample ends.

    Args:
        score: log-likelihood of the secret.
        sample: of codes drawn at random, some hundreds.

    Source: Carlini et al. 2019, §4 (approximation by a distribution).
    """
    if len(sample) < 30:
        raise ValueError(f"{len(sample)} scores are too few for a distribution; give 30 or more")
    mean, deviation = sample.mean(), sample.std()
    if not (np.isfinite(score) and np.isfinite(mean) and deviation > 0):
        raise ValueError(f"score={score:g} and a sample of {mean:g} ± {deviation:g}: give finite scores, not all alike")
    skewness = float(np.clip((((sample - mean) / deviation) ** 3).mean(), -0.99, 0.99))
    size = abs(skewness) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * size / (size + (2 - math.pi / 2) ** (2 / 3))), skewness)
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    at = (score - mean) / scale + delta * math.sqrt(2 / math.pi)  # in units of the skew-normal
    z = at + np.linspace(0, 40, 40_001)
    slope = delta / math.sqrt(1 - delta**2)
    log_cdf = np.array([math.log(max(math.erfc(-slope * x / math.sqrt(2)) / 2, 1e-300)) for x in z])
    density = np.exp(math.log(2) - z**2 / 2 - math.log(2 * math.pi) / 2 + log_cdf)
    return -math.log2(max(float(density.sum()) * 40 / 40_000, 1e-300))
