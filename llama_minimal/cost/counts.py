"""What a LLaMA costs: parameters, arithmetic and memory, from the config alone."""

from dataclasses import dataclass

from llama_minimal.config import LlamaConfig
from llama_minimal.config.checks import check_integer, check_one_of
from llama_minimal.config.splitting import check_even

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Mixed or not, training here keeps float32 weights, gradients and AdamW's two moments. Rajbhandari et al. 2020, §3.1,
# come to 16 bytes by another sum: weights and gradients in half precision, and float32 weights and moments.
_TRAINING_BYTES = 4 + 4 + 8
_KEPT_ROWS = {"swiglu": 4, "gelu": 2, "relu": 1}


def parameters(config: LlamaConfig) -> dict[str, int]:
    """Count the parameters of each component; the sum is the size of the model.

    Example:
        >>> from llama_minimal.config import preset
        >>> sum(parameters(preset("llama-7b")).values())
        6738415616
    """
    D, F, V = config.dim, config.hidden_dim, config.vocab_size
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_layers = config.n_layers // config.share_layers
    n_matrices = 3 if config.ffn == "swiglu" else 2
    attention = 2 * D * q_dim + 2 * D * kv_dim
    feed_forward = n_matrices * D * F
    if config.attention_bias:
        attention += q_dim + 2 * kv_dim + D
    if config.ffn_bias:
        feed_forward += D + (n_matrices - 1) * F
    norm = D if config.norm == "rms" else 2 * D
    n_norms = 2 * n_layers + (config.norm_placement == "pre")
    return {
        "embeddings": V * D,
        "attention": n_layers * attention,
        "feed-forward": n_layers * feed_forward,
        "norms": n_norms * norm,
        "output": 0 if config.tie_embeddings else config.n_outputs * D,
    }


def flops_per_token(config: LlamaConfig, *, context: int) -> dict[str, float]:
    """Count the floating-point operations of one token's forward pass; training takes three times as many.

    A multiplication and its addition are two. Norms, activations and the softmax are left out: they are
    less than a hundredth at every published size (Kaplan et al. 2020, §2.1).

    Args:
        context: tokens that the token looks at, itself included. For the mean over a causal sequence of T
            tokens, give (T + 1) / 2.
    """
    D, F = config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_matrices = 3 if config.ffn == "swiglu" else 2
    return {
        "attention projections": config.n_layers * 2 * (2 * D * q_dim + 2 * D * kv_dim),
        "attention scores": config.n_layers * 2 * (2 * q_dim * context),
        "feed-forward": config.n_layers * 2 * n_matrices * D * F,
        "output": 2 * D * config.n_outputs,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Hold memory needs in bytes."""

    weights: int
    kv_cache: int
    """Of one sequence as long as the context."""
    training: int
    """Weights, gradients and AdamW's state in float32, without activations."""


def memory(config: LlamaConfig, *, precision: str = "bf16") -> Memory:
    """Return what the weights and a full key/value cache take in one precision, and what training takes.

    Raises:
        ValueError: if there is no such precision.
    """
    check_one_of("precision", precision, tuple(_BYTES))
    n = sum(parameters(config).values())
    per_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    return Memory(
        weights=n * _BYTES[precision],
        kv_cache=per_token * config.max_seq_len * _BYTES[precision],
        training=n * _TRAINING_BYTES,
    )


def layer_activations(
    config: LlamaConfig, *, tensor: int = 1, sequence_parallel: bool = True, precision: str = "bf16"
) -> float:
    """Return the bytes that one layer keeps of each token for the backward pass, on one rank.

    Of width D: what enters the two norms, in float32, what they make of it, and the inputs of the matrices behind
    them (RMSNorm). Then queries, keys, values and what attention returns, but no scores. And of width F: SwiGLU's gate,
    way up, bent gate and product; GELU's input and output; ReLU's output.

    Args:
        tensor: ranks that share the layer.
        sequence_parallel: whether these share the norms' tokens, too, instead of keeping all of them on each.

    Raises:
        ValueError: if there is no such precision, or the layer cannot be shared so.

    Source: in the manner of Korthikanti et al. 2022, "Reducing activation recomputation in large transformer models",
    §4, whose layer has LayerNorm, GELU and dropout, and keeps the scores.
    """
    check_one_of("precision", precision, tuple(_BYTES))
    check_even(config, check_integer("tensor", tensor), sharers="ranks")
    size, D, F = _BYTES[precision], config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    # In float32 an RMSNorm computes anew what it has before its scale.
    recomputed = size if precision == "fp32" and config.norm == "rms" else 0
    norms = 2 * (4 + 2 * size - recomputed) * D
    inside = size * (2 * q_dim + 2 * kv_dim + _KEPT_ROWS[config.ffn] * F)
    return inside / tensor + norms / (tensor if sequence_parallel else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Hold what the fullest rank of a training run needs, in bytes."""

    states: float
    """Weights, gradients and the optimizer's state."""
    activations: float
    """What the layers keep for the backward pass; without the logits."""

    @property
    def total(self) -> float:
        """Both together."""
        return self.states + self.activations


def training_memory(
    config: LlamaConfig,
    *,
    tokens: int,
    tensor: int = 1,
    pipeline: int = 1,
    shards: int = 1,
    checkpointing: bool = False,
    sequence_parallel: bool = True,
    precision: str = "bf16",
) -> RankMemory:
    """Return what the fullest rank needs: 16 bytes of states for each of its parameters, and its activations.

    The fullest is the first stage of the pipeline: it has the embedding (the last has the output, as large), and under
    1F1B it holds the activations of as many micro-batches as there are stages.

    Args:
        tokens: of one micro-batch.
        tensor, pipeline: ranks that share each layer, and stages.
        shards: ranks along ``data`` that share the states (FSDP, ZeRO 3).
        checkpointing: keep each layer's input only, and one layer's activations while its backward pass runs.
        sequence_parallel, precision: as for ``layer_activations``.

    Raises:
        ValueError: if a number is out of range, or the model cannot be shared so.
    """
    for name, value in (("tokens", tokens), ("pipeline", pipeline), ("shards", shards)):
        check_integer(name, value)
    if pipeline > config.n_layers:
        raise ValueError(
            f"pipeline={pipeline} needs a layer for each stage, and the model has n_layers={config.n_layers}; "
            f"give {config.n_layers} or fewer"
        )
    of_part = parameters(config)
    ends = of_part["embeddings"], of_part["output"]
    of_layers = sum(of_part.values()) - sum(ends)
    layers = -(-config.n_layers // pipeline)
    # The few weights of the last norm are counted with the layers.
    n = of_layers * layers / config.n_layers + (sum(ends) if pipeline == 1 else max(ends))
    of_layer = layer_activations(config, tensor=tensor, sequence_parallel=sequence_parallel, precision=precision)
    per_token = layers * pipeline * of_layer
    if checkpointing:
        of_input = _BYTES[precision] * config.dim / (tensor if sequence_parallel else 1)
        per_token = layers * pipeline * of_input + of_layer
    return RankMemory(states=n * _TRAINING_BYTES / (tensor * shards), activations=tokens * per_token)
