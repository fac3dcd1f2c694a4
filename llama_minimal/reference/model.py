"""The whole LLaMA on state-dict names: logits, loss and every gradient.

Each function stands before its twin: the plain forward, then the forward that also returns its backward.
There is no tape and no engine: the backwards are composed as ``compose`` says.
"""

# B batch, T time, D model width, K kv heads, Dh head width, F ffn width, V vocabulary

import math

import numpy as np

from llama_minimal.config import LlamaConfig
from llama_minimal.reference._types import VJP, Array
from llama_minimal.reference.attention import causal_mask
from llama_minimal.reference.block import Pair, block, block_vjp, linear_names, norm_names, normalize, normalize_vjp
from llama_minimal.reference.compose import Params, add_gradients, bind, chain, named
from llama_minimal.reference.embedding import embedding, embedding_vjp
from llama_minimal.reference.feedforward import linear, linear_vjp
from llama_minimal.reference.loss import next_token_loss_vjp
from llama_minimal.reference.positions import rope_table, sinusoidal_table


def parameter_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """List the parameters of a model: the shape of each by its state-dict name."""
    D, F, V = config.dim, config.hidden_dim, config.vocab_size
    Q, K = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    matrices = {"attention.wq": (Q, D), "attention.wk": (K, D), "attention.wv": (K, D), "attention.wo": (D, Q)}
    matrices |= {"feed_forward.w1": (F, D), "feed_forward.w2": (D, F)}
    if config.ffn == "swiglu":
        matrices["feed_forward.w3"] = (F, D)

    shapes = {"tok_embeddings.weight": (V, D)}
    for i in range(0, config.n_layers, config.share_layers):
        for matrix, (rows, columns) in matrices.items():
            for name in linear_names(f"layers.{i}.{matrix}", config):
                shapes[name] = (rows, columns) if name.endswith("weight") else (rows,)
        for norm in ("attention_norm", "ffn_norm"):
            shapes |= dict.fromkeys(norm_names(f"layers.{i}.{norm}", config), (D,))
    if config.norm_placement == "pre":
        shapes |= dict.fromkeys(norm_names("norm", config), (D,))
    return shapes | {_output_name(config): (V, D)}


def init_params(config: LlamaConfig, seed: int) -> Params:
    """Draw the parameters of a new model, in float64.

    Matrices are normal with deviation 0.02; those that write to the residual stream (wo, w2) are divided
    by √(2·n_layers). Norms start as the identity, biases at zero.

    Source: Radford et al. 2018, "GPT-1", §4.1 (0.02); 2019, "GPT-2", §2.3 (1/√N).
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        if name.endswith("bias"):
            return np.zeros(shape)
        if name.endswith("norm.weight"):
            return np.ones(shape)
        # 2·n_layers outputs add up in the stream; divided so, their sum is as wide as one of them was.
        terms = 2 * config.n_layers if name.endswith(("wo.weight", "w2.weight")) else 1
        return rng.normal(0, 0.02 / math.sqrt(terms), shape)

    return {name: draw(name, shape) for name, shape in parameter_shapes(config).items()}


def llama(
    params: Params, tokens: Array, config: LlamaConfig, *, cache: list[Pair] | None = None, start: int = 0
) -> Array:
    """Score every possible next token at every position.

    Args:
        params: arrays by state-dict name.
        tokens: integers in [0, V), (B, T).
        cache: for each layer its keys and values, (B, K, ≥ start + T, Dh) each. The first ``start``
            positions hold the past; this call fills the next T. None where there is no past.
        start: position of the first token.

    Returns:
        Logits (B, T, V).

    Source: Touvron et al. 2023, §2.2.
    """
    added, rope, mask = _positions(config, start, start + tokens.shape[1])
    x = embedding(tokens, params["tok_embeddings.weight"])  # (B, T, D)
    x = x + added.astype(x.dtype)
    for i in range(config.n_layers):
        x = block(x, params, _layer_name(i, config), config, rope, mask, cache and cache[i])
    if config.norm_placement == "pre":
        x = normalize(x, params, "norm", config)
    return linear(x, params[_output_name(config)])


def llama_vjp(params: Params, tokens: Array, config: LlamaConfig) -> VJP:
    """Return ``llama`` and its backward, d_logits → gradients by name."""
    added, rope, mask = _positions(config, 0, tokens.shape[1])
    x, embedding_backward = embedding_vjp(tokens, params["tok_embeddings.weight"])
    x = x + added.astype(x.dtype)
    stages = [bind(block_vjp, params, _layer_name(i, config), config, rope, mask) for i in range(config.n_layers)]
    if config.norm_placement == "pre":
        stages.append(bind(normalize_vjp, params, "norm", config))
    stages.append(named(linear_vjp, params, [_output_name(config)]))
    logits, stages_backward = chain(*stages)(x)

    def backward(d_logits: Array) -> Params:
        d_x, gradients = stages_backward(d_logits)
        return add_gradients(gradients, {"tok_embeddings.weight": embedding_backward(d_x)})

    return logits, backward


def loss_and_gradients(
    params: Params, tokens: Array, targets: Array, config: LlamaConfig, weights: Array | None = None
) -> tuple[np.floating, Params]:
    """Return the mean loss per target, total/count of ``next_token_loss``, and its gradients by name."""
    logits, llama_backward = llama_vjp(params, tokens, config)
    (total, count), loss_backward = next_token_loss_vjp(logits, targets, weights)
    return total / count, llama_backward(loss_backward(1 / count))


def _positions(config: LlamaConfig, start: int, stop: int) -> tuple[Array, Pair | None, Array]:
    # What the positions start … stop − 1 add to the embeddings, how they turn q and k, whom they may look at.
    added, rope = np.zeros(()), None
    if config.position == "sinusoidal":
        added = sinusoidal_table(config.dim, stop)[start:]
    if config.position == "rope":
        cos, sin = rope_table(config.head_dim, stop, config.rope_theta, config.rope_scaling, context=config.max_seq_len)
        rope = cos[start:], sin[start:]
    return added, rope, causal_mask(stop - start, stop)


def _layer_name(i: int, config: LlamaConfig) -> str:
    # Layers that share weights go by the name of the first of them.
    return f"layers.{i // config.share_layers * config.share_layers}"


def _output_name(config: LlamaConfig) -> str:
    return "tok_embeddings.weight" if config.tie_embeddings else "output.weight"
