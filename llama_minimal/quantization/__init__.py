"""Quantization: weights in 8 or 4 bits instead of 32, in memory, on disk, and on their way to the processor."""

from llama_minimal.quantization.gptq import gptq, second_moment
from llama_minimal.quantization.layers import QuantizedLinear
from llama_minimal.quantization.rounding import (
    from_codes,
    pack_int4,
    rounding_error,
    symmetric_grid,
    to_codes,
    unpack_int4,
    zero_point_grid,
)
from llama_minimal.quantization.schemes import SCHEMES, FP8Linear, Int4Linear, Int8Linear
from llama_minimal.quantization.whole_model import (
    Quantization,
    QuantizedEmbedding,
    expect_quantized,
    quantization_of,
    quantize,
    quantized_layers,
    quantized_tensors,
    refuse_quantized,
    weight_bytes,
)

__all__ = [
    "SCHEMES",
    "FP8Linear",
    "Int4Linear",
    "Int8Linear",
    "Quantization",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "expect_quantized",
    "from_codes",
    "gptq",
    "pack_int4",
    "quantization_of",
    "quantize",
    "quantized_layers",
    "quantized_tensors",
    "refuse_quantized",
    "rounding_error",
    "second_moment",
    "symmetric_grid",
    "to_codes",
    "unpack_int4",
    "weight_bytes",
    "zero_point_grid",
]
