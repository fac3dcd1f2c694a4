"""What other installed packages bring: corpora, applications and objectives, found by their entry points.

A package names them in its ``pyproject.toml``, and needs no other tie to this one::

    [project.entry-points."llama_minimal.corpora"]
    poems = "my_package:poems"

A plug-in is loaded when it is asked for. One that is broken stops nobody who does not ask for it.
"""

import warnings
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

CORPORA, APPLICATIONS, OBJECTIVES = GROUPS = tuple(
    f"llama_minimal.{what}" for what in ("corpora", "applications", "objectives")
)


class _Kind(NamedTuple):
    """What the plug-ins of a group are: the word for one, what it must be, and whether a value is that."""

    name: str
    must_be: str
    accepts: Callable[[object], bool]


_PARTS = ("name", "metric", "examples", "score", "baselines", "evaluate")
_KINDS = {
    CORPORA: _Kind("corpus", "a function: text after the colon → (name, text) for each document", callable),
    APPLICATIONS: _Kind("application", "an Application", lambda value: all(hasattr(value, part) for part in _PARTS)),
    OBJECTIVES: _Kind("objective", "a function: (model, batch) → (sum of the losses, how many)", callable),
}


def find(group: str, *, built_in: Collection[str] = ()) -> dict[str, object]:
    """Return the plug-ins of a group by name, and warn of those that cannot be used.

    Args:
        group: one of ``GROUPS``.
        built_in: names that this package has itself, which no plug-in can replace.

    Raises:
        ValueError: if there is no such group.
    """
    found = {}
    for name in names(group):
        try:
            found[name] = load(group, name, built_in=built_in)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def load(group: str, name: str, *, built_in: Collection[str] = ()) -> object:
    """Return the plug-in of this name.

    Args: as ``find``.

    Raises:
        ValueError: if there is none, or it cannot be used; the message says which package brought it, and why.
    """
    kind = _kind(group)
    points = [point for point in entry_points(group=group) if point.name == name]
    known = ", ".join((*built_in, *names(group))) or "none"
    if not points:
        raise ValueError(f"{kind.name}={name!r} is neither built in nor of an installed package; known are {known}")
    what = f"the {kind.name} {name!r} of the package {packages(group, name)} cannot be used"
    if name in built_in:
        raise ValueError(f"{what}: the name is built in, and no package can replace it")
    if len(points) > 1:
        raise ValueError(f"{what}: {len(points)} packages bring one of this name; uninstall all but one")
    try:
        value = points[0].load()
    except (Exception, SystemExit) as error:  # whatever an outside module does when it is imported
        raise ValueError(f"{what}: loading {points[0].value} gives {type(error).__name__}: {error}") from error
    if not kind.accepts(value):
        raise ValueError(f"{what}: {points[0].value} is of the type {type(value).__name__}, and must be {kind.must_be}")
    return value


def names(group: str) -> list[str]:
    """Return the names of a group's plug-ins, in alphabetical order, without loading any.

    Raises:
        ValueError: if there is no such group.
    """
    _kind(group)
    return sorted({point.name for point in entry_points(group=group)})


def packages(group: str, name: str) -> str:
    """Return which packages bring a plug-in of this name."""
    return ", ".join(sorted(_package(point) for point in entry_points(group=group) if point.name == name))


def _kind(group: str) -> _Kind:
    if group not in _KINDS:
        raise ValueError(f"group={group!r} is not one of {', '.join(GROUPS)}")
    return _KINDS[group]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
