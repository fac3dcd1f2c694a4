"""GGUF files, which llama.cpp and the programs around it read: a model and its tokenizer in one file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from llama_minimal.checkpoint.gguf_keys import DIVISORS, check_config, gguf_name, model_values, rope_divisors
from llama_minimal.checkpoint.gguf_tokenizer import tokenizer_values
from llama_minimal.files import made_folder, replace_files
from llama_minimal.inputs import vocabulary_of
from llama_minimal.lora import adapters, base_tensors, is_merged
from llama_minimal.model import Llama
from llama_minimal.quantization import quantization_of
from llama_minimal.reference.gguf import BLOCK, pack_q4_0, pack_q8_0, to_q4_0, to_q8_0
from llama_minimal.tokenizer import TextCodec

NumberType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
_USUAL: dict[torch.dtype, NumberType] = {torch.float16: "f16", torch.bfloat16: "bf16"}  # others: f32
# Their number in the list of file types, which programs show.
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
_BLOCK_LAYOUT = 2  # version of the layout of quantized blocks


def save_gguf(
    model: Llama, path: str | Path, tokenizer: TextCodec | None = None, *, number_type: NumberType | None = None
) -> None:
    """Write a model and its tokenizer as one GGUF file; a former file is replaced when all is written.

    Matrices get the type that is asked for; norms, biases and rotary divisors stay in float32. The blocks of ``q8_0``
    and ``q4_0`` hold 32 numbers of a row: matrices whose rows are no multiple of that are kept in ``f16``.

    Args:
        path: the file, such as ``model.gguf``.
        tokenizer: most programs need one; without, the file holds the model alone.
        number_type: f32, f16, bf16, q8_0 or q4_0; None means the model's own.

    Raises:
        ImportError: if the library ``gguf`` is not installed.
        ValueError: if the format cannot hold the model or its tokenizer; the message says why.
        OSError: if the file cannot be written.

    Source: the specification, docs/gguf.md of ggml, and what llama.cpp reads.
    """
    first = next(model.parameters())
    kind = number_type or _USUAL.get(first.dtype, "f32")
    if kind not in get_args(NumberType):
        raise ValueError(f"number_type={kind!r} is not one of {', '.join(get_args(NumberType))}")
    _check(model)
    library = _library()
    values = {"general.file_type": _FILE_TYPES[kind], "general.quantization_version": _BLOCK_LAYOUT}
    values |= {f"llama.{key}": value for key, value in model_values(model.config).items()}
    values |= {f"tokenizer.{key}": value for key, value in tokenizer_values(tokenizer, model).items()}
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file, such as {path / 'model.gguf'}")
    # The library opens the file by its temporary name.
    with made_folder(path.parent), replace_files(path) as (file,):
        writer = library.GGUFWriter(file.name, "llama")
        try:
            for key, value in values.items():
                _add(writer, key, value)
            _write_tensors(writer, library, model, kind)
        finally:
            writer.close()


def _check(model: Llama) -> None:
    check_config(model.config)
    if next(model.parameters()).is_meta:
        raise ValueError("a model on the meta device holds no numbers to save")
    if how := quantization_of(model):
        raise ValueError(
            f"GGUF has no place for weights in {how.scheme}; load the original, and write it with number_type='q8_0'"
        )
    if vocabulary := vocabulary_of(model):
        raise ValueError(f"a GGUF file has no place for what a model reads beside text: {', '.join(vocabulary.inputs)}")
    if beside := () if is_merged(model) else adapters(model):
        raise ValueError(f"a GGUF file has no place for adapters ({', '.join(beside)}); merge them first")


def _add(writer: Any, key: str, value: Any) -> None:
    # Python's bool is an int, too: the dictionary is asked by the very type.
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def _tensors(model: Llama, kind: NumberType) -> Iterator[tuple[str, Tensor, NumberType]]:
    """Yield (name in the file, tensor, type of its numbers). q and k stand in pairs there, as here."""
    if (divisors := rope_divisors(model.config)) is not None:
        yield DIVISORS, divisors, "f32"
    for name, tensor in base_tensors(model).items():  # a tied matrix once: without "output.weight" it is the embedding
        if tensor.ndim == 1:
            yield gguf_name(name), tensor, "f32"
        else:
            whole_blocks = not kind.startswith("q") or tensor.size(1) % BLOCK == 0
            yield gguf_name(name), tensor, kind if whole_blocks else "f16"


def _write_tensors(writer: Any, library: Any, model: Llama, kind: NumberType) -> None:
    """Write first what tensors there are, then their numbers, with one tensor more in memory at a time."""
    for name, tensor, own in _tensors(model, kind):
        block, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[own.upper()]]
        kept = library.GGMLQuantizationType[own.upper()]
        # Not uint8, of which the library would take the shape for one of bytes.
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.void), tensor.numel() // block * size, kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor, own in _tensors(model, kind):
        writer.write_tensor_data(_encoded(tensor.detach().cpu(), own, name))


def _encoded(tensor: Tensor, kind: NumberType, name: str) -> np.ndarray:
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; mend the model first")
    if kind == "bf16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    array = tensor.float().contiguous().numpy()
    if kind == "f32":
        return array
    if kind == "q8_0":
        return pack_q8_0(*to_q8_0(array))
    if kind == "q4_0":
        return pack_q4_0(*to_q4_0(array))
    if (largest := np.abs(array).max()) > np.finfo(np.float16).max:
        raise ValueError(f"{name} has numbers up to {largest:g}, more than float16 holds (65504); use f32 or bf16")
    return array.astype(np.float16)


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise ImportError("writing GGUF needs the library gguf: pip install 'llama_minimal[gguf]'") from None
    return gguf
