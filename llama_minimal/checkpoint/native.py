"""The package's own folder: ``config.json`` and ``model.safetensors`` with our names, all switches included."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from llama_minimal.checkpoint.reading import first_dtype, open_tensors
from llama_minimal.checkpoint.sharded import is_sharded, open_sharded
from llama_minimal.checkpoint.tensors import Checkpoint, naming, tensors_of, write_safetensors
from llama_minimal.config import LlamaConfig
from llama_minimal.inputs import vocabulary_of
from llama_minimal.lora import LoRAConfig, active_adapters, adapters, base_tensors, is_merged
from llama_minimal.model import Llama
from llama_minimal.quantization import Quantization, quantization_of
from llama_minimal.vocabulary import Vocabulary

MODEL_TYPE = "llama_minimal"
_QUANTIZATION = "quantization"
_VOCABULARY = "vocabulary"
_ADAPTERS = ("adapters", "active_adapters")
_BESIDE = ("model_type", _QUANTIZATION, _VOCABULARY, *_ADAPTERS)


def open_native(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Open a folder whose ``config.json`` says that it is ours."""
    values = {name: value for name, value in config.items() if name not in _BESIDE}
    there, active = (config.get(name) or {} for name in _ADAPTERS)
    with naming(folder / "config.json"):
        ours = LlamaConfig.from_dict(values)
        there = {name: LoRAConfig(**settings) for name, settings in there.items()}
        how = Quantization.from_dict(config[_QUANTIZATION]) if config.get(_QUANTIZATION) is not None else None
        vocabulary = Vocabulary(**config[_VOCABULARY]) if config.get(_VOCABULARY) is not None else None
    beside = {"adapters": there, "active": tuple(active), "vocabulary": vocabulary}
    if is_sharded(folder):
        return replace(open_sharded(folder, ours), **beside)
    path = folder / "model.safetensors"
    tensors = partial(open_tensors, [path], codes=how is not None)
    dtype = first_dtype([path], lambda name: how is None or name.endswith(".scale"))
    return Checkpoint(ours, dtype, tensors, quantization=how, **beside)


def write_native(model: Llama, folder: Path) -> None:
    """Write a model to an existing folder, and its adapters with it, unless they are in the weights."""
    # named_parameters lists a tensor that has several names (tied, shared) once, under the first.
    tensors = base_tensors(model) if is_merged(model) else tensors_of(model)
    write_safetensors(tensors, folder / "model.safetensors")
    write_config(model, folder)


def write_config(model: Llama, folder: Path) -> None:
    """Write that a folder is ours, the model's shape, what it reads beside text, and adapters unless merged."""
    config = {"model_type": MODEL_TYPE} | model.config.to_dict()
    if not is_merged(model) and (there := adapters(model)):
        config |= {"adapters": {name: settings.to_dict() for name, settings in there.items()}}
        config |= {"active_adapters": active_adapters(model)}
    if vocabulary := vocabulary_of(model):
        config |= {_VOCABULARY: asdict(vocabulary)}
    if how := quantization_of(model):
        config |= {_QUANTIZATION: how.to_dict()}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
