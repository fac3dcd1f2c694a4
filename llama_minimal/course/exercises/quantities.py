"""Explain a number that changes from case to case by the arguments: 3 · dim · n_layers, √(the size of x's axis −1)."""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from llama_minimal.course.exercises.look import Look

MOST = 30_000  # products that are tried
POWERS = {-2: "1/{}²", -1: "1/{}", -0.5: "1/√({})", 0.5: "√({})", 1: "{}", 2: "{}²"}


def explain(look: Look, numbers: np.ndarray, powers: Sequence[float]) -> str:
    """Return a product of powers of the arguments' quantities that gives a number for each case, or "".

    Args:
        look: the wrong cases.
        numbers: one for each of them, of which not all are the same.
        powers: those that a quantity may have.
    """
    known = quantities(look)
    if not known or len(numbers) < 2:  # one number can be explained by anything
        return ""
    names, values = list(known), np.array(list(known.values()))  # (Q, C)
    most = 2 if len(powers) ** len(names) > MOST else len(names)
    candidates = [
        chosen
        for n in range(1, min(most, len(names), len(numbers) - 1) + 1)
        for chosen in itertools.combinations(range(len(names)), n)
    ]
    nonzero = [power for power in powers if power]
    tried = itertools.islice(((c, p) for c in candidates for p in itertools.product(nonzero, repeat=len(c))), MOST)
    for chosen, exponents in sorted(tried, key=lambda one: sum(abs(p) for p in one[1])):
        product = np.prod(values[list(chosen)] ** np.array(exponents, dtype=float)[:, None], axis=0)
        with np.errstate(all="ignore"):
            factors = numbers / product
        simple = Fraction(float(factors[0])).limit_denominator(12) if np.isfinite(factors).all() else 0
        free = len(chosen) + (simple != 1)  # what was chosen to fit must be less than what it fits
        if (
            simple
            and free < len(numbers)
            and abs(simple.numerator) <= 24
            and np.allclose(factors, float(simple), rtol=1e-5, atol=0)
        ):
            parts = [POWERS[p].format(names[i]) for i, p in zip(chosen, exponents, strict=True)]
            return " · ".join(([] if simple == 1 else [f"{simple}"]) + parts)
    return ""


def quantities(look: Look) -> dict[str, list[float]]:
    """Return what has one positive number in each case: scalar arguments, and the sizes of arrays."""
    found: dict[str, list[float]] = {}
    for i, name in enumerate(look.names):
        values = [case[i] for case in look.cases]
        if all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in values):
            found[f"`{name}`"] = [float(one) for one in values]
        if all(isinstance(one, np.ndarray) for one in values):
            for axis in range(-1, -1 - min(one.ndim for one in values), -1):
                found[f"the size of `{name}` along axis {axis}"] = [float(one.shape[axis]) for one in values]
        if all(isinstance(one, list | tuple) for one in values) and all(values):
            found[f"the length of `{name}`"] = [float(len(one)) for one in values]
    distinct = {tuple(numbers): name for name, numbers in reversed(found.items())}
    return {name: list(numbers) for numbers, name in reversed(distinct.items()) if set(numbers) != {1.0}}
