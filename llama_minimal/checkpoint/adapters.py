"""Adapters in folders of their own: in the form of the ``peft`` library, or the package's."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.checkpoint.peft import CONFIG, WEIGHTS, read_peft, write_peft
from llama_minimal.checkpoint.reading import open_tensors, read_metadata
from llama_minimal.checkpoint.tensors import Checkpoint, Slot, StoredAdapter, fill, naming, write_safetensors
from llama_minimal.config import read_json
from llama_minimal.devices import find_dtype
from llama_minimal.files import refuse_pointer, update_folder
from llama_minimal.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_tensors,
    adapters,
    add_adapter,
    base_tensors,
    find_targets,
    set_active,
)
from llama_minimal.model import Llama
from llama_minimal.quantization import quantized_tensors

AdapterFormat = Literal["auto", "peft", "native"]
_CONFIG, _WEIGHTS = "adapter.json", "adapter.safetensors"
_FILES = (_CONFIG, _WEIGHTS, CONFIG, *WEIGHTS)
_CHECKSUM = "base_checksum"


def save_adapter(
    model: Llama,
    folder: str | Path,
    name: str | None = None,
    *,
    format: AdapterFormat = "auto",
    dtype: torch.dtype | str | None = None,
    base: str | Path | None = None,
) -> None:
    """Save one adapter of a model, without the model; the folder changes only when all is written.

    Args:
        folder: its name is that of the adapter when it is loaded.
        name: of the adapter; None means the only one.
        format: ``peft``, which loads it onto the same model exported with ``save(…, format="huggingface")``;
            ``native``; ``auto`` is peft where the transformers library has such a model.
        dtype: None keeps that of the weights; bfloat16 takes half the space of float32.
        base: where to get the base model, such as an id on the hub, for whoever opens a peft folder.

    Raises:
        ValueError: if there is no such adapter, or the format cannot express it.
        OSError: if the disk is full or the folder not writable; the folder is then as it was.
    """
    if not str(folder) or (Path(folder).expanduser().exists() and not Path(folder).expanduser().is_dir()):
        raise ValueError(f"{str(folder)!r} is no folder; give a folder for the adapter")
    folder, there = Path(folder).expanduser(), adapters(model)
    if name is None:
        if len(there) != 1:
            raise ValueError(f"the model has {len(there)} adapters ({', '.join(there)}); give the name of one")
        (name,) = there
    if format not in ("auto", "peft", "native"):
        raise ValueError(f"format={format!r} is not one of 'auto', 'peft', 'native'")
    tensors = {key: t if dtype is None else t.to(find_dtype(dtype)) for key, t in adapter_tensors(model, name).items()}
    if next(iter(tensors.values())).is_meta:
        raise ValueError("an adapter on the meta device holds no numbers to save")
    stored = StoredAdapter(there[name], tensors, {_CHECKSUM: base_checksum(model)})
    is_native = format == "native" or (format == "auto" and not_expressible(model.config))
    with update_folder(folder, last=_CONFIG if is_native else CONFIG, obsolete=_FILES) as temporary:
        if is_native:
            _write_native(stored, temporary)
        else:
            write_peft(stored, temporary, model.config, base=base)


def load_adapter(model: Llama, folder: str | Path, name: str | None = None) -> str:
    """Load an adapter onto its base model, in place; it alone is active then.

    Args:
        folder: of ``save_adapter``, or of the peft library (LoRA for a causal language model).
        name: what to call it; None means as its folder.

    Returns:
        The name.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it belongs to another base model, is damaged, or uses what we do not have; the model is then as
            it was.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the folder of an adapter")
    for path in sorted(folder.iterdir()):
        refuse_pointer(path)
    name = folder.resolve().name if name is None else name
    stored = _read(folder, model)
    wanted = stored.metadata.get(_CHECKSUM)  # the peft library writes none
    if wanted and wanted != (found := base_checksum(model)):
        raise ValueError(
            f"the adapter in {folder} was trained on another base model: on one whose weights have the checksum "
            f"{wanted[:12]}, and not {found[:12]}; load it onto that one"
        )
    config, layers = stored.config, find_targets(model, stored.config)
    shapes = {f"{path}.A": (config.rank, layer.in_features) for path, layer in layers.items()}
    shapes |= {f"{path}.B": (layer.out_features, config.rank) for path, layer in layers.items()}
    # Checked whole before the model changes.
    dtypes = {key: tensor.dtype for key, tensor in stored.tensors.items()}
    memory = {key: torch.empty(shape, dtype=dtypes.get(key)) for key, shape in shapes.items()}
    fill({key: Slot(tensor, shapes[key]) for key, tensor in memory.items()}, stored.tensors.items(), folder)
    add_adapter(model, name, config)
    with torch.no_grad():
        for key, parameter in adapter_tensors(model, name).items():
            parameter.copy_(memory[key])
    return name


def add_stored_adapters(model: Llama, checkpoint: Checkpoint) -> None:
    """Give a model, which has no numbers yet, the adapters whose tensors are among those of its checkpoint."""
    for name, config in checkpoint.adapters.items():
        add_adapter(model, name, config)
    set_active(model, *checkpoint.active)


def find_adapter(folder: Path, adapter: str | Path) -> Path:
    """Return the folder of an adapter: that of the model's own of this name, else as given.

    Raises:
        FileNotFoundError: if there is neither.
    """
    own = folder / "adapters"
    if (own / adapter).is_dir():
        return own / adapter
    path = Path(adapter).expanduser()
    if not path.is_dir():
        there = ", ".join(sorted(found.name for found in own.glob("*/"))) or "none"
        raise FileNotFoundError(f"there is no folder {adapter}, and of the model's own adapters there are: {there}")
    return path


def _read(folder: Path, model: Llama) -> StoredAdapter:
    if (folder / CONFIG).exists():
        return read_peft(folder, model)
    if not (folder / _CONFIG).exists():
        raise ValueError(f"{folder} has neither {CONFIG} (peft) nor {_CONFIG}; is it the folder of an adapter?")
    with naming(folder / _CONFIG):
        config = LoRAConfig(**read_json(folder / _CONFIG))
    path = folder / _WEIGHTS
    return StoredAdapter(config, {key: tensor[()] for key, tensor in open_tensors([path])}, read_metadata(path))


def _write_native(stored: StoredAdapter, folder: Path) -> None:
    write_safetensors(stored.tensors, folder / _WEIGHTS, metadata=stored.metadata)
    (folder / _CONFIG).write_text(json.dumps(stored.config.to_dict(), indent=2), encoding="utf-8")


@torch.no_grad()
def base_checksum(model: Llama) -> str:
    """Return a SHA-256 of the weights without adapters, as they are in bfloat16: of names, shapes and numbers.

    A model that was loaded in another precision has the same one. (But float16 loses small weights.)
    """
    unmerged = {layer.weight: layer.unmerged for layer in adapted_layers(model).values() if layer.unmerged is not None}
    digest = hashlib.sha256()
    for name, parameter in sorted((base_tensors(model) | quantized_tensors(model)).items()):
        weight: Tensor = unmerged.get(parameter, parameter).detach()
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
    return digest.hexdigest()
