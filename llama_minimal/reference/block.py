"""One layer of LLaMA on state-dict names: attention and feed-forward, each with a norm and a residual.

Each function stands before its twin, and both read alike, line by line. ``name`` says where in the state dict
a part's weights are, such as ``"layers.0.attention"``; its gradients come back under the same names.
"""

# B batch, T time, S keys, D model width, H heads, K kv heads, Dh head width

from llama_minimal.config import LlamaConfig
from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.attention import attention, attention_vjp, merge_heads, split_heads
from llama_minimal.reference.compose import Params, add_gradients, bind, chain, named, residual
from llama_minimal.reference.feedforward import (
    gelu_ffn,
    gelu_ffn_vjp,
    linear,
    linear_vjp,
    relu_ffn,
    relu_ffn_vjp,
    swiglu,
    swiglu_vjp,
)
from llama_minimal.reference.normalization import layer_norm, layer_norm_vjp, rms_norm, rms_norm_vjp
from llama_minimal.reference.positions import apply_rope, apply_rope_vjp

Pair = tuple[Array, Array]

NORMS = {"rms": (rms_norm, rms_norm_vjp), "layer": (layer_norm, layer_norm_vjp)}
FEED_FORWARDS = {
    "swiglu": (swiglu, swiglu_vjp),
    "gelu": (gelu_ffn, gelu_ffn_vjp),
    "relu": (relu_ffn, relu_ffn_vjp),
}


def block(
    x: Array,
    params: Params,
    name: str,
    config: LlamaConfig,
    rope: Pair | None = None,
    mask: Array | None = None,
    cache: Pair | None = None,
) -> Array:
    """Apply one layer: attention, then feed-forward, each beside a residual connection.

    ``pre``: x ← x + f(norm(x)), as in LLaMA. ``post``: x ← norm(x + f(x)), as in the first Transformer.
    The arguments are those of ``attention_block``; ``name`` is the layer's, such as ``"layers.0"``.
    """
    attend = bind(attention_block, params, f"{name}.attention", config, rope, mask, cache)
    feed = bind(feed_forward, params, f"{name}.feed_forward", config)
    attention_norm = bind(normalize, params, f"{name}.attention_norm", config)
    ffn_norm = bind(normalize, params, f"{name}.ffn_norm", config)
    if config.norm_placement == "pre":
        x = x + attend(attention_norm(x))
        return x + feed(ffn_norm(x))
    x = attention_norm(x + attend(x))
    return ffn_norm(x + feed(x))


def block_vjp(
    x: Array, params: Params, name: str, config: LlamaConfig, rope: Pair | None = None, mask: Array | None = None
) -> VJP:
    """Return ``block`` and its backward, d_out → (d_x, gradients by name)."""
    attend = bind(attention_block_vjp, params, f"{name}.attention", config, rope, mask)
    feed = bind(feed_forward_vjp, params, f"{name}.feed_forward", config)
    attention_norm = bind(normalize_vjp, params, f"{name}.attention_norm", config)
    ffn_norm = bind(normalize_vjp, params, f"{name}.ffn_norm", config)
    if config.norm_placement == "pre":
        return chain(residual(chain(attention_norm, attend)), residual(chain(ffn_norm, feed)))(x)
    return chain(residual(attend), attention_norm, residual(feed), ffn_norm)(x)


def attention_block(
    x: Array,
    params: Params,
    name: str,
    config: LlamaConfig,
    rope: Pair | None = None,
    mask: Array | None = None,
    cache: Pair | None = None,
) -> Array:
    """Let the positions look at each other: wo·attention(wq·x, wk·x, wv·x).

    Args:
        x: (B, T, D).
        params: arrays by state-dict name; the layer's begin with ``name``.
        rope: cos and sin of the T positions, (T, Dh/2) each; None turns nothing.
        mask: (T, S), True means may look.
        cache: keys and values of earlier positions, (B, K, ≥ S, Dh) each. The new ones are written into
            it, as the last T of the S that ``mask`` spans.

    Returns:
        (B, T, D).
    """
    q = _heads(x, params, f"{name}.wq", config, config.n_heads, rope)  # (B, H, T, Dh)
    k = _heads(x, params, f"{name}.wk", config, config.n_kv_heads, rope)  # (B, K, T, Dh)
    v = _heads(x, params, f"{name}.wv", config, config.n_kv_heads)  # (B, K, T, Dh)
    if cache is not None:
        k, v = (_extend(past, new, mask.shape[1]) for past, new in zip(cache, (k, v), strict=True))
    out = attention(q, k, v, mask)  # (B, H, T, Dh)
    return _project(merge_heads(out), params, f"{name}.wo", config)


