"""Adapter folders of the ``peft`` library: ``adapter_config.json`` and ``adapter_model.safetensors``."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.huggingface import names, plain_name, rotated_heads, to_half_split, to_interleaved
from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.checkpoint.reading import open_tensors, read_metadata
from llama_minimal.checkpoint.tensors import StoredAdapter, naming, write_safetensors
from llama_minimal.config import LlamaConfig, read_json
from llama_minimal.lora import LoRAConfig, base_tensors
from llama_minimal.model import Llama

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."

# Fields that say nothing of what an adapter computes; what it was initialized from is over.
_HARMLESS = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "peft_type"}
_HARMLESS |= {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"}
_HARMLESS |= {"layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"}
_HARMLESS |= {"eva_config", "ensure_weight_tying"}
_ALLOWED = {
    "bias": (None, "none"),
    "task_type": (None, "CAUSAL_LM"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # others change the base's weights too
}
_REASONS = {
    "use_dora": "DoRA trains the length of every row of a weight as well",
    "modules_to_save": "it replaces whole layers beside its low-rank updates",
    "bias": "it changes biases beside its low-rank updates",
    "init_lora_weights": "its updates count from weights that were changed at the beginning",
    "rank_pattern": "its layers have different ranks",
    "alpha_pattern": "its layers have different scales",
    "task_type": "it is for a model with another output",
}


def write_peft(stored: StoredAdapter, folder: Path, config: LlamaConfig, *, base: str | Path | None = None) -> None:
    """Write an adapter so that ``peft.PeftModel.from_pretrained`` loads it onto the exported model.

    The rows of q and k stand in another order there, so B's do, too.

    Raises:
        ValueError: if the transformers library has no such model.
    """
    if other := not_expressible(config):
        raise ValueError(f"the transformers library's LLaMA has no {', '.join(other)}; save with format='native'")
    theirs, tensors = _modules(config), {}
    for key, tensor in stored.tensors.items():
        path, _, part = key.rpartition(".")
        n_heads = rotated_heads(f"{path}.{part}", config) if part == "B" else 0
        tensors[f"{_PREFIX}{theirs[path]}.lora_{part}.weight"] = to_half_split(tensor, n_heads) if n_heads else tensor
    write_safetensors(tensors, folder / WEIGHTS[0], metadata=stored.metadata)
    adapter, alpha = stored.config, stored.config.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if base is None else str(base),
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rank_stabilized,
        "target_modules": _shortest({theirs[key.rpartition(".")[0]] for key in stored.tensors}, theirs.values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2), encoding="utf-8")


def read_peft(folder: Path, model: Llama) -> StoredAdapter:
    """Read an adapter of the peft library for a model.

    Raises:
        ValueError: if it is no LoRA, computes more than a low-rank update, changes layers that we have not, or its
            files are damaged or contradict each other.
    """
    values = read_json(folder / CONFIG)
    _check(values, folder / CONFIG)
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise ValueError(f"{folder} has an {CONFIG} but none of {', '.join(WEIGHTS)}; is the download complete?")
    config = model.config
    ours = {plain_name(theirs): (name, theirs) for name, theirs in _modules(config).items()}
    tensors, modules = {}, set()
    for key, tensor in open_tensors([path]):
        found = re.fullmatch(r"(.+)\.(lora_A|lora_B|base_layer)\.weight", plain_name(key))
        if not found or found[1] not in ours:
            raise ValueError(f"{path} has {key}, which is no low-rank update of a linear layer of this model")
        name, theirs = ours[found[1]]
        if found[2] == "base_layer":
            _check_copy(tensor[()], name, model, path)
            continue
        part = found[2].removeprefix("lora_")
        n_heads = rotated_heads(f"{name}.B", config) if part == "B" else 0
        fits = n_heads and tensor.shape[0] % (2 * n_heads) == 0  # else an error that ``fill`` tells
        tensors[f"{name}.{part}"] = to_interleaved(tensor[()], n_heads) if fits else tensor[()]
        modules.add(theirs)
    _check_targets(values, modules, folder / CONFIG)
    theirs_to_ours = {theirs: name for name, theirs in ours.values()}
    with naming(folder / CONFIG):
        adapter = LoRAConfig(
            rank=values.get("r", 8),
            alpha=values.get("lora_alpha", 8),
            dropout=values.get("lora_dropout", 0.0),
            rank_stabilized=bool(values.get("use_rslora", False)),
            targets=tuple(_shortest({theirs_to_ours[m] for m in modules}, theirs_to_ours.values())),
        )
    return StoredAdapter(adapter, tensors, read_metadata(path))


def _check_copy(copy: Tensor, name: str, model: Llama, path: Path) -> None:
    """Peft adds a copy of the output beside an adapter of it, and would load it over the weights of the model."""
    weight = base_tensors(model)[f"{name}.weight"].detach().cpu()
    if copy.shape != weight.shape or not torch.equal(copy.to(weight.dtype), weight):
        raise ValueError(f"{path} holds other weights of {name} than the model; load the adapter onto its own base")


def _modules(config: LlamaConfig) -> dict[str, str]:
    """Return the name in transformers of every module of ours that has a weight."""
    return {
        ours.removesuffix(".weight"): theirs.removesuffix(".weight")
        for ours, theirs in names(config).items()
        if ours.endswith(".weight") and "norm" not in ours and not ours.startswith("tok_embeddings")
    }


def _shortest(chosen: set[str], there: Iterable[str]) -> list[str]:
    """Name modules by their last part where all of that name are chosen, else in full."""
    found: dict[str, None] = {}
    for name in sorted(chosen):
        last = name.rpartition(".")[2]
        alike = {other for other in there if other.rpartition(".")[2] == last}
        found[last if alike <= chosen else name] = None
    return list(found)


def _check(values: dict[str, Any], path: Path) -> None:
    if values.get("peft_type") != "LORA":
        raise ValueError(f"{path} describes a {values.get('peft_type')!r} adapter; only 'LORA' can be loaded here")
    for name, value in values.items():
        fine = value in _ALLOWED[name] if name in _ALLOWED else name in _HARMLESS or not value
        if not fine:
            reason = _REASONS.get(name, "it computes something other than a plain low-rank update")
            raise ValueError(f"{path} has {name}={value!r}: {reason}, which cannot be loaded here")


def _check_targets(values: dict[str, Any], modules: set[str], path: Path) -> None:
    """Refuse a configuration that means other layers than there are tensors for: peft would drop those in silence."""
    targets = values.get("target_modules") or ["q_proj", "v_proj"]  # peft's default for LLaMA
    if not isinstance(targets, str) and not (isinstance(targets, list) and all(isinstance(t, str) for t in targets)):
        raise ValueError(f"{path} has target_modules={targets!r}; it must be a list of names, or a regular expression")
    if not modules:
        raise ValueError(f"{path.parent} holds no low-rank updates")
    try:
        meant = {module for module in modules if _means(targets, module) and not _is_left_out(values, module)}
    except re.error as error:
        raise ValueError(f"{path} names layers by {targets!r}, which is no regular expression ({error})") from None
    if more := sorted(modules - meant):
        raise ValueError(
            f"{path} means other layers (target_modules={targets!r}) than there are tensors for: {more[0]}, too; "
            f"make it name all"
        )
    for target in () if isinstance(targets, str) else targets:
        if not any(_means([target], module) for module in modules):
            raise ValueError(
                f"{path} names {target!r} in target_modules, but there are no tensors for a linear layer of that name"
            )


def _is_left_out(values: dict[str, Any], module: str) -> bool:
    layers = values.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    found = re.search(r"\.layers\.(\d+)\.", module)
    if layers and (found is None or int(found[1]) not in layers):
        return True
    return _means(values.get("exclude_modules") or [], module)


def _means(targets: str | list[str], module: str) -> bool:
    if targets == "all-linear":
        return module != "lm_head"
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(f".{module}".endswith(f".{target}") for target in targets)
