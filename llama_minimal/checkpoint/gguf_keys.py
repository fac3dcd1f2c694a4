"""What a GGUF file says of a model's shape: its keys, and the names of its tensors.

llama.cpp takes a key that is left out for a default, without a word: the comments say which.
"""

import re
from typing import Any

import torch
from torch import Tensor

from llama_minimal.checkpoint.huggingface_config import not_expressible
from llama_minimal.config import LlamaConfig, RopeScaling
from llama_minimal.positions import rope_frequencies

_TOP = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
_LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
DIVISORS = "rope_freqs.weight"


def check_config(config: LlamaConfig) -> None:
    """Refuse a model that the format's LLaMA cannot be.

    Raises:
        ValueError: with the switches that it does not know.
    """
    other = not_expressible(config)
    if config.labels:
        other.append(f"labels={config.labels!r}")
    if (scaling := config.rope_scaling) and scaling.kind == "yarn":
        fixed = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}  # llama.cpp's own, which no key changes
        other += [
            f"yarn with {n}={getattr(scaling, n)!r}" for n, value in fixed.items() if getattr(scaling, n) != value
        ]
    if other:
        raise ValueError(f"the LLaMA of GGUF files has no {', '.join(other)}; save with format='native'")


def model_values(config: LlamaConfig) -> dict[str, Any]:
    """Return the keys that describe the model, without ``llama.`` in front; whole numbers are int, others float."""
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,  # left out: as many as query heads
        "attention.key_length": config.head_dim,  # these three left out: dim / n_heads
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.freq_base": _base(config),  # left out: 10000
        **_scaling_values(config.rope_scaling),  # left out: none
    }


def _base(config: LlamaConfig) -> float:
    """Return θ; ``ntk`` and ``dynamic`` scaling are the same as another one."""
    if config.rope_scaling is None:
        return float(config.rope_theta)
    power = config.head_dim / max(config.head_dim - 2, 1)  # with two features nothing is stretched so
    return float(config.rope_theta * config.rope_scaling.ntk_factor(config.max_seq_len) ** power)


def _scaling_values(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None or scaling.kind not in ("linear", "yarn"):
        return {}
    values = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        usual = RopeScaling(kind="yarn", factor=scaling.factor).amplitude  # the reader multiplies by it anyway
        values["rope.scaling.original_context_length"] = scaling.original_max_seq_len  # left out: context_length
        values["rope.scaling.attn_factor"] = scaling.amplitude / usual
    return values


def rope_divisors(config: LlamaConfig) -> Tensor | None:
    """Return by what llama3's scaling divides the angle of each pair, (Dh/2,); the format knows it as a tensor."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    plain, scaled = (
        rope_frequencies(config.head_dim, config.rope_theta, scaling, dtype=torch.float64)
        for scaling in (None, config.rope_scaling)
    )
    return (plain / scaled).float()


def gguf_name(name: str) -> str:
    """Return the name in a GGUF file of a tensor of ours.

    Example:
        >>> gguf_name("layers.3.attention.wq.weight")
        'blk.3.attn_q.weight'
    """
    if found := re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name):
        return f"blk.{found[1]}.{_LAYER[found[2]]}.{found[3]}"
    module, _, part = name.rpartition(".")
    return f"{_TOP[module]}.{part}"