def attention_block_vjp(
    x: Array, params: Params, name: str, config: LlamaConfig, rope: Pair | None = None, mask: Array | None = None
) -> VJP:
    """Return ``attention_block`` and its backward, d_out → (d_x, gradients by name)."""
    q, q_backward = _heads_vjp(x, params, f"{name}.wq", config, config.n_heads, rope)
    k, k_backward = _heads_vjp(x, params, f"{name}.wk", config, config.n_kv_heads, rope)
    v, v_backward = _heads_vjp(x, params, f"{name}.wv", config, config.n_kv_heads)
    out, attention_backward = attention_vjp(q, k, v, mask)
    out, out_backward = _project_vjp(merge_heads(out), params, f"{name}.wo", config)

    def backward(d_out: Array) -> tuple[Array, Params]:
        d_merged, out_gradients = out_backward(d_out)
        d_q, d_k, d_v = attention_backward(split_heads(d_merged, config.n_heads))
        d_xq, q_gradients = q_backward(d_q)
        d_xk, k_gradients = k_backward(d_k)
        d_xv, v_gradients = v_backward(d_v)
        return d_xq + d_xk + d_xv, add_gradients(q_gradients, k_gradients, v_gradients, out_gradients)

    return out, backward


def feed_forward(x: Array, params: Params, name: str, config: LlamaConfig) -> Array:
    """Apply the config's feed-forward layer to each position alone, (B, T, D) → (B, T, D)."""
    f, _ = FEED_FORWARDS[config.ffn]
    return f(x, *(params[weight] for weight in feed_forward_names(name, config)))


def feed_forward_vjp(x: Array, params: Params, name: str, config: LlamaConfig) -> VJP:
    """Return ``feed_forward`` and its backward, d_out → (d_x, gradients by name)."""
    _, f_vjp = FEED_FORWARDS[config.ffn]
    return named(f_vjp, params, feed_forward_names(name, config))(x)


def normalize(x: Array, params: Params, name: str, config: LlamaConfig) -> Array:
    """Apply the config's norm to each position alone, (B, T, D) → (B, T, D)."""
    f, _ = NORMS[config.norm]
    return f(x, *(params[part] for part in norm_names(name, config)), config.norm_eps)


def normalize_vjp(x: Array, params: Params, name: str, config: LlamaConfig) -> VJP:
    """Return ``normalize`` and its backward, d_out → (d_x, gradients by name)."""
    _, f_vjp = NORMS[config.norm]
    return named(f_vjp, params, norm_names(name, config), config.norm_eps)(x)


def _project(x: Array, params: Params, name: str, config: LlamaConfig) -> Array:
    return linear(x, *(params[part] for part in linear_names(name, config)))


def _project_vjp(x: Array, params: Params, name: str, config: LlamaConfig) -> VJP:
    return named(linear_vjp, params, linear_names(name, config))(x)


def _heads(x: Array, params: Params, name: str, config: LlamaConfig, n_heads: int, rope: Pair | None = None) -> Array:
    heads = split_heads(_project(x, params, name, config), n_heads)
    return heads if rope is None else apply_rope(heads, *rope)


def _heads_vjp(x: Array, params: Params, name: str, config: LlamaConfig, n_heads: int, rope: Pair | None = None) -> VJP:
    flat, project_backward = _project_vjp(x, params, name, config)
    heads = split_heads(flat, n_heads)
    if rope is None:
        return heads, lambda d_heads: project_backward(merge_heads(d_heads))
    heads, rope_backward = apply_rope_vjp(heads, *rope)
    return heads, lambda d_heads: project_backward(merge_heads(rope_backward(d_heads)))


def _extend(past: Array, new: Array, n_keys: int) -> Array:
    # The new positions are the last of the n_keys that the mask speaks of; behind them is free space.
    past[:, :, n_keys - new.shape[2] : n_keys] = new
    return past[:, :, :n_keys]


def linear_names(name: str, config: LlamaConfig) -> list[str]:
    """List a linear layer's weights in the order of ``linear``'s arguments."""
    biased = config.attention_bias if ".attention." in name else config.ffn_bias
    return [f"{name}.weight", f"{name}.bias"] if biased else [f"{name}.weight"]


def norm_names(name: str, config: LlamaConfig) -> list[str]:
    """List a norm's weights in the order of its arguments."""
    return [f"{name}.weight", f"{name}.bias"] if config.norm == "layer" else [f"{name}.weight"]


def feed_forward_names(name: str, config: LlamaConfig) -> list[str]:
    """List a feed-forward layer's weights in the order of its arguments: all matrices, then all biases."""
    matrices = ("w1", "w2", "w3") if config.ffn == "swiglu" else ("w1", "w2")
    kinds = ("weight", "bias") if config.ffn_bias else ("weight",)
    return [f"{name}.{matrix}.{kind}" for kind in kinds for matrix in matrices]
