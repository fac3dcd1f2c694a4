"""Calibration: how sure is sure enough, measured on text that the model was not trained on."""

# B rows, T time, V vocabulary

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_minimal.adaptive_computation.early_exit import EarlyExit, ExitRule, Measure
from llama_minimal.config.checks import is_number
from llama_minimal.model import Llama

THRESHOLDS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Hold what one threshold did on held-out text."""

    threshold: float
    differing: float
    """Share of the tokens for which another next token is the likeliest than in the whole model."""
    mean_depth: float
    """Layers used per token."""
    p_value: float
    """At most how likely so small a share was, if the true one is above what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Hold a rule that was found good enough, and what was tried on the way to it."""

    rule: ExitRule
    trials: tuple[Trial, ...]
    """From the highest threshold down; the last one may have failed."""


@torch.no_grad()
def read_with_exits(model: EarlyExit, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Read texts a token at a time as generation would, so that skipped layers have the keys that they would have.

    Args:
        tokens: (B, T) ids.

    Returns:
        logits (B, T, V), and the layers used by each token (B, T); the first is a prompt, and uses all.
    """
    cache = model.make_cache(batch_size=len(tokens), max_seq_len=tokens.size(1))
    logits = [model.next_logits(tokens[:, :1], cache=cache)]
    for t in range(1, tokens.size(1)):
        positions = torch.full((len(tokens), 1), t, device=tokens.device)
        logits.append(model.next_logits(tokens[:, t : t + 1], positions=positions, cache=cache))
    first = [[model.config.n_layers] * len(tokens)]
    return torch.stack(logits, dim=1), torch.tensor(first + model.depths).T


def hoeffding_p_value(share: float, allowed: float, n: int) -> float:
    """Return at most how likely a mean so small is, if the true one is above what is allowed.

    exp(−n·kl(share, allowed)), with kl(a, b) = a log(a/b) + (1 − a) log((1 − a)/(1 − b)); 1 where the share is not
    below what is allowed.

    Args:
        share: the mean of n independent numbers between 0 and 1.

    Source: Hoeffding 1963, "Probability Inequalities for Sums of Bounded Random Variables".
    """
    if share >= allowed:
        return 1.0
    terms = ((share, allowed), (1 - share, 1 - allowed))
    return math.exp(-n * sum(a * math.log(a / b) for a, b in terms if a > 0))


def calibrate(
    model: Llama,
    tokens: Tensor,
    *,
    share: float,
    measure: Measure = "margin",
    exits: Sequence[int] | None = None,
    confidence: float = 0.95,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Calibration:
    """Find how low the threshold may be, so that at most a share of the tokens differs from the whole model's.

    Thresholds are tried from the highest down, and the last one before the first that fails is taken. So many tries
    cost no certainty: that the rule is wrong takes a threshold that is too low and passed, and only the first such
    one counts. Each text is one number, the share of its tokens that differ: texts are independent, tokens are not.
    The texts are read as they stand; what a model writes itself may be easier or harder.

    Args:
        model: trained with ``ExitLoss``.
        tokens: (B, T) held-out texts, one in each row: about 3/share of them at least, or nothing can be shown.
        share: of the tokens, such as 0.05.
        measure, exits: as for ``ExitRule`` and ``EarlyExit``.
        confidence: with which the share is kept on other texts of the same kind; 0 takes it as measured.

    Returns:
        the rule; if not even the highest threshold is good enough, one with which no token leaves early.

    Source: Schuster et al. 2022, "Confident Adaptive Language Modeling", keep a bound on what differs in this way: by a
    threshold that is calibrated on held-out text, with a stated probability.
    """
    for name, value in (("share", share), ("confidence", confidence)):
        if not is_number(value) or not 0 <= value < 1 or (name == "share" and value == 0):
            raise ValueError(f"{name}={value!r} must be a number between 0 and 1, such as 0.05 for a share")
    if tokens.dim() != 2 or tokens.size(1) < 2:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)} must be (B, T): texts of at least two tokens")
    with torch.no_grad():
        whole = model(tokens).argmax(-1)[:, 1:]
    rule, trials = ExitRule(measure=measure, threshold=math.inf), []
    for threshold in sorted(thresholds, reverse=True):
        tried = ExitRule(measure=measure, threshold=threshold)
        logits, depths = read_with_exits(EarlyExit(model, tried, exits=exits), tokens)
        differing = float((logits.argmax(-1)[:, 1:] != whole).double().mean())
        p_value = hoeffding_p_value(differing, share, len(tokens))
        depth = float(depths[:, 1:].double().mean())
        trials.append(Trial(threshold=threshold, differing=differing, mean_depth=depth, p_value=p_value))
        if p_value > 1 - confidence or differing > share:
            break
        rule = tried
    return Calibration(rule=rule, trials=tuple(trials))
