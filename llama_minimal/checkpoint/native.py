"""The package's own folder: ``config.json`` and ``model.safetensors`` with our names, all switches included."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from llama_minimal.checkpoint.reading import first_dtype, open_tensors
from llama_minimal.checkpoint.sharded import is_sharded, open_sharded
from llama_minimal.checkpoint.tensors import Checkpoint, naming, write_safetensors
from llama_minimal.config import LlamaConfig
from llama_minimal.model import Llama

MODEL_TYPE = "llama_minimal"


def open_native(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Open a folder whose ``config.json`` says that it is ours."""
    values = {name: value for name, value in config.items() if name != "model_type"}
    with naming(folder / "config.json"):
        ours = LlamaConfig.from_dict(values)
    if is_sharded(folder):
        return open_sharded(folder, ours)
    path = folder / "model.safetensors"
    return Checkpoint(ours, first_dtype([path]), partial(open_tensors, [path]))


def write_native(model: Llama, folder: Path) -> None:
    """Write a model to an existing folder."""
    # named_parameters lists a tensor that has several names (tied, shared) once, under the first.
    write_safetensors(dict(model.named_parameters()), folder / "model.safetensors")
    write_config(model, folder)


def write_config(model: Llama, folder: Path) -> None:
    """Write what says that a folder is ours, and the model's shape."""
    config = {"model_type": MODEL_TYPE} | model.config.to_dict()
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
