"""The ``config.json`` of the transformers library, in and out."""

from typing import Any

from llama_minimal.checkpoint.huggingface_rope import rope_from_huggingface, rope_to_huggingface
from llama_minimal.config import LlamaConfig

_SAME = {  # their config field: ours
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "intermediate_size": "hidden_dim",
    "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}
_CLASSIFIER = "LlamaForSequenceClassification"


def config_from_huggingface(values: dict[str, Any]) -> LlamaConfig:
    """Translate a ``config.json`` of the transformers library.

    Raises:
        ValueError: if it is no LLaMA, or uses what we do not have.
    """
    if values.get("model_type") != "llama":  # whatever its head
        raise ValueError(f"it describes a {values.get('model_type')!r} model; only 'llama' models can be loaded")
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [name for name in needed if values.get(name) is None]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    theta, scaling = rope_from_huggingface(values)
    attention_bias, ffn_bias = bool(values.get("attention_bias", False)), bool(values.get("mlp_bias", False))
    config = LlamaConfig(
        **{"norm_eps": 1e-6}  # their default, where ours is 1e-5
        | {ours: values[theirs] for theirs, ours in _SAME.items() if values.get(theirs) is not None},
        rope_theta=theta,
        rope_scaling=scaling,
        bias=attention_bias if attention_bias == ffn_bias else "attention" if attention_bias else "feed_forward",
    )
    if _CLASSIFIER in (values.get("architectures") or ()):
        config = config.replace(labels=_labels(values), tie_embeddings=False)  # it has no output layer to tie
    if (activation := values.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"it has hidden_act={activation!r}; only 'silu' can be loaded here")
    if quantized := values.get("quantization_config"):
        raise ValueError(f"it has quantization_config={quantized!r}; get a version that is not quantized")
    return config


def _labels(values: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels in the order of their outputs; the library's own names where there are none."""
    named = values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(values.get("num_labels", 2))}
    return tuple(str(named[key]) for key in sorted(named, key=int))


def config_to_huggingface(config: LlamaConfig) -> dict[str, Any]:
    """Translate to a ``config.json`` of the transformers library.

    Raises:
        ValueError: if a switch has a value that its LLaMA does not know.
    """
    if other := not_expressible(config):
        raise ValueError(f"the transformers library's LLaMA has no {', '.join(other)}; save with format='native'")
    labels = dict(enumerate(config.labels or ()))
    return {
        "architectures": [_CLASSIFIER if labels else "LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{theirs: getattr(config, ours) for theirs, ours in _SAME.items()},
        **rope_to_huggingface(config),
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ffn_bias,
    } | ({"id2label": labels, "label2id": {label: i for i, label in labels.items()}} if labels else {})


def not_expressible(config: LlamaConfig) -> list[str]:
    """Return the switches whose value the LLaMA of transformers (and Meta's) does not know, as ``name=value``."""
    known = {"norm": "rms", "norm_placement": "pre", "ffn": "swiglu", "position": "rope", "share_layers": 1}
    other = [f"{name}={getattr(config, name)!r}" for name, value in known.items() if getattr(config, name) != value]
    return other + ([f"dim={config.dim} with n_heads={config.n_heads}"] if config.dim % config.n_heads else [])
