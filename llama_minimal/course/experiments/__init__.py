"""Experiments that take too long for a chapter: one module each, run by ``python -m llama_minimal.course.record NAME``.

Such a module holds

- ``WHAT``: a sentence, what is compared;
- ``BUDGET``: a sentence, what each point gets: steps, tokens, width, layers;
- ``POINTS``: the points, a list of dicts of keyword arguments, plain numbers and strings;
- ``run(**point)``: the figures of one point, a dict of numbers; given its seed, always the same, but for those whose
  name ends in ``_per_second``, ``seconds`` or ``resident``: they depend on the machine, and no test compares them;
- ``TOLERANCE``, where 0.02 does not do: how far a figure may be, as a fraction, from the one that another machine gets;
- ``CHECK``, where the cheapest does not do: the point that the tests run anew.
"""

import hashlib
import importlib
import inspect
import json
import pkgutil
from ast import Assign, Name, parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

Point = Mapping[str, float | str]
DEFAULT_TOLERANCE = 0.02
# What may change without changing what a point's figures mean.
_FREE = {"POINTS", "CHECK", "TOLERANCE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What a module of this package holds."""

    name: str
    what: str
    budget: str
    points: list[dict[str, Any]]
    run: Callable[..., Mapping[str, float]]
    check: dict[str, Any] | None
    tolerance: float
    source: str
    """SHA-256 of the module's code."""

    def measure(self, point: Point) -> dict[str, float]:
        """Run one point, which may be one that is not in the list.

        Raises:
            ValueError: if the experiment takes other arguments, or returns something other than numbers.
        """
        try:
            inspect.signature(self.run).bind(**point)
        except TypeError as error:
            takes = ", ".join(inspect.signature(self.run).parameters)
            raise ValueError(
                f"a point of {self.name} has {takes}; given {', '.join(point) or 'nothing'}: {error}"
            ) from None
        figures = self.run(**point)
        try:
            result = {name: _number(value) for name, value in figures.items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{self.name} returned {figures!r}, which should be a dict of numbers") from None
        if both := sorted(result.keys() & point.keys()):
            raise ValueError(f"{self.name} returned {both[0]!r}, which is an argument's name; rename the figure")
        return result


def names() -> list[str]:
    """Return the names of all experiments."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ValueError: if there is none of that name, or its module lacks something.
    """
    if name not in names():
        raise ValueError(f"there is no experiment {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    if missing := [part for part in ("WHAT", "BUDGET", "POINTS", "run") if not hasattr(module, part)]:
        raise ValueError(
            f"the experiment {name} lacks {missing[0]}; llama_minimal/course/experiments says what it holds"
        )
    _check_points(name, module.POINTS)
    return Experiment(
        name=name,
        what=module.WHAT,
        budget=module.BUDGET,
        points=module.POINTS,
        run=module.run,
        check=getattr(module, "CHECK", None),
        tolerance=getattr(module, "TOLERANCE", DEFAULT_TOLERANCE),
        source=_fingerprint(module),
    )


def is_timed(figure: str) -> bool:
    """Return whether a figure, by its name, depends on clock or system, so that another run gives another one."""
    return figure.endswith(("_per_second", "seconds", "resident"))


def key(point: Point) -> str:
    """Return what tells points apart."""
    return json.dumps(point, sort_keys=True)


def _number(value: Any) -> float:
    return value if isinstance(value, int) and not isinstance(value, bool) else float(value)


def _check_points(name: str, points: Any) -> None:
    keys = set()
    for point in points:
        if not (isinstance(point, dict) and all(type(value) in (int, float, str) for value in point.values())):
            raise ValueError(f"the point {point!r} of {name} should be a dict of plain numbers and strings")
        if key(point) in keys:
            raise ValueError(f"{name} has the point {point!r} twice; leave one out")
        keys.add(key(point))


def _fingerprint(module: ModuleType) -> str:
    """Return the SHA-256 of a module's lines of code: points may be added to the list, and comments changed."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in parse(text).body:
        if isinstance(node, Assign) and any(isinstance(target, Name) and target.id in _FREE for target in node.targets):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    code = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(code).encode("utf-8")).hexdigest()
