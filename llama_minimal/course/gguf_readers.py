"""Other programs on a GGUF file, for chapter 22: what transformers makes of it, also of one with a key left out."""

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import torch


def read_by_transformers(path: Path) -> tuple[Any, Any] | None:
    """Return the model, in float32, and the tokenizer that the transformers library makes of a GGUF file.

    Returns:
        None without that library, or without ``accelerate``, which it needs for this.
    """
    if not all(map(importlib.util.find_spec, ("transformers", "accelerate"))):
        return None
    with contextlib.redirect_stderr(io.StringIO()):  # its import prints notices
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = {"gguf_file": path.name}
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options).eval()
        return model, AutoTokenizer.from_pretrained(path.parent, **options)


def leave_out(path: Path, key: str, target: Path) -> None:
    """Copy a GGUF file as if one of its keys were not there: a letter of the key is changed, so no reader finds it.

    Raises:
        ValueError: if the file has no such key.
    """
    content = path.read_bytes()
    name = len(key).to_bytes(8, "little") + key.encode()  # as the file holds it: its length, then its letters
    if content.count(name) != 1:
        raise ValueError(f"{path} has no key {key!r}")
    target.write_bytes(content.replace(name, name[:-1] + b"?"))
