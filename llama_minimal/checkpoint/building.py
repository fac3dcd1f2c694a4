"""A model that waits for the numbers of a checkpoint, and the format that can hold those of a model."""

from typing import Literal

import torch

from llama_minimal.checkpoint.adapters import add_stored_adapters
from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.checkpoint.tensors import Checkpoint
from llama_minimal.config import LlamaConfig
from llama_minimal.devices import find_device
from llama_minimal.inputs import add_inputs, vocabulary_of
from llama_minimal.lora import adapters, is_merged
from llama_minimal.model import Llama, build
from llama_minimal.quantization import expect_quantized, quantization_of

Format = Literal["auto", "huggingface", "meta", "native"]


def build_empty(
    checkpoint: Checkpoint,
    config: LlamaConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype | str | None,
) -> Llama:
    """Build what a checkpoint is to fill, with memory on the device: quantized layers, adapters and inputs included.

    Args:
        dtype: None means the checkpoint's.
    """
    how = checkpoint.quantization
    model = build(config, device="meta" if how else device, dtype=dtype or checkpoint.dtype, seed=None)
    if checkpoint.vocabulary:
        add_inputs(model, checkpoint.vocabulary)
    if how:
        expect_quantized(model, how)
        if str(device) != "meta":
            model.to_empty(device=find_device(device))
    add_stored_adapters(model, checkpoint)
    return model


def choose_format(model: Llama, format: Format) -> Format:
    """Return the format to save a model in.

    Raises:
        ValueError: if the one that was asked for cannot hold it.
    """
    beside = () if is_merged(model) else adapters(model)
    how, vocabulary = quantization_of(model), vocabulary_of(model)
    for name, _ in model.named_parameters():
        if name.endswith("_orig") or "parametrizations." in name:
            raise ValueError(
                f"another weight is computed of {name}, and a checkpoint has weights alone; make it permanent, "
                "by torch.nn.utils.prune.remove or torch.nn.utils.parametrize.remove_parametrizations"
            )
    if format == "auto":
        return "native" if not_expressible(model.config) or beside or how or vocabulary else "huggingface"
    if format not in ("huggingface", "meta", "native"):
        raise ValueError(f"format={format!r} is not one of 'auto', 'huggingface', 'meta', 'native'")
    if beside and format != "native":
        raise ValueError(
            f"format={format!r} has no place for adapters ({', '.join(beside)}); merge them, or use save_adapter"
        )
    if how and format != "native":
        raise ValueError(f"format={format!r} has no place for weights in {how.scheme}; save the model as 'native'")
    if vocabulary and format != "native":
        raise ValueError(
            f"format={format!r} has no place for what the model reads beside text ({', '.join(vocabulary.inputs)}); "
            "save it as 'native'"
        )
    return format
