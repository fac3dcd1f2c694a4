"""Meta's folders: ``params.json`` and ``consolidated.NN.pth``, one file per model-parallel rank."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.checkpoint.reading import checked, load_torch, without_wrappers
from llama_minimal.checkpoint.tensors import Checkpoint, Named, naming
from llama_minimal.config import LlamaConfig, RopeScaling, ffn_width, read_json
from llama_minimal.model import Llama, build

EXTRA = "llama_minimal.json"  # beside params.json: what that cannot say of a model of ours
# Which axis of a weight (out, in) Meta's model parallelism cuts; norms are whole on every rank.
_CUT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1}
_LLAMA3_THETA = 500_000.0
_SCALING = {"rope_scaling_factor": "factor", "rope_high_freq_factor": "high_freq_factor"}


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
    ranks = [_read(path) for path in paths]
    kinds = [{name: (tensor.shape, tensor.dtype) for name, tensor in rank.items()} for rank in ranks]
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError(f"the consolidated.NN.pth files in {folder} hold different tensors; get them again")
    params = read_json(folder / "params.json")
    if (folder / EXTRA).exists():
        params |= read_json(folder / EXTRA)
    with naming(folder / "params.json"):
        config = config_from_params(params, vocab_size=_vocab_size(ranks, params, paths[0]))
    _check_ranks(ranks[0], len(ranks), config, folder)
    shapes = {name: tuple(p.shape) for name, p in build(config, device="meta").named_parameters()}
    config = config.replace(tie_embeddings=_are_tied(ranks, config, folder))
    unused = ("rope.freqs", "output.weight") if config.tie_embeddings else ("rope.freqs",)

    def tensors() -> Named:
        for name in ranks[0]:
            if not name.endswith(unused):
                yield name, _join(folder / name, [rank[name] for rank in ranks], shapes.get(name))

    return Checkpoint(config, ranks[0]["tok_embeddings.weight"].dtype, tensors)


def _check_ranks(rank: dict[str, Tensor], n_ranks: int, config: LlamaConfig, folder: Path) -> None:
    # Where a file is missing, all tensors would seem to have a wrong shape.
    rows = rank.get("layers.0.attention.wq.weight", torch.empty(0)).shape[:1].numel()
    n_needed = config.dim // rows if rows and config.dim % rows == 0 else n_ranks
    if n_needed > n_ranks:
        raise ValueError(f"{folder} has {n_ranks} of {n_needed} files consolidated.NN.pth; is the download complete?")


def config_from_params(values: dict[str, Any], *, vocab_size: int) -> LlamaConfig:
    """Translate a ``params.json``.

    It does not say everything. What is left out is what was published with a model of these values: how far
    ``use_scaled_rope`` stretches, and how long the context is.

    Args:
        vocab_size: what the weights say; the file of LLaMA-1 and -2 says −1.

    Raises:
        ValueError: if it lacks a size or has a field that we do not know.
    """
    values = {name: value for name, value in values.items() if value is not None}
    if missing := [name for name in ("dim", "n_layers", "n_heads") if name not in values]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    multiple_of, multiplier = values.pop("multiple_of", 256), values.pop("ffn_dim_multiplier", 1.0)
    for name, value in (("dim", values["dim"]), ("multiple_of", multiple_of), ("ffn_dim_multiplier", multiplier)):
        if not isinstance(value, int | float) or not 0 < value < 1e9:
            raise ValueError(f"{name}={value!r} must be a positive number")
    if quantized := values.get("quantization_args"):
        raise ValueError(f"quantization_args={quantized!r}: get a version that is not quantized")
    scaled = values.pop("use_scaled_rope", False)
    # The latest code of Meta's can say by how much; else it follows from the shape.
    factors = {ours: values.pop(theirs) for theirs, ours in _SCALING.items() if theirs in values}
    values.pop("max_batch_size", None)  # of the cache in Meta's code
    defaults = {"hidden_dim": ffn_width(values["dim"], multiple_of=multiple_of, multiplier=multiplier)}
    if scaled:
        defaults["rope_theta"] = _LLAMA3_THETA  # the default of the code that knows this field
    config = LlamaConfig.from_dict(defaults | values | {"vocab_size": vocab_size})
    if scaled:
        config = config.replace(rope_scaling=replace(_scaling(config), **factors))
    return config if "max_seq_len" in values else config.replace(max_seq_len=_published_context(config))


def config_to_params(config: LlamaConfig) -> dict[str, Any]:
    """Translate to a ``params.json`` that Meta's code of the model's generation reads.

    Meta's code refuses fields that it does not know, so those that came later are written only where they are
    needed: ``n_kv_heads`` and ``ffn_dim_multiplier`` with LLaMA-2, ``rope_theta`` with Code Llama,
    ``use_scaled_rope`` with Llama 3.1.

    Raises:
        ValueError: if a switch has a value that Meta's code does not know.
    """
    other = not_expressible(config) + [f"{n}={getattr(config, n)!r}" for n in ("bias", "labels") if getattr(config, n)]
    if config.head_dim * config.n_heads != config.dim:
        other.append(f"head_dim={config.head_dim} with dim={config.dim} and n_heads={config.n_heads}")
    if config.rope_scaling not in (None, _scaling(config)):
        other.append(f"rope_scaling={config.rope_scaling}")
    if other:
        raise ValueError(f"Meta's format has no {', '.join(other)}; save with format='native'")
    params = {name: getattr(config, name) for name in ("dim", "n_layers", "n_heads", "vocab_size", "norm_eps")}
    if config.n_kv_heads != config.n_heads:
        params["n_kv_heads"] = config.n_kv_heads
    params |= _width_to_params(config)
    if config.rope_theta != 10_000.0 or config.rope_scaling:
        params["rope_theta"] = config.rope_theta
    return params | ({"use_scaled_rope": True} if config.rope_scaling else {})


def _width_to_params(config: LlamaConfig) -> dict[str, Any]:
    # Where a multiple alone gives the width, LLaMA's own code can read it, which knows no multiplier.
    for multiple_of in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if ffn_width(config.dim, multiple_of=multiple_of) == config.hidden_dim:
            return {"multiple_of": multiple_of}
    # Half more than the quotient survives rounding down.
    return {"multiple_of": 1, "ffn_dim_multiplier": (config.hidden_dim + 0.5) / int(2 * 4 * config.dim / 3)}


def _is_small_llama32(config: LlamaConfig) -> bool:
    # 1B and 3B, to be known by their shape alone: tied, and scaled by another factor than all others.
    return (config.dim, config.n_layers, config.n_heads) in ((2048, 16, 32), (3072, 28, 24))


def _scaling(config: LlamaConfig) -> RopeScaling:
    return RopeScaling(kind="llama3", factor=32.0 if _is_small_llama32(config) else 8.0)


def _published_context(config: LlamaConfig) -> int:
    """Return the context with which Meta published a model of these values, which ``params.json`` leaves out."""
    if config.rope_scaling:
        return 131_072  # Llama 3.1, 3.2, 3.3
    if config.rope_theta != 10_000.0:
        return {_LLAMA3_THETA: 8192, 1_000_000.0: 16_384}.get(config.rope_theta, 2048)  # Llama 3, Code Llama
    # LLaMA's norms have an epsilon of 1e-6, LLaMA-2's of 1e-5; so has LLaMA-65B, but without grouped queries.
    is_65b = config.dim == 8192 and config.n_kv_heads == config.n_heads
    return 4096 if config.norm_eps == 1e-5 and not is_65b else 2048


def _is_llama3(config: LlamaConfig) -> bool:
    return config.rope_theta == _LLAMA3_THETA or config.rope_scaling is not None


def write_meta(model: Llama, folder: Path, *, n_shards: int) -> None:
    """Write a model to an existing folder, cut for ``n_shards`` model-parallel ranks.

    Raises:
        ValueError: if a matrix cannot be cut evenly.
    """
    params = config_to_params(model.config)
    for name in ("n_kv_heads", "hidden_dim", "dim", "vocab_size"):
        if getattr(model.config, name) % n_shards:
            raise ValueError(f"{name}={getattr(model.config, name)} cannot be cut into n_shards={n_shards} equal parts")
    # Tied embeddings under both names, as Meta's code wants them.
    weights = {name: weight for name, weight in model.state_dict().items() if ".adapters." not in name}
    # LLaMA-1 and -2 cut the width of the embedding, Llama 3 its vocabulary.
    axes = _CUT | {"tok_embeddings": 0 if _is_llama3(model.config) else 1}
    for rank in range(n_shards):
        shard = {
            name: _slice(weight, axes.get(name.split(".")[-2]), rank, n_shards) for name, weight in weights.items()
        }
        path = folder / f"consolidated.{rank:02d}.pth"
        try:
            torch.save(shard, path)
        except RuntimeError as error:  # the library's name for a full disk, too
            raise OSError(f"could not write {path.name}: {error}") from None
    (folder / "params.json").write_text(json.dumps(params, indent=2), encoding="utf-8")
    extra: dict[str, Any] = {}
    if model.config.max_seq_len != _published_context(model.config):
        extra["max_seq_len"] = model.config.max_seq_len
    if model.config.tie_embeddings and not _is_small_llama32(model.config):
        extra["tie_embeddings"] = True
    if extra:
        (folder / EXTRA).write_text(json.dumps(extra, indent=2), encoding="utf-8")


def _slice(weight: Tensor, axis: int | None, rank: int, n_shards: int) -> Tensor:
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


def _read(path: Path) -> dict[str, Tensor]:
    rank = {without_wrappers(name): checked(tensor, name, path) for name, tensor in load_torch(path).items()}
    if rank.get("tok_embeddings.weight", torch.empty(0)).ndim != 2:
        raise ValueError(f"{path} lacks the matrix tok_embeddings.weight; is it a LLaMA checkpoint?")
    return rank


def _vocab_size(ranks: list[dict[str, Tensor]], params: dict[str, Any], path: Path) -> int:
    """Return how many tokens the weights know; the output is cut by rows, the embedding by rows or columns."""
    output = ranks[0].get("output.weight")
    if output is not None and output.ndim != 2:
        raise ValueError(f"{path} has an output.weight that is no matrix; is it a LLaMA checkpoint?")
    embedding = ranks[0]["tok_embeddings.weight"]
    by_rows = output is not None or embedding.size(1) == params.get("dim")
    return (embedding if output is None else output).size(0) * (len(ranks) if by_rows else 1)


def _are_tied(ranks: list[dict[str, Tensor]], config: LlamaConfig, folder: Path) -> bool:
    """Say whether output and embedding are one matrix; where they are, Meta's files hold it twice or once."""
    if "output.weight" not in ranks[0]:
        return True
    if not config.tie_embeddings and not _is_small_llama32(config):
        return False
    output = torch.cat([rank["output.weight"] for rank in ranks])
    slices = [rank["tok_embeddings.weight"] for rank in ranks]
    embedding = torch.cat(slices, dim=0 if slices[0].size(1) == config.dim else 1)
    equal = output.shape == embedding.shape and bool((output == embedding).all())
    if config.tie_embeddings and not equal:
        warnings.warn(
            f"{folder / EXTRA} says that embedding and output are one matrix, but the weights have two different "
            f"ones; both are kept (tie_embeddings=False)",
            stacklevel=2,
        )
    return equal
