"""Quantization: weights in 8 or 4 bits instead of 32, in memory, on disk, and on their way to the processor.

From a matrix to a model: grids and codes (``symmetric_grid``, ``zero_point_grid``, ``round_to_grid``), rounding that
looks at the inputs (``gptq``, ``awq``), whole numbers on both sides (``dynamic_linear``), a whole model (``quantize``,
``round_weights``), and its cache (``QuantizedKVCache``).
"""

from llama_minimal.quantization.awq import awq
from llama_minimal.quantization.cache import QuantizedKVCache
from llama_minimal.quantization.config import Quantization
from llama_minimal.quantization.dynamic import dynamic_linear, int_product, outliers
from llama_minimal.quantization.embedding import QuantizedEmbedding
from llama_minimal.quantization.gptq import gptq, second_moment
from llama_minimal.quantization.grids import round_to_grid
from llama_minimal.quantization.layers import QuantizedLinear
from llama_minimal.quantization.matrices import (
    check_steps,
    quantization_of,
    quantized_layers,
    quantized_tensors,
    refuse_quantized,
    weight_bytes,
)
from llama_minimal.quantization.rounding import (
    from_codes,
    pack_int4,
    rounding_error,
    symmetric_grid,
    to_codes,
    unpack_int4,
    zero_point_grid,
)
from llama_minimal.quantization.schemes import SCHEMES, FP8Linear, Int4Linear, Int8DynamicLinear, Int8Linear
from llama_minimal.quantization.whole_model import code_names, expect_quantized, quantize, round_weights

__all__ = [
    "SCHEMES",
    "FP8Linear",
    "Int4Linear",
    "Int8DynamicLinear",
    "Int8Linear",
    "Quantization",
    "QuantizedEmbedding",
    "QuantizedKVCache",
    "QuantizedLinear",
    "awq",
    "check_steps",
    "code_names",
    "dynamic_linear",
    "expect_quantized",
    "from_codes",
    "gptq",
    "int_product",
    "outliers",
    "pack_int4",
    "quantization_of",
    "quantize",
    "quantized_layers",
    "quantized_tensors",
    "refuse_quantized",
    "round_to_grid",
    "round_weights",
    "rounding_error",
    "second_moment",
    "symmetric_grid",
    "to_codes",
    "unpack_int4",
    "weight_bytes",
    "zero_point_grid",
]
