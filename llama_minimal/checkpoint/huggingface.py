"""Folders of the transformers library: ``config.json`` and weights, in one file or many."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from llama_minimal.checkpoint.huggingface_config import config_from_huggingface, config_to_huggingface
from llama_minimal.checkpoint.reading import (
    LazyTensor,
    first_dtype,
    open_tensors,
    read_tensors,
    tensor_names,
    without_wrappers,
)
from llama_minimal.checkpoint.tensors import Checkpoint, Stored, Where, naming, write_safetensors
from llama_minimal.checkpoint.text_side import token_ids, write_for_transformers, write_generation_config
from llama_minimal.config import LlamaConfig, read_json
from llama_minimal.lora import base_tensors
from llama_minimal.model import Llama
from llama_minimal.tokenizer import TextCodec

_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
INDEX = "model.safetensors.index.json"
# Where weights may be, the first that is there: whole, or cut into files that an index names.
WEIGHTS = ("model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOP = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}


def names(config: LlamaConfig) -> dict[str, str]:
    """Return the concrete name in transformers of every tensor name of ours."""
    modules = _TOP | ({"output": "score"} if config.labels else {})
    for i in range(config.n_layers):
        modules |= {f"layers.{i}.{ours}": f"model.layers.{i}.{theirs}" for ours, theirs in _LAYER.items()}
    tensors = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in modules.items()}
    for ours, theirs in modules.items():
        if (".attention." in ours and config.attention_bias) or (".feed_forward." in ours and config.ffn_bias):
            tensors[f"{ours}.bias"] = f"{theirs}.bias"
    return tensors


def to_half_split(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of q or k from Meta's interleaved pairs (0, 1), (2, 3) … to halves (0, Dh/2), (1, Dh/2 + 1) …

    The rotation is the same; only where a pair's partners stand differs. k has its own number of heads.
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Undo ``to_half_split``."""
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def open_huggingface(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Open a folder of the transformers library.

    Raises:
        ValueError: if it is no LLaMA, uses what we do not have, or files are missing or damaged.
    """
    with naming(folder / "config.json"):
        ours = config_from_huggingface(config)
    paths = _weight_files(folder)
    found = {name: plain_name(name) for name in tensor_names(paths) if not name.endswith("rotary_emb.inv_freq")}
    if ours.tie_embeddings and _has_two_matrices(found, paths, folder):
        ours = ours.replace(tie_embeddings=False)
    to_ours = {plain_name(theirs): name for name, theirs in names(ours).items()}
    if ours.tie_embeddings:
        if "embed_tokens.weight" in found.values():
            found = {name: plain for name, plain in found.items() if plain != "lm_head.weight"}  # a copy
        to_ours["lm_head.weight"] = "tok_embeddings.weight"

    def tensors() -> Iterator[tuple[str, Stored]]:
        for theirs, tensor in open_tensors(paths, found.__contains__):
            name = to_ours.get(found[theirs], theirs)
            n_heads = rotated_heads(name, ours)
            if n_heads and tensor.shape and tensor.shape[0] % (2 * n_heads) == 0:  # else an error that ``fill`` tells
                tensor = _interleaved(tensor, tensor.shape[0] // n_heads)
            yield name, tensor

    return Checkpoint(ours, first_dtype(paths, found.__contains__), tensors)


def _interleaved(tensor: Stored, head_dim: int) -> LazyTensor:
    """Return a tensor of which each part that is read, of whole heads, comes in the order of Meta's."""

    def read(where: Where) -> Tensor:
        part = tensor[where]
        return to_interleaved(part, part.size(0) // head_dim)

    return LazyTensor(tensor.shape, read)


def plain_name(name: str) -> str:
    """Return a name of theirs without wrappers and without the ``model.`` that the bare model leaves out."""
    return re.sub(r"^(model\.)+", "", without_wrappers(name))


def _has_two_matrices(found: dict[str, str], paths: list[Path], folder: Path) -> bool:
    """Say whether embedding and output differ, though the config ties them."""
    pair = [name for name, plain in found.items() if plain in ("embed_tokens.weight", "lm_head.weight")]
    if len(pair) < 2:
        return False
    first, second = (tensor for _, tensor in read_tensors(paths, pair.__contains__))
    if first.shape == second.shape and bool((first == second).all()):
        return False
    warnings.warn(
        f"{folder / 'config.json'} says that embedding and output are one matrix, but the weights have two different "
        f"ones; both are kept, as in the transformers library (tie_embeddings=False)",
        stacklevel=2,
    )
    return True


def write_huggingface(model: Llama, folder: Path, tokenizer: TextCodec | None, *, max_shard_bytes: int) -> None:
    """Write a model to an existing folder, in as many files as its size asks for."""
    config = config_to_huggingface(model.config)
    config["torch_dtype"] = str(model.tok_embeddings.weight.dtype).removeprefix("torch.")
    # Left out, they would mean 1 and 2: generation would stop at token 2.
    config |= token_ids(model, tokenizer)
    parameters = base_tensors(model)
    their_names = names(model.config)
    shards = _shards(parameters, max_shard_bytes)
    index = {}
    for i, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in shard:
            n_heads = rotated_heads(name, model.config)
            weight = parameters[name].detach()
            tensors[their_names[name]] = to_half_split(weight, n_heads) if n_heads else weight
        write_safetensors(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        content = {"metadata": {"total_size": sum(p.nbytes for p in parameters.values())}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(content, indent=2), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    write_generation_config(model, tokenizer, folder)
    if tokenizer:
        write_for_transformers(tokenizer, folder, max_seq_len=model.config.max_seq_len)


def rotated_heads(name: str, config: LlamaConfig) -> int:
    """Return how many heads a q or k tensor has, 0 for all others."""
    return {"wq": config.n_heads, "wk": config.n_kv_heads}.get(name.split(".")[-2] if "." in name else "", 0)


def _shards(parameters: dict[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Divide the names, in order, into groups of at most ``max_bytes`` (or of one tensor that is larger)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, parameter in parameters.items():
        if shards[-1] and size + parameter.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += parameter.nbytes
    return shards


def has_weights(folder: Path) -> bool:
    """Say whether a folder has weights under the transformers library's names."""
    return any((folder / name).exists() for name in WEIGHTS)


def _weight_files(folder: Path) -> list[Path]:
    source = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if source is None:
        raise ValueError(f"{folder} has a config.json but none of {', '.join(WEIGHTS)}; is the download complete?")
    if source.suffix != ".json":
        return [source]
    weight_map = read_json(source).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{source} has no weight_map; download it again")
    kind = "safetensors" if source.name == INDEX else "bin"
    if wrong := [name for name in weight_map.values() if not re.fullmatch(rf"[\w.-]+\.{kind}", str(name))]:
        raise ValueError(f"{source} names {wrong[0]!r}, which is no {kind} file; download it again")
    return [folder / name for name in sorted(set(weight_map.values()))]
