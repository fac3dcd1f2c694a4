"""Load and save models: Hugging Face folders, Meta folders, and the package's own."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from llama_minimal.checkpoint.adapters import find_adapter, load_adapter, save_adapter
from llama_minimal.checkpoint.building import Format, build_empty, choose_format
from llama_minimal.checkpoint.gguf import save_gguf
from llama_minimal.checkpoint.huggingface import INDEX, has_weights, open_huggingface, write_huggingface
from llama_minimal.checkpoint.huggingface_config import config_from_huggingface, not_expressible
from llama_minimal.checkpoint.meta import EXTRA, open_meta, write_meta
from llama_minimal.checkpoint.native import MODEL_TYPE, open_native, write_native
from llama_minimal.checkpoint.rounding import rounded
from llama_minimal.checkpoint.sharded import PARTS
from llama_minimal.checkpoint.tensors import Checkpoint, Slots, fill, slots_of
from llama_minimal.checkpoint.text_side import GENERATION, TOKENIZER_FILES, read_end_ids, write_generation_config
from llama_minimal.config import LlamaConfig, read_json
from llama_minimal.config.checks import is_number
from llama_minimal.files import refuse_pointer, update_folder
from llama_minimal.model import Llama
from llama_minimal.quantization import Quantization, check_steps
from llama_minimal.quantization import quantize as quantize_model
from llama_minimal.settings import Scheme
from llama_minimal.tokenizer import TextCodec, load_tokenizer
from llama_minimal.tokenizer.companions import Companions

__all__ = [
    "COURSE",
    "companions_of",
    "load",
    "load_adapter",
    "not_expressible",
    "open_checkpoint",
    "read_config",
    "save",
    "save_adapter",
    "save_gguf",
]

COURSE = Path(__file__).parents[1] / "course" / "model"  # what load("course") means
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_MODEL_FILES = ("config.json", "params.json", "model.safetensors", "model-*-of-*.safetensors", INDEX)
_MODEL_FILES += ("consolidated.*.pth", EXTRA, GENERATION, PARTS)
_FROM_HUB = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_OTHER_WEIGHTS = ("pytorch_model*.bin", "consolidated.*.pth")  # of repositories without safetensors


def load(
    path_or_id: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    max_seq_len: int | None = None,
    adapter: str | Path | None = None,
    quantize: Scheme | Quantization | None = None,
    place: Callable[[Llama], Slots] | None = None,
) -> tuple[Llama, TextCodec | None]:
    """Load a model and its tokenizer, whatever the format.

    The model is built without memory and filled tensor by tensor, so that the peak is the model and one
    tensor more.

    Args:
        path_or_id: a folder (of the transformers library, of Meta, of a training run, or a snapshot), or the
            id of a model on the Hugging Face hub, such as ``"org/name"``. ``"course"`` is the small model that is
            shipped with this package; it writes stories from the Llama Valley.
        dtype: None keeps the dtype of the file; float32, bfloat16, float16 or float64, also as text.
        max_seq_len: another context than the checkpoint's own.
        adapter: folder of an adapter to load onto the model, see ``load_adapter``; or the name of one that comes with
            the model, in its folder ``adapters``.
        quantize: keep the matrices in so few bits, as ``quantize`` does; one at a time is in memory as it was.
        place: gives memory to a model that has none yet, in place: several devices, or this process's part. It
            returns what to fill; of the rest nothing is read. None means all, on ``device``.

    Returns:
        The model, and its tokenizer or None if the folder has none. Both know as ``eos_ids`` the tokens that end a
        text by generation_config.json, else by config.json, else by the tokenizer.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the checkpoint is damaged, incomplete or of another architecture, or the adapter not its own.
    """
    folder = _find(path_or_id)
    for path in sorted(folder.iterdir()):
        refuse_pointer(path)
    checkpoint = open_checkpoint(folder)
    is_said = quantize is None or isinstance(quantize, Quantization)
    how = quantize if is_said else Quantization(scheme=quantize)
    if how is not None and adapter is None:
        checkpoint = rounded(checkpoint, how, folder, dtype=dtype)
    config = checkpoint.config if max_seq_len is None else checkpoint.config.replace(max_seq_len=max_seq_len)
    tokenizer = _find_tokenizer(folder)
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        warnings.warn(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, but the model has embeddings for only "
            f"{config.vocab_size}: prompts with ids from {config.vocab_size} on will be refused",
            stacklevel=2,
        )
    model = build_empty(checkpoint, config, device="meta" if place else device, dtype=dtype)
    slots = slots_of(model)
    if place is not None:
        slots = dict.fromkeys(slots) | place(model)
    fill(slots, checkpoint.tensors(), folder)
    check_steps(model, folder)
    model.eos_ids = read_end_ids(folder, vocab_size=config.vocab_size)
    if tokenizer and model.eos_ids:
        tokenizer.eos_ids = model.eos_ids
    if adapter is not None:
        load_adapter(model, find_adapter(folder, adapter))
        if how is not None:  # only now: an adapter belongs to the weights as they were
            quantize_model(model, dtype=dtype or torch.bfloat16, **how.to_dict())
    return model.eval(), tokenizer


def read_config(path_or_id: str | Path) -> LlamaConfig:
    """Return a model's config from whatever ``load`` takes; of a model on the hub no weights are downloaded.

    Raises:
        FileNotFoundError, ValueError: as ``load``.
    """
    folder = _find(path_or_id, files=("config.json",))
    if Path(path_or_id).is_dir() or path_or_id == "course":
        return open_checkpoint(folder).config
    return config_from_huggingface(read_json(folder / "config.json"))


def companions_of(path_or_id: str | Path) -> Companions:
    """Return the files beside the tokenizer of a model, which may be there without one: of whatever ``load`` takes."""
    return Companions.read(_find(path_or_id))


def save(
    model: Llama,
    folder: str | Path,
    tokenizer: TextCodec | None = None,
    *,
    format: Format = "auto",
    max_shard_bytes: int = 5_000_000_000,
    n_shards: int = 1,
) -> None:
    """Save a model and its tokenizer; what was in the folder is replaced only when all is written.

    Args:
        format: ``huggingface``, ``meta`` or ``native``; ``auto`` is huggingface, or native for a model with
            switches that the transformers library does not know, with adapters beside its weights, or a quantized one.
        max_shard_bytes: size of a file in the huggingface format.
        n_shards: files in the meta format, one per model-parallel rank.

    Raises:
        ValueError: if the format cannot express the model.
        OSError: if the disk is full or the folder not writable; the folder is then as it was.
    """
    if not str(folder):
        raise ValueError("the name of the folder is empty; give one, or '.' for the current folder")
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder")
    if next(model.parameters()).is_meta:
        raise ValueError("a model on the meta device holds no numbers to save")
    format = choose_format(model, format)
    for name, value in (("max_shard_bytes", max_shard_bytes), ("n_shards", n_shards)):
        if not is_number(value) or not 1 <= value < float("inf") or int(value) != value:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    last = "params.json" if format == "meta" else "config.json"
    obsolete = (*_MODEL_FILES, *TOKENIZER_FILES) if tokenizer else _MODEL_FILES
    with update_folder(folder, last=last, obsolete=obsolete) as temporary:
        if tokenizer:
            tokenizer.save(temporary)
        if format == "huggingface":
            write_huggingface(model, temporary, tokenizer, max_shard_bytes=max_shard_bytes)
        elif format == "meta":
            write_meta(model, temporary, n_shards=int(n_shards))
        else:
            write_native(model, temporary)
        if model.eos_ids and not (temporary / GENERATION).exists():
            write_generation_config(model, tokenizer, temporary)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find out a folder's format and open it.

    Raises:
        ValueError: if the folder holds no model, or a damaged one.
    """
    if _is_meta(folder):
        return open_meta(folder)
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} has neither config.json (Hugging Face, llama_minimal) nor params.json (Meta); "
            f"is it the folder of a model?"
        )
    config = read_json(folder / "config.json")
    return (open_native if config.get("model_type") == MODEL_TYPE else open_huggingface)(folder, config)


