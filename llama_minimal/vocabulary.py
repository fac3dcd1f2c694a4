"""One row of ids for everything: pieces of text, codes that a model writes, and places for what it only reads."""

# N features of a prompt, P numbers of a feature, T ids of a prompt

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_minimal.config.checks import check_integer, settle
from llama_minimal.tokenizer import TextCodec

Features = Mapping[str, NDArray[np.floating]]
"""Modality -> its features in the order of their places, each (N, P)."""


class Prompt(NamedTuple):
    """Hold ids, some of which keep a place, and the features that belong there."""

    ids: list[int]
    features: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Say which ids are text, which are codes, and which keep a place for a feature.

    Text comes first, then the codes of each kind, then one placeholder for each modality. So ``ids`` below
    ``n_written`` are what a model may write.

    Args:
        n_text: ids of the tokenizer.
        codes: kind -> how many there are: patches of a code book, units of speech.
        inputs: modality -> how many numbers a feature has, P.

    Example:
        >>> vocabulary = Vocabulary(n_text=300, codes={"ink": 16}, inputs={"image": 4, "sound": 20})
        >>> vocabulary.size, vocabulary.code_ids("ink"), vocabulary.placeholder("sound")
        (318, range(300, 316), 317)
    """

    n_text: int
    codes: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self, "n_text", check_integer("n_text", self.n_text))
        for name in ("codes", "inputs"):
            settle(self, name, {key: check_integer(key, value) for key, value in dict(getattr(self, name)).items()})
        if both := sorted(set(self.codes) & set(self.inputs)):
            raise ValueError(f"{both[0]!r} names codes and inputs; give what is written and what is read two names")

    @property
    def n_written(self) -> int:
        """How many ids a model may write: text and codes."""
        return self.n_text + sum(self.codes.values())

    @property
    def size(self) -> int:
        """How many ids there are: ``LlamaConfig.vocab_size``."""
        return self.n_written + len(self.inputs)

    def placeholder(self, name: str) -> int:
        """Return the id that keeps a place for a feature of a modality."""
        return self.n_written + list(self.inputs).index(_known(name, self.inputs))

    def code_ids(self, name: str) -> range:
        """Return the ids of a kind of code."""
        kinds = list(self.codes)
        start = self.n_text + sum(self.codes[kind] for kind in kinds[: kinds.index(_known(name, self.codes))])
        return range(start, start + self.codes[name])

    def prompt(self, tokenizer: TextCodec, *parts: str | tuple[str, Any], bos: bool = True) -> Prompt:
        """Put texts, features and codes into one row, in their order.

        Args:
            parts: a text; or a modality and its features (N, P); or a kind of code and its numbers, from 0.
            bos: begin with the token that begins a text.

        Raises:
            ValueError: if features have another width, or there is no such modality, kind or code.
        """
        ids = [tokenizer.bos_id] if bos else []
        features: dict[str, list[NDArray]] = {name: [] for name in self.inputs}
        for part in parts:
            if isinstance(part, str):
                ids += tokenizer.encode(part)
                continue
            name, values = part
            if name in self.codes:
                ids += self._codes(name, values)
            else:
                rows = self._features(name, values)
                features[name].append(rows)
                ids += [self.placeholder(name)] * len(rows)
        empty = {name: np.zeros((0, width), np.float32) for name, width in self.inputs.items()}
        return Prompt(ids, {name: np.concatenate([empty[name], *rows]) for name, rows in features.items()})

    def _features(self, name: str, values: Any) -> NDArray[np.float32]:
        width = self.inputs[_known(name, {**self.codes, **self.inputs})]
        rows = np.asarray(values, np.float32)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"features of {name!r} have the shape {rows.shape}; they must be (N, {width})")
        return rows

    def _codes(self, name: str, values: Sequence[int]) -> list[int]:
        ids = self.code_ids(name)
        numbers = [int(value) for value in values]
        if wrong := [number for number in numbers if not 0 <= number < len(ids)]:
            raise ValueError(f"{wrong[0]} is none of the codes 0 to {len(ids) - 1} of {name!r}")
        return [ids[number] for number in numbers]


def _known(name: str, names: Mapping[str, int]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(map(repr, names)) or 'nothing'}; name one of these")
    return name
