"""How a model's matrices are kept, in a form that its ``config.json`` holds."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from llama_minimal.config.checks import check_integer, check_number, check_one_of, settle
from llama_minimal.quantization.schemes import SCHEMES
from llama_minimal.settings import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Say how a model's matrices are kept."""

    scheme: Scheme
    """``int8`` (a step per row), ``int4`` (a step and an offset per group), ``fp8`` (floats of 8 bits), or
    ``int8-dynamic`` (int8, and the inputs rounded to int8, too, each token by a step of its own)."""
    group_size: int | Literal["row"] | None = None
    """Numbers of a row that share a grid; None means 32 for int4, where a row's last group may be shorter, and
    otherwise the whole row."""
    skip: tuple[str, ...] = ()
    """Layers to leave as they are, such as ``output``, ``w2`` or ``layers.0.attention.wq``."""

    threshold: float | None = None
    """With int8-dynamic: size from which an input keeps its precision; None rounds all."""

    def __post_init__(self) -> None:
        check_one_of("scheme", self.scheme, tuple(SCHEMES))
        if self.group_size not in ("row", None):
            settle(self, "group_size", check_integer("group_size", self.group_size, at_least=2))
            if self.scheme in ("fp8", "int8-dynamic"):
                raise ValueError(f"{self.scheme} has a scale per row; leave group_size out")
        if self.threshold is not None:
            if self.scheme != "int8-dynamic":
                raise ValueError(
                    f"threshold is for inputs that are rounded, and {self.scheme} rounds none; leave it out"
                )
            settle(self, "threshold", check_number("threshold", self.threshold))
        settle(self, "skip", check_names("skip", self.skip))

    @property
    def group(self) -> int | None:
        """Numbers that share a grid, None for a row."""
        size = self.group_size or (32 if self.scheme == "int4" else "row")
        return None if size == "row" else size

    @property
    def options(self) -> dict[str, Any]:
        """What a layer of the scheme needs beside the group."""
        return {"threshold": self.threshold} if self.scheme == "int8-dynamic" else {}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Quantization":
        """Read what ``to_dict`` wrote.

        Raises:
            ValueError: if it is no such thing, a field is unknown, the scheme is missing, or a value is odd.
        """
        if not isinstance(values, dict):
            raise ValueError(f"quantization={values!r} must be an object, such as {{'scheme': 'int8'}}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"quantization has unknown fields {unknown}; known are {known}")
        if "scheme" not in values:
            raise ValueError("quantization lacks its scheme, such as 'int8'")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``from_dict`` reads them back."""
        values = asdict(self) | {"skip": list(self.skip)}
        return {name: value for name, value in values.items() if name != "threshold" or value is not None}


def check_names(name: str, value: Iterable[str]) -> tuple[str, ...]:
    """Return names of layers, each once.

    Raises:
        ValueError: if they are one text, or no texts.
    """
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
    if not isinstance(names, tuple) or not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name}={names!r} must be names of layers, such as ('output',)")
    return tuple(dict.fromkeys(names))
