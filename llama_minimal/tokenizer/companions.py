"""The files beside a tokenizer: tokens that frame or end a text, tokens that were added later, the chat template."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_minimal.config import read_json
from llama_minimal.files import replace_file

# Of those that name tokens, the first that speaks of a role decides.
_SPEAKING = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
COMPANIONS = (*_SPEAKING, "added_tokens.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """Hold a token that is found in a text before the tokenizer's algorithm sees it."""

    token_id: int
    special: bool
    """Special tokens are read only where they are allowed, and decode to nothing."""
    lstrip: bool = False
    rstrip: bool = False
    """Whether it takes the spaces on its left or right with it."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Hold the files that stood beside a tokenizer, byte for byte, and read what they say."""

    files: dict[str, bytes] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Content of the files that name tokens."""

    @classmethod
    def read(cls, folder: Path) -> "Companions":
        """Read what is there.

        Raises:
            ValueError: if a file is not the JSON object that it should be.
        """
        found = [name for name in COMPANIONS if (folder / name).is_file()]
        speaking = {name: read_json(folder / name) for name in found if name in (*_SPEAKING, "added_tokens.json")}
        return cls({name: (folder / name).read_bytes() for name in found}, speaking)

    def save(self, folder: str | Path) -> None:
        """Write the files as they were.

        Raises:
            OSError: if one cannot be written.
        """
        for name, content in self.files.items():
            replace_file(Path(folder) / name, content)

    def get(self, name: str, key: str) -> Any:
        """Return one value of a file, or None."""
        return self.contents.get(name, {}).get(key)

    def role(self, role: str, token_id: Callable[[str], int | None], *, vocab_size: int, otherwise: int | None) -> Any:
        """Return the id of the token that has a role: ``bos``, ``eos`` or ``pad``.

        Args:
            token_id: name -> id, or None if the tokenizer has no such token; then a warning says so.
            otherwise: what counts if no file speaks of the role.
        """
        for name in _SPEAKING:
            for key in (f"{role}_token", f"{role}_token_id"):
                if key not in self.contents.get(name, {}):
                    continue
                value = self.get(name, key)
                if value is None:
                    return None
                for one in value if isinstance(value, list) else [value]:
                    found = _find(one, token_id, vocab_size)
                    if found is not None:
                        return found
                warnings.warn(
                    f"{name} has {key}={json.dumps(value)}, which is not among the tokenizer's tokens and is left "
                    "out; do the files belong together?",
                    stacklevel=2,
                )
        return otherwise

    def end_ids(self, vocab_size: int) -> tuple[int, ...]:
        """Return the tokens that end a text by generation_config.json; none if it does not say."""
        return end_ids(self.contents.get("generation_config.json", {}), vocab_size=vocab_size)[0]

    def chat_template(self) -> str | None:
        """Return the chat template: chat_template.jinja, else that of tokenizer_config.json, of several the default.

        Raises:
            ValueError: if it is no text, or none of several is called default.
        """
        content, config = self.files.get("chat_template.jinja"), "tokenizer_config.json"
        source = self.get(config, "chat_template") if content is None else content.decode("utf-8", "replace")
        if isinstance(source, list):
            named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
            if source and "default" not in named:
                names = ", ".join(map(str, named))
                raise ValueError(f"{config} has the chat templates {names}; one must be named default")
            source = named.get("default")
        if source is not None and not isinstance(source, str):
            raise ValueError(f"{config} has a chat_template that is no text but {type(source).__name__}")
        return source

    def added_tokens(self) -> dict[str, AddedToken]:
        """Return the tokens that were added to a vocabulary, by name.

        The flags in tokenizer_config.json tell special tokens from others. One of added_tokens.json alone counts as
        special: so text that others wrote cannot hold it.
        """
        added = {
            name: AddedToken(token_id, True)
            for name, token_id in self.contents.get("added_tokens.json", {}).items()
            if _is_id(token_id)
        }
        decoder = self.get("tokenizer_config.json", "added_tokens_decoder")
        for token_id, token in decoder.items() if isinstance(decoder, dict) else ():
            if token_id.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str):
                flags = bool(token.get("special", True)), bool(token.get("lstrip")), bool(token.get("rstrip"))
                added[token["content"]] = AddedToken(int(token_id), *flags)
        added.pop("", None)
        return added


def end_ids(values: Mapping[str, Any], *, vocab_size: int) -> tuple[tuple[int, ...], list[Any]]:
    """Read ``eos_token_id``, one id or a list of them.

    Returns:
        The ids below ``vocab_size``, each once, and what is no such id.
    """
    value = values.get("eos_token_id")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    good = dict.fromkeys(one for one in listed if _is_id(one) and one < vocab_size)
    return tuple(good), [one for one in listed if not (_is_id(one) and one < vocab_size)]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _find(value: Any, token_id: Callable[[str], int | None], vocab_size: int) -> int | None:
    # The files write a token as a name, as {"content": name, ...} or as an id.
    if isinstance(value, dict):
        value = value.get("content")
    found = token_id(value) if isinstance(value, str) else value
    return found if _is_id(found) and found < vocab_size else None
