"""What a predicate looks at: the answers that are wrong, beside the right ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from llama_minimal.course.exercises.comparing import near


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The cases in which an answer is wrong. A predicate says something only if it is true of all of them.

    Args:
        given: what the answer gave, an array for each case.
        wanted: what is right.
        cases: the arguments.
        names: how the reader calls the arguments.
        tolerance: up to which two numbers are the same.
        warned: what NumPy warned of while the answer ran.
        others: what the answer gave in the cases where it is right.
    """

    given: list[np.ndarray]
    wanted: list[np.ndarray]
    cases: list[tuple]
    names: list[str]
    tolerance: float
    warned: tuple[str, ...] = ()
    others: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        """Let whole numbers be numbers like all others, so that −b, b / 2 and √b are what they should be."""
        kinds = "iu" if self.masks else "biu"
        for arrays in (self.given, self.wanted):
            arrays[:] = [x.astype(float) if x.dtype.kind in kinds else x for x in arrays]

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go through what was given and what is right."""
        return zip(self.given, self.wanted, strict=True)

    def near(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Say whether two arrays are the same, within what this answer's format allows."""
        a, b = np.asarray(a), np.asarray(b)
        size = np.max(np.abs(b), where=np.isfinite(b), initial=0.0) if b.dtype.kind == "f" else 1.0
        small = 0 < size < 1  # then the tolerance must not swallow all of it
        return near(a / size, b / size, self.tolerance) if small else near(a, b, self.tolerance)

    def all(self, change: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Say whether every wrong answer is the right one, changed so."""
        with np.errstate(all="ignore"):
            return all(self.near(a, change(b)) for a, b in self.pairs())

    @property
    def masks(self) -> bool:
        """Say whether the right answers consist of True and False."""
        return all(b.dtype == bool for b in self.wanted)

    @property
    def size(self) -> int:
        """Return how many numbers there are in all."""
        return sum(b.size for b in self.wanted)

    @property
    def alike(self) -> bool:
        """Say whether all shapes are right."""
        return all(a.shape == b.shape for a, b in self.pairs())

    @property
    def ndim(self) -> int:
        """Return the smallest number of axes of a right answer."""
        return min(b.ndim for b in self.wanted)
