"""LLaMA in NumPy, forward and backward by hand.

Every function is the formula of one chapter. ``f(...)`` computes it, and ``f_vjp(...)`` returns
``(out, backward)``: ``backward(d_out)`` gives the gradients in the order of ``f``'s arguments, a tuple or,
where only one argument has a gradient, a bare array. Integers, masks, tables and eps have no gradient and no
place in the tuple; a bias left out as None has the gradient None. A dictionary of parameters gets a dictionary
of gradients. Everything is computed in the dtype of its inputs.
"""

from llama_minimal.reference.attention import (
    attention,
    attention_vjp,
    causal_mask,
    document_mask,
    document_positions,
    merge_heads,
    merge_heads_vjp,
    softmax,
    softmax_vjp,
    split_heads,
    split_heads_vjp,
)
from llama_minimal.reference.block import (
    attention_block,
    attention_block_vjp,
    block,
    block_vjp,
    feed_forward,
    feed_forward_vjp,
    normalize,
    normalize_vjp,
)
from llama_minimal.reference.compose import add_gradients, bind, chain, named, residual
from llama_minimal.reference.embedding import embedding, embedding_vjp
from llama_minimal.reference.feedforward import (
    gelu,
    gelu_ffn,
    gelu_ffn_vjp,
    gelu_vjp,
    linear,
    linear_vjp,
    relu,
    relu_ffn,
    relu_ffn_vjp,
    relu_vjp,
    silu,
    silu_vjp,
    swiglu,
    swiglu_vjp,
)
from llama_minimal.reference.generation import generate
from llama_minimal.reference.lora import lora_linear, lora_linear_vjp, lora_update, lora_update_vjp
from llama_minimal.reference.loss import chunked_loss, chunked_loss_vjp, next_token_loss, next_token_loss_vjp
from llama_minimal.reference.mixed_precision import decode_float, encode_float, round_float, store_float8
from llama_minimal.reference.model import init_params, llama, llama_vjp, loss_and_gradients, parameter_shapes
from llama_minimal.reference.normalization import layer_norm, layer_norm_vjp, rms_norm, rms_norm_vjp
from llama_minimal.reference.optim import adamw_step, clip_gradients, muon_step, orthogonalize
from llama_minimal.reference.positions import (
    apply_rope,
    apply_rope_vjp,
    rope_frequencies,
    rope_table,
    sinusoidal_table,
)
from llama_minimal.reference.quantization import (
    from_codes,
    pack_int4,
    rounding_error,
    symmetric_grid,
    to_codes,
    unpack_int4,
    zero_point_grid,
)

__all__ = [
    "adamw_step",
    "add_gradients",
    "apply_rope",
    "apply_rope_vjp",
    "attention",
    "attention_block",
    "attention_block_vjp",
    "attention_vjp",
    "bind",
    "block",
    "block_vjp",
    "causal_mask",
    "chain",
    "chunked_loss",
    "chunked_loss_vjp",
    "clip_gradients",
    "decode_float",
    "document_mask",
    "document_positions",
    "embedding",
    "embedding_vjp",
    "encode_float",
    "feed_forward",
    "feed_forward_vjp",
    "from_codes",
    "gelu",
    "gelu_ffn",
    "gelu_ffn_vjp",
    "gelu_vjp",
    "generate",
    "init_params",
    "layer_norm",
    "layer_norm_vjp",
    "linear",
    "linear_vjp",
    "llama",
    "llama_vjp",
    "lora_linear",
    "lora_linear_vjp",
    "lora_update",
    "lora_update_vjp",
    "loss_and_gradients",
    "merge_heads",
    "merge_heads_vjp",
    "muon_step",
    "named",
    "next_token_loss",
    "next_token_loss_vjp",
    "normalize",
    "normalize_vjp",
    "orthogonalize",
    "pack_int4",
    "parameter_shapes",
    "relu",
    "relu_ffn",
    "relu_ffn_vjp",
    "relu_vjp",
    "residual",
    "rms_norm",
    "rms_norm_vjp",
    "rope_frequencies",
    "rope_table",
    "round_float",
    "rounding_error",
    "silu",
    "silu_vjp",
    "sinusoidal_table",
    "softmax",
    "softmax_vjp",
    "split_heads",
    "split_heads_vjp",
    "store_float8",
    "swiglu",
    "swiglu_vjp",
    "symmetric_grid",
    "to_codes",
    "unpack_int4",
    "zero_point_grid",
]
