"""Meta's folders: ``params.json`` and ``consolidated.NN.pth``, one file per model-parallel rank."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.checkpoint.tensors import Checkpoint, Named, checked, naming
from llama_minimal.config import LlamaConfig, RopeScaling, ffn_width, read_json
from llama_minimal.model import Llama, build

_SCALED = RopeScaling(kind="llama3", factor=8.0)  # what "use_scaled_rope" means in Meta's code
# Which axis of a weight (out, in) Meta's model parallelism cuts; norms are whole on every rank.
_CUT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1}


def open_meta(folder: Path) -> Checkpoint:
    """Open a folder of Meta's.

    Every rank holds a slice of each matrix. Which axis is cut follows from the shapes: LLaMA-1 and -2 cut the
    embedding by columns, Llama 3 by rows.

    Raises:
        ValueError: if files are missing or damaged, or would run code.
    """
    paths = sorted(folder.glob("consolidated.*.pth"))
    if not paths:
        raise ValueError(f"{folder} has a params.json but no consolidated.NN.pth; is the download complete?")
    ranks = [_read_pth(path) for path in paths]
    kinds = [{name: (tensor.shape, tensor.dtype) for name, tensor in rank.items()} for rank in ranks]
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError(f"the consolidated.NN.pth files in {folder} hold different tensors; get them again")
    if "output.weight" not in ranks[0] or ranks[0]["output.weight"].ndim != 2:
        raise ValueError(f"{paths[0]} lacks the matrix output.weight; is it a LLaMA checkpoint?")
    vocab_size = sum(rank["output.weight"].size(0) for rank in ranks)
    params = read_json(folder / "params.json")
    with naming(folder / "params.json"):
        config = config_from_params(params, vocab_size=vocab_size)
    shapes = {name: tuple(p.shape) for name, p in build(config, device="meta").named_parameters()}

    def tensors() -> Named:
        for name in ranks[0]:
            if not name.endswith("rope.freqs"):
                yield name, _join(folder / name, [rank[name] for rank in ranks], shapes.get(name))

    return Checkpoint(config, ranks[0]["output.weight"].dtype, tensors)


def config_from_params(values: dict[str, Any], *, vocab_size: int) -> LlamaConfig:
    """Translate a ``params.json``.

    Args:
        vocab_size: what the weights say; the file of LLaMA-1 and -2 says −1.

    Raises:
        ValueError: if it lacks a size or has a field that we do not know.
    """
    values = dict(values)
    if missing := [name for name in ("dim", "n_layers", "n_heads") if name not in values]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    multiple_of, multiplier = values.pop("multiple_of", 256), values.pop("ffn_dim_multiplier", None) or 1.0
    for name, value in (("dim", values["dim"]), ("multiple_of", multiple_of), ("ffn_dim_multiplier", multiplier)):
        if not isinstance(value, int | float) or not 0 < value < 1e9:
            raise ValueError(f"{name}={value!r} must be a positive number")
    width = ffn_width(values["dim"], multiple_of=multiple_of, multiplier=multiplier)
    scaled = values.pop("use_scaled_rope", False)
    values["vocab_size"] = vocab_size
    defaults = {"hidden_dim": width, "rope_scaling": _SCALED if scaled else None}
    defaults["max_seq_len"] = _usual_context(values.get("rope_theta"), scaled)
    return LlamaConfig.from_dict(defaults | values)


def config_to_params(config: LlamaConfig) -> dict[str, Any]:
    """Translate to a ``params.json`` that Meta's code reads.

    Raises:
        ValueError: if a switch has a value that Meta's code does not know.
    """
    other = not_expressible(config) + (["bias=True"] if config.bias else [])
    if config.rope_scaling not in (None, _SCALED):
        other.append(f"rope_scaling={config.rope_scaling}")
    if other:
        raise ValueError(f"Meta's format has no {', '.join(other)}; save with format='native'")
    same = ["dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps", "rope_theta"]
    if config.max_seq_len != _usual_context(config.rope_theta, config.rope_scaling):
        same.append("max_seq_len")  # only where it must be: Meta's code takes it from its caller, and refuses it here
    width = {"multiple_of": 256}
    if ffn_width(config.dim) != config.hidden_dim:  # half more than the quotient survives rounding down
        width = {"multiple_of": 1, "ffn_dim_multiplier": (config.hidden_dim + 0.5) / int(2 * 4 * config.dim / 3)}
    scaled = {"use_scaled_rope": True} if config.rope_scaling else {}
    return {name: getattr(config, name) for name in same} | width | scaled


def _usual_context(theta: float | None, scaled: object) -> int:
    # Meta's file does not say how long the context was: LLaMA had 2,048 tokens, Llama 3 8,192, 3.1 131,072.
    return 131_072 if scaled else 8192 if theta == 500_000.0 else 2048


def write_meta(model: Llama, folder: Path, *, n_shards: int) -> None:
    """Write a model to an existing folder, cut for ``n_shards`` model-parallel ranks.

    Raises:
        ValueError: if a matrix cannot be cut evenly.
    """
    params = config_to_params(model.config)
    if n_shards < 1:
        raise ValueError(f"n_shards={n_shards} must be at least 1")
    for name in ("n_kv_heads", "hidden_dim", "dim", "vocab_size"):
        if getattr(model.config, name) % n_shards:
            raise ValueError(f"{name}={getattr(model.config, name)} cannot be cut into n_shards={n_shards} equal parts")
    weights = model.state_dict()  # tied embeddings under both names, as Meta's code wants them
    for rank in range(n_shards):
        shard = {name: _slice(name, weight, rank, n_shards) for name, weight in weights.items()}
        path = folder / f"consolidated.{rank:02d}.pth"
        try:
            torch.save(shard, path)
        except RuntimeError as error:  # the library's name for a full disk, too
            raise OSError(f"could not write {path.name}: {error}") from None
    (folder / "params.json").write_text(json.dumps(params, indent=2), encoding="utf-8")


def _slice(name: str, weight: Tensor, rank: int, n_shards: int) -> Tensor:
    axis = _CUT.get(name.split(".")[-2])
    if axis is None or n_shards == 1:
        return weight.detach()
    return weight.detach().chunk(n_shards, dim=axis)[rank].clone()  # a view would be saved with all its storage


def _join(source: Path, slices: list[Tensor], shape: tuple[int, ...] | None) -> Tensor:
    """Put the ranks' slices together; the axis in which they fall short of ``shape`` is the one that was cut."""
    first = slices[0]
    if shape is None or first.ndim != len(shape) or not first.numel():
        return first  # an error that ``fill`` tells
    cut = [axis for axis in range(first.ndim) if first.size(axis) != shape[axis]]
    n_different = math.prod(shape) // first.numel()
    if len(cut) > 1 or n_different == 0 or len(slices) % n_different:
        return first
    # Neighbors hold the same: the whole, or with more ranks than kv heads the same slice.
    n_same = len(slices) // n_different
    groups = [slices[i : i + n_same] for i in range(0, len(slices), n_same)]
    if first.ndim == 2 and not all(torch.equal(copy, group[0]) for group in groups for copy in group[1:]):
        raise ValueError(f"{source} differs between ranks that share it, by params.json; do the files belong together?")
    return torch.cat([group[0] for group in groups], dim=cut[0]) if cut else first


def _read_pth(path: Path) -> dict[str, Tensor]:
    """Map a file of tensors into memory; nothing that it may contain besides tensors is ever run."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} holds something other than tensors, which was not run ({reason})") from None
    except Exception as error:  # damaged files make the library raise almost anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a whole PyTorch file ({reason}); download it again") from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path} is not a dictionary of named tensors; is it a LLaMA checkpoint?")
    return {name: checked(tensor, name, path) for name, tensor in content.items()}
