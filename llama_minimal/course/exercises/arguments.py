"""Predicates on answers that are an argument, or made of one in a simple way."""

import itertools
from collections.abc import Callable

import numpy as np

from llama_minimal.course.exercises.look import Look

Change = Callable[[np.ndarray], np.ndarray]

STATISTICS: dict[str, Change] = {
    "the sum of `{}`": np.sum,
    "the mean of `{}`": np.mean,
    "the smallest of `{}`": np.min,
    "the largest of `{}`": np.max,
    "the number of entries of `{}`": np.size,
    "the median of `{}`": np.median,
    "the mean square of `{}`": lambda x: np.mean(x * x),
    "the first of `{}`": lambda x: x.ravel()[0],
    "the last of `{}`": lambda x: x.ravel()[-1],
}
FUNCTIONS: dict[str, Change] = {
    "": lambda x: x,
    "minus ": np.negative,
    "the exponential of ": np.exp,
    "the logarithm of ": np.log,
    "the logarithm to base 2 of ": np.log2,
    "the logarithm to base 10 of ": np.log10,
    "the root of ": np.sqrt,
    "the square of ": np.square,
    "1 divided by ": np.reciprocal,
    "2 to the power of ": np.exp2,
}


def argument(look: Look) -> str:
    """An argument as it was given, or one too many, too few, or in the wrong operation."""
    for i, name in enumerate(look.names):
        values = [np.asarray(case[i]) if _numbers(case[i]) else None for case in look.cases]
        if any(x is None for x in values):
            continue
        triples = [(x, a, b) for x, (a, b) in zip(values, look.pairs(), strict=True)]
        if not all(_fits(x, b) for x, _, b in triples):
            continue
        for said, change in _operations(name).items():
            with np.errstate(all="ignore"):
                if all(look.near(a, change(x, b)) for x, a, b in triples):
                    return said
    return ""


def recipe(look: Look) -> str:
    """A function of one number made from an argument: its sum, the exponential of its largest …"""
    if any(b.ndim for b in look.wanted) or not look.cases[0]:
        return ""
    given = np.array([float(a) for a in look.given])
    if len(np.unique(given)) < 2:  # a single number can be explained by anything
        return ""
    for i, name in enumerate(look.names):
        if not all(_numbers(case[i]) or _list_of_numbers(case[i]) for case in look.cases):
            continue
        statistics = STATISTICS if np.ndim(look.cases[0][i]) else {"`{}`": np.asarray}
        for (made, over), (of, function) in itertools.product(statistics.items(), FUNCTIONS.items()):
            with np.errstate(all="ignore"):
                result = np.array([float(function(over(np.asarray(case[i], dtype=float)))) for case in look.cases])
            if np.isfinite(result).all() and look.near(given, result):
                return f"this is {of}{made.format(name)}"
    return ""


def _numbers(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")


def _list_of_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(one, int | float) for one in value)


def _operations(name: str) -> dict[str, Callable]:
    return {
        f"this is `{name}` as it was given": lambda x, b: np.broadcast_to(x, b.shape) if x.ndim else np.nan + b,
        f"this is minus `{name}`": lambda x, b: np.broadcast_to(-1.0 * x, b.shape) if x.ndim else np.nan + b,
        f"this is the right answer times `{name}`": lambda x, b: b * x,
        f"this is the right answer divided by `{name}`": lambda x, b: b / x,
        f"this is the right answer plus `{name}`": lambda x, b: b + 1.0 * x,
        f"this is the right answer minus `{name}`": lambda x, b: b - 1.0 * x,
        f"this is the right answer times the square of `{name}`": lambda x, b: b * (1.0 * x) ** 2,
        f"this is the right answer divided by the square of `{name}`": lambda x, b: b / (1.0 * x) ** 2,
        f"this is `{name}` divided by the right answer": lambda x, b: x / b,
        f"this is `{name}` minus the right answer": lambda x, b: 1.0 * x - b,
    }


def _fits(x: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.broadcast_shapes(x.shape, b.shape) == b.shape
    except ValueError:
        return False
