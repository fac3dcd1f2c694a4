"""Chance that is the same on every machine: one seed, one stream."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draw from a stream that depends on the seed alone.

    Python promises that ``Random(int).random()`` never changes its stream; it promises nothing about ``choice``
    or ``shuffle``, so those are made here, from ``random()``.
    """

    __slots__ = ("random",)

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random() < probability

    def between(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[int(self.random() * len(options))]

    def sample(self, options: Sequence[T], n: int) -> list[T]:
        """Return n different options in random order."""
        rest = list(options)
        return [rest.pop(int(self.random() * len(rest))) for _ in range(n)]