def _is_meta(folder: Path) -> bool:
    # A folder with both kinds of config is what its weights are; one with both kinds of weights is transformers'.
    is_huggingface = (folder / "config.json").exists() and has_weights(folder)
    return (folder / "params.json").exists() and not is_huggingface


def _find(path_or_id: str | Path, *, files: tuple[str, ...] = _FROM_HUB) -> Path:
    """Return the folder of a model: as given, its newest snapshot if training is not done, or downloaded."""
    # The name of the shipped model goes before a folder of that name, which can be written ./course.
    folder = COURSE if path_or_id == "course" else Path(path_or_id).expanduser()
    if not str(path_or_id):
        raise ValueError("the name of the folder is empty; give one, or '.' for the current folder")
    if folder.is_dir():
        saved = sorted(path.parent for path in (folder / "snapshots").glob("step-*/config.json"))
        return saved[-1] if saved and not (folder / "config.json").exists() else folder
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds the model")
    # A hub id is owner/name; whoever writes ./name or /name means a path.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(path_or_id)):
        raise FileNotFoundError(f"there is no folder {path_or_id}; give a folder, or a hub id such as org/name")
    folder = _download(str(path_or_id), files)
    if files == _FROM_HUB and not any(folder.glob("*.safetensors")):
        # Older repositories hold their weights in pickled files alone, of which we run nothing.
        folder = _download(str(path_or_id), (*files, *_OTHER_WEIGHTS))
    return folder


def _download(hub_id: str, files: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError(
            f"there is no folder {hub_id}; to download it from the hub, run: pip install 'llama_minimal[hub]'"
        ) from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(f"there is no folder {hub_id}, and the hub did not give it: {reason}") from None


def _find_tokenizer(folder: Path) -> TextCodec | None:
    # Meta keeps one tokenizer for all sizes in the parent; a snapshot's is in the folder of its run.
    places = [folder]
    if _is_meta(folder):
        places.append(folder.parent)
    if folder.parent.name == "snapshots":
        places.append(folder.parent.parent)
    found = [place for place in places if any((place / name).exists() for name in _TOKENIZERS)]
    return load_tokenizer(found[0]) if found else None
