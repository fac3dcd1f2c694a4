"""What one layer keeps of each token until its backward pass."""

# D model width, H heads, K kv heads, Dh head width, F ffn width, P processes along ``tensor``

from llama_minimal.config import LlamaConfig
from llama_minimal.cost.layout import Layout, Work

_ROWS = {"swiglu": 4, "gelu": 2, "relu": 1}


def layer_keeps(config: LlamaConfig, work: Work, layout: Layout | None = None) -> dict[str, float]:
    """Return the bytes that a process keeps of one token of one layer, by what keeps them.

    What PyTorch keeps is what the derivative reads. RMSNorm: its input, in float32. A matrix: its input. Attention:
    queries, keys, values, its result, and a number per head. SwiGLU: gate, way up, the bent gate and the product.

    With P processes along ``tensor`` each has a P-th part of the heads, of F and of the norms' tokens. But a matrix
    reads all tokens: they are gathered for it, and kept so (Korthikanti et al. 2022, §4.2.2, gather them a second time
    instead).

    Example:
        >>> from llama_minimal.config import preset
        >>> round(sum(layer_keeps(preset("llama-7b"), Work(seq_len=2048)).values()))
        170120
    """
    layout = layout or Layout()
    e, a, P = work.size, work.attention_size, layout.tensor
    q, k = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "norms": 2 * (norm_keeps(config, work, layout) + 4 / P),  # and 1/√(mean x²)
        "inputs of matrices": 2 * e * config.dim,
        "attention": (a * (2 * q + 2 * k) + 4 * config.n_heads + (e * q if a != e else 0)) / P,
        "feed-forward": e * _ROWS[config.ffn] * config.hidden_dim / P,
    }


def norm_keeps(config: LlamaConfig, work: Work, layout: Layout) -> float:
    """Return the bytes that a norm keeps of a token: x in float32, and where PyTorch differentiates, x / rms(x)."""
    normalized = 0 if is_by_hand(work, layout) else stream_size(work, layout)
    return (4 + normalized) * config.dim / layout.tensor


def is_by_hand(work: Work, layout: Layout) -> bool:
    """Whether the norm's derivative is the one written by hand: for plain float32 tensors."""
    return layout.tensor == 1 and stream_size(work, layout) == 4


def stream_size(work: Work, layout: Layout) -> int:
    """Return the bytes of a number in the residual stream: FSDP gathers 16 bits of a weight, and so it is 16."""
    return work.size if layout.shard and layout.data > 1 else 4
